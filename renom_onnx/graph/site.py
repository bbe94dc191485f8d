"""The user's line: one ``(file, line)`` per element, so that every error can say where its element was made."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent)

Site = tuple[str, int]
"""File and line; of a node that was read from a model, its name and 0."""


def user_site() -> Site:
    """Return file and line of the innermost frame that is not in this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def created_at(site: Site) -> str:
    """Return the closing sentence of an error about an element: ``Created at model.py:29.``."""
    if site[1] == 0:
        return f"It is node {site[0]!r} of the model."
    return f"Created at {Path(site[0]).name}:{site[1]}."
