"""Rows added where indices say, the gradient of an embedding, as a product with one-hot rows.

ScatterElements adds number by number, on one core. For a small vocabulary a product of the same result takes as long on
one core, and all cores share it; the update of the weights then reads a product like any other.
"""

from __future__ import annotations

import onnx

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.rewrite import Rewrite
from renom_onnx.converters.step_graph import attribute

MAX_ROWS = 256
"""Of the weights: from here on a core has more to multiply than to add."""
MAX_ELEMENTS = 1 << 22
"""Of the one-hot rows, which lie in memory."""


def with_products_of_rows(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step that adds rows to zeros by products, where there are few places for them.

    Args:
        model: a step, whose calls are written out.
        shapes: of the step's values.
    """
    if not any(node.op_type == "ScatterElements" and _adds_rows(node) for node in model.graph.node):
        return model
    step = Rewrite(model, shapes)
    for i, node in step.candidates("ScatterElements"):
        if _adds_rows(node):
            _multiply(step, i, node)
    return step.model()


def _adds_rows(node: onnx.NodeProto) -> bool:
    return bool(attribute(node, "axis", 0) == 0 and attribute(node, "reduction", "none") == "add")


def _multiply(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """Zeros with rows added at index are one-hot times rows, whose line v has 1 where index is v."""
    zeros, index, rows = node.input
    repeated, size = step.made_by(index, "Expand"), step.shapes.get(zeros, ())
    n = step.shapes.get(rows, ())[:1]
    if repeated is None or step.made_by(zeros, "ConstantOfShape") is None or len(size) != 2 or not n:
        return
    if not 0 < size[0] <= MAX_ROWS or not 0 < size[0] * n[0] <= MAX_ELEMENTS or step.shapes[rows] != (*n, size[1]):
        return
    nothing = step.node(node, "Expand", [step.constant(0), step.constant([size[0], *n], "int64")])
    line = step.node(node, "Reshape", [repeated.input[0], step.constant([1, -1], "int64")])
    ones = step.constant([[1] * n[0]])
    one_hot = step.node(node, "ScatterElements", [nothing.output[0], line.output[0], ones], axis=0)
    step.shapes.tell(one_hot.output[0], (size[0], *n))
    product = step.node(node, "Gemm", [one_hot.output[0], rows], node.output[0])
    step.replace(i, [nothing, line, one_hot, product])
