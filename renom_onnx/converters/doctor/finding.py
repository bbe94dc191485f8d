"""A finding: something in a file that its owner should know."""

from __future__ import annotations

from dataclasses import dataclass

DANGER, PROBLEM, NOTE = "danger", "problem", "note"
"""A danger may harm the machine, a problem keeps the model from working somewhere, a note is good to know."""


@dataclass(frozen=True)
class Finding:
    """One sentence about the file.

    Attributes:
        level: "danger", "problem" or "note".
        where: the part of the model, or the runtime.
        text: the sentence.
    """

    level: str
    where: str
    text: str
