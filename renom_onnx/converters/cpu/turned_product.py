"""Products that turn an operand as they read it, in the place of a Transpose.

Attention lays out its heads by a Transpose, and the gradients of its products swap the last two axes of what it made.
onnxruntime joins two Transposes into one, so that both layouts are written; its own product, `FusedMatMul`, reads the
first as it lies. The numbers are the same but for the last bits. These nodes are written for the session that is about
to be opened, never into a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.cpu.contrib import CONTRIB, declare, probe_of
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.rewrite import Rewrite
from renom_onnx.converters.step_graph import attribute


def turned_probe() -> tuple[bytes, dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Return a model of one such node, what to feed it, and what it returns where it does as told above."""
    a = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    feeds = {"a": a, "b": a + 1}
    return probe_of("FusedMatMul", feeds, transA=1), feeds, a.swapaxes(1, 2) @ feeds["b"]


def with_turned_products(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose products read what a Transpose made, not what another makes of that.

    Args:
        model: a step, whose calls are written out.
        shapes: of its values.
    """
    step = Rewrite(model, shapes)
    for i, node in step.candidates("MatMul"):
        sources = [_source(step, name) for name in node.input]
        if any(sources) and all(name in shapes for name in node.input):
            operands = [source or name for source, name in zip(sources, node.input, strict=True)]
            turned = {key: 1 for key, source in zip(("transA", "transB"), sources, strict=True) if source}
            step.replace(i, [step.node(node, "FusedMatMul", operands, node.output[0], domain=CONTRIB, **turned)])
    changed = step.model()
    if changed is not model:
        declare(changed, CONTRIB)
    return changed


def _source(step: Rewrite, name: str) -> str:
    """Return what a value is but for its last two axes, if that comes from a Transpose in turn; else ""."""
    swap = step.made_by(name, "Transpose")
    if swap is None or step.made_by(swap.input[0], "Transpose") is None:
        return ""
    perm = list(attribute(swap, "perm", []))
    n = len(perm)
    return str(swap.input[0]) if n > 2 and perm == [*range(n - 2), n - 1, n - 2] else ""
