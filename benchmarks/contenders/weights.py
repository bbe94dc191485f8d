"""The weights of a trainable file, as peers take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STATISTICS = ("mean", "var")


def read(path: Path) -> dict[str, Any]:
    """Return the weights by name, in tree order, without running statistics."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    mutable = {b.key for b in model.training_info[0].update_binding}
    return {
        t.name: numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.name in mutable and t.name.rsplit(".", 1)[-1] not in STATISTICS
    }


def groups(weights: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the weights of each layer by their last names; w_q and b_q of an attention are a layer of their own."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, array in weights.items():
        layer, _, key = name.rpartition(".")
        key, _, part = key.partition("_")
        found.setdefault((layer, part), {})[key] = array
    return list(found.values())
