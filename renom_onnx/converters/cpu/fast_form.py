"""Nodes in the forms that the CPU's kernels are fastest at.

The meaning is that of the file; so are the numbers, but for the last bits and for a Relu whose output is above 0 and
below 3e-39, where its gradient is smaller than it should be. These nodes are written for the session that is about to
be opened, never into a file.
"""

from __future__ import annotations

import onnx

from renom_onnx.converters.cpu.added_rows import with_products_of_rows
from renom_onnx.converters.cpu.fused_update import fuse_updates
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.rewrite import Rewrite
from renom_onnx.converters.cpu.scaled_product import with_scaled_products
from renom_onnx.converters.step_graph import attribute

STEEP = 3e38
"""Slope of the HardSigmoid that is a step: the largest, nearly, that float32 has."""


def with_fast_forms(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step with masks, losses over class indices, gradients of embeddings, and updates in faster forms.

    Args:
        model: a step, whose calls are written out.
        shapes: of the step's values.
    """
    step = Rewrite(with_products_of_rows(with_scaled_products(model, shapes), shapes), shapes)
    for i, node in step.candidates("Cast"):
        _mask(step, i, node)
    for i, node in step.candidates("SoftmaxCrossEntropyLoss"):
        _cross_entropy(step, i, node)
    for i, node in step.candidates("ScatterElements"):
        _subtract_at(step, i, node)
    fuse_updates(step)
    return step.model()


def _mask(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """[y > 0] = min(max(3e38 y, 0), 1), one pass in the place of two."""
    condition = step.made_by(node.input[0], "Greater", reads=1)
    if condition is None or attribute(node, "to", 0) != onnx.TensorProto.FLOAT:
        return
    y, bound = condition.input
    if y in step.shapes and step.size(bound) == 1 and step.number(bound) == 0:
        step.replace(i, [step.node(node, "HardSigmoid", [y], node.output[0], alpha=STEEP, beta=0.0)])


def _cross_entropy(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """The mean or sum of -log softmax(x)[t]; onnxruntime writes this operator out in twice as many nodes."""
    reduction = attribute(node, "reduction", "mean")
    has_weights = len(node.input) > 2 and node.input[2]
    if has_weights or attribute(node, "ignore_index", None) is not None or reduction == "none":
        return
    if node.input[0] not in step.shapes:
        return
    log_p = node.output[1] if len(node.output) > 1 and node.output[1] else ""
    softmax = step.node(node, "LogSoftmax", [node.input[0]], log_p, axis=1)
    index = step.node(node, "Unsqueeze", [node.input[1], step.constant([1], "int64")])
    there = step.node(node, "GatherElements", [softmax.output[0], index.output[0]], axis=1)
    total = step.node(node, "ReduceMean" if reduction == "mean" else "ReduceSum", [there.output[0]], keepdims=0)
    loss = step.node(node, "Neg", [total.output[0]], node.output[0])
    step.replace(i, [softmax, index, there, total, loss])


def _subtract_at(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """X with x[index] - number put at index is x with -number added there."""
    x, index, updates = node.input
    difference = step.made_by(updates, "Sub", reads=1)
    old = None if difference is None else step.made_by(difference.input[0], "GatherElements", reads=1)
    axis = attribute(node, "axis", 0)
    if difference is None or old is None or attribute(node, "reduction", "none") != "none":
        return
    if list(old.input) == [x, index] and attribute(old, "axis", 0) == axis and step.size(difference.input[1]) == 1:
        number = step.node(node, "Neg", [difference.input[1]])
        size = step.node(node, "Shape", [index])
        there = step.node(node, "Expand", [number.output[0], size.output[0]])
        added = [x, index, there.output[0]]
        put = step.node(node, "ScatterElements", added, node.output[0], axis=axis, reduction="add")
        step.replace(i, [number, size, there, put])
