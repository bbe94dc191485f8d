"""Which inputs of a model are positions along an axis or numbers of classes, and how far they may go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.structure import (
    bare_model,
    domain_of,
    drop_unused,
    inferred_types,
    label_of,
    subgraphs,
    value_names,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.errors import ConversionError
from renom_onnx.graph.function import DOMAIN

SAME = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
"""Operators that pass on every number of their first operand."""

SOME: Mapping[str, slice] = {
    "Concat": slice(None),
    "Gather": slice(1),
    "GatherElements": slice(1),
    "GatherND": slice(1),
    "Slice": slice(1),
    "Split": slice(1),
    "Where": slice(1, 3),
}
"""Operators that pass on numbers of operands, but not all; of which ones."""

CLASSES = frozenset({"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"})
"""Operators whose second operand numbers classes, along axis 1 of the first."""

POSITIONS: Mapping[str, int] = {"Gather": 0, "GatherElements": 0, "ScatterElements": 0}
"""Operators whose second operand numbers positions of the first; the default axis."""


@dataclass(frozen=True)
class IndexRead:
    """An input whose integers an operator takes for positions along an axis.

    Attributes:
        feed: name of the input.
        node: name of the operator's node.
        operator: its type.
        operand: name of the tensor that the axis belongs to.
        axis: of this tensor.
        size: of the axis.
        are_classes: whether the integers are numbers of classes, which are not counted from the end.
        ignored: a class that counts for nothing, in range or not.
        is_whole: whether all integers of the input get there.
    """

    feed: str
    node: str
    operator: str
    operand: str
    axis: int
    size: int
    are_classes: bool
    ignored: int | None
    is_whole: bool

    @property
    def lowest(self) -> int:
        """The smallest integer that is in range."""
        return 0 if self.are_classes else -self.size


def indexing_part(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return what inputs that are indices, and the tensors that they index, are made by; None where none is an index.

    Large weights are inputs of it.
    """
    model = _without_foreign_calls(model)
    found = [node for node, _, _ in _found(model.graph)]
    if not found:
        return None
    wanted = {name for node in found for name in node.output}
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input, *(value_names(body) for body in subgraphs(node)))
    part = bare_model(model, model.graph, wanted)
    drop_unused(part)
    return part


def _without_foreign_calls(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with those functions written out that an exporter wrote; they may look up what they are given."""
    if all(domain_of(function) == DOMAIN for function in model.functions):
        return model
    try:
        return inline_calls(bare_model(model, model.graph), lambda key: key[0] != DOMAIN)
    except ConversionError:  # functions that onnxruntime may write out, or refuse, by itself
        return model


def index_reads(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> list[IndexRead]:
    """Return the inputs that are indices, in the order of their readers; those of axes of unknown size are left out.

    Args:
        model: any, as `indexing_part` returns it.
        shapes: of inputs, by name, where they are known better than the model tells.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    for value in graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(
                onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[value.name]
            )
    types = inferred_types(model, graph)
    reads = []
    for node, feed, is_whole in _found(graph):
        operand = node.input[0]
        shape = value_type(types[operand])[1] if operand in types else None
        settings = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        axis = 1 if node.op_type in CLASSES else settings.get("axis", POSITIONS.get(node.op_type, 0))
        if shape is None or not -len(shape) <= axis < len(shape):
            continue
        size = shape[axis]
        if isinstance(size, int):
            are_classes = node.op_type in CLASSES
            ignored = settings.get("ignore_index") if are_classes else None
            place = (node.op_type, operand, axis % len(shape), size)
            reads.append(IndexRead(feed, label_of(node), *place, are_classes, ignored, is_whole))
    return reads


def _found(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str, bool]]:
    """Yield the operators that an input tells positions, with its name and whether all of it gets there."""
    constants = {tensor.name for tensor in graph.initializer}
    carried = {value.name: (value.name, True) for value in graph.input if value.name not in constants}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if (node.op_type in CLASSES or node.op_type in POSITIONS) and node.input[1] in carried:
            yield node, *carried[node.input[1]]
        passed = slice(1) if node.op_type in SAME else SOME.get(node.op_type, slice(0))
        sources = {carried[name] for name in node.input[passed] if name in carried}
        if sources:
            feed, is_whole = min(sources)
            carried.update((name, (feed, is_whole and node.op_type in SAME)) for name in node.output)
