"""Sums x + y s of weights, or of rows, with a number s, as one node.

The operators of the standard take a pass for the product and one for the sum. onnxruntime has a node of its own for
both, `GatedAdd`, which networks with gated residuals use: x + y gate, with one number of the gate for each row.
Optimizers consist of such sums. The numbers are the same to the last bit. These nodes are written for the session
that is about to be opened, never into a file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.cpu.contrib import CONTRIB, declare, probe_of
from renom_onnx.converters.cpu.known_shapes import KnownShapes, Sizes
from renom_onnx.converters.cpu.rewrite import Rewrite

MIN_COLUMNS = 32
"""Of a row: shorter ones cost more than the pass that is saved."""
MAX_ROW = 1 << 16
"""Elements of a single row, which the node leaves to one thread."""

Gates = dict[tuple[str, Sizes, bool], str]
"""Values that are numbers for rows, by the number, their sizes, and whether its sign is turned."""


def gated_probe() -> tuple[bytes, dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Return a model of one such node, what to feed it, and what it returns where it does as told above."""
    values = {"x": [[1.0, 2.0], [3.0, 4.0]], "y": [[1.0, 1.0], [2.0, 2.0]], "gate": [[0.5], [-1.0]]}
    feeds = {name: np.array(value, np.float32) for name, value in values.items()}
    return probe_of("GatedAdd", feeds), feeds, feeds["x"] + feeds["y"] * feeds["gate"]


def with_gated_sums(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose sums x + y s and differences x - y s are one node each.

    Args:
        model: a step, whose calls are written out.
        shapes: of its values.
    """
    step = Rewrite(model, shapes)
    gates: Gates = {}
    for i, node in step.candidates("Add", "Sub", "Sum"):
        _join(step, i, node, gates)
    changed = step.model()
    if changed is not model:
        declare(changed, CONTRIB)
    return changed


def _join(step: Rewrite, i: int, node: onnx.NodeProto, gates: Gates) -> None:
    """Write x + y s where x and y have one size and s is a number, or one for each row."""
    shape = step.shapes.get(node.output[0], ())
    if len(node.input) != 2 or not shape or shape[-1] < MIN_COLUMNS or (math.prod(shape) == shape[-1] > MAX_ROW):
        return
    is_sum = node.op_type != "Sub"
    for x, product in [node.input, node.input[::-1]] if is_sum else [node.input]:
        scaled = step.made_by(product, "Mul", reads=1)
        for y, s in [] if scaled is None else [scaled.input, scaled.input[::-1]]:
            if step.shapes.get(x) == step.shapes.get(y) == shape:
                gate = _gate(step, node, s, (*shape[:-1], 1), not is_sum, gates)
                if gate:
                    step.replace(i, [step.node(node, "GatedAdd", [x, y, gate], node.output[0], domain=CONTRIB)])
                    return


def _gate(step: Rewrite, node: onnx.NodeProto, s: str, shape: Sizes, is_negative: bool, gates: Gates) -> str:
    """Return a value of this shape that is s or -s, made once for all who read it; "" where s cannot be."""
    key = s, shape, is_negative
    number = step.number(s)
    if key in gates:
        return gates[key]
    if number is not None:
        gates[key] = step.constant(np.full(shape, -number if is_negative else number))
        return gates[key]
    if step.size(s) != 1 and step.shapes.get(s) != shape:
        return ""
    if is_negative:
        sign = s, (), True
        if sign not in gates:
            gates[sign] = _added(step, step.node(node, "Neg", [s]))
        s = gates[sign]
    if step.shapes.get(key[0]) != shape:
        s = _added(step, step.node(node, "Expand", [s, step.constant(shape, np.int64)]))
    gates[key] = s
    return s


def _added(step: Rewrite, node: Any) -> str:
    step.add(node)
    return str(node.output[0])
