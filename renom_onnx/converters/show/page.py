"""`write_page`: a model as one HTML file that a browser shows, without any network."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from renom_onnx.converters.show.scene import scene
from renom_onnx.converters.show.source import open_source
from renom_onnx.graph.whole_file import write_whole

SCRIPTS = ("layout.js", "paint.js", "viewer.js")


def page(model: Any, *, batch_size: int = 1, sizes: Mapping[str, int] | None = None) -> str:
    """Return the page as text; see `write_page`."""
    found = scene(open_source(model, training=True), sizes, batch_size)
    files = resources.files("renom_onnx.converters.show")
    text, style, *scripts = (
        files.joinpath(name).read_text("utf-8") for name in ("viewer.html", "viewer.css", *SCRIPTS)
    )
    data = json.dumps(found.plain(), ensure_ascii=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # nothing in a model ends the script
    parts = {"title": html.escape(found.name), "style": style, "data": data, "script": "".join(scripts)}
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], text)


def write_page(
    model: Any,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Write a picture of a model that a browser shows: one HTML file, which needs no network.

    Forward, gradient and update nodes have three colours. A click tells operator, attributes, types and work of a node;
    functions and the bodies of control flow open in place; the training step and the inference reading can be switched.

    Args:
        model: a path, bytes, ModelProto, element, layer or loss.
        path: of the page.
        batch_size: rows of a batch, for the work of each node.
        sizes: numbers for other symbols.

    Raises:
        ConversionError: it is no ONNX model.
        OSError: there is no such file.

    Example:
        >>> import tempfile, pathlib, renom_onnx as rm
        >>> model = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rm.converters.write_page(model, pathlib.Path(folder, "dense.html"))
    """
    text = page(model, batch_size=batch_size, sizes=sizes)
    write_whole(path, lambda file: file.write(text.encode()))
