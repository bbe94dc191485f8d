"""A graph written as it was read: the file's names, order, documentation and opset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import numpy_helper

from renom_onnx.converters.importer import captured
from renom_onnx.converters.writer import constant_proto, node_proto
from renom_onnx.graph.node import Constant, Mutable, Node, Static, Value
from renom_onnx.graph.note import Opaque


def shell_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without its nodes and without the data of its initializers; the model is left alone."""
    shell = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(shell, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name not in ("node", "initializer"):
            _copy_field(shell.graph, field.name, value)
    for tensor in model.graph.initializer:
        shell.graph.initializer.add(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string
        )
    return shell


def _copy_field(target: object, name: str, value: object) -> None:
    if isinstance(value, str | int | bytes):
        setattr(target, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)


def model_as_read(shell: onnx.ModelProto, nodes: Iterable[Node], initializers: Mapping[str, Value]) -> onnx.ModelProto:
    """Return the model of a shell with its nodes again, and with today's values of its initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(shell)
    del model.graph.initializer[:]
    for tensor in shell.graph.initializer:
        leaf = initializers[tensor.name].node
        assert isinstance(leaf, Constant | Static | Mutable)
        written = numpy_helper.from_array(leaf.array, tensor.name)
        if tensor.doc_string:
            written.doc_string = tensor.doc_string
        model.graph.initializer.append(written)
    model.graph.node.extend(as_read(node) for node in nodes)
    return model


def as_read(node: Node) -> onnx.NodeProto:
    """Return a node that was read from a file, as it stood there."""
    assert node.note is not None
    name = node.note.name or None
    if isinstance(node, Constant):
        return constant_proto(node, node.output.name or "", name)
    inputs = ["" if value is None else str(value.name) for value in node.inputs]
    bodies = [onnx.AttributeProto.FromString(v.data) for v in node.attributes.values() if isinstance(v, Opaque)]
    if bodies:
        inputs = inputs[: len(inputs) - len(captured(onnx.NodeProto(attribute=bodies)))]
    outputs = [value.name or "" for value in node.outputs]
    while node.function is not None and outputs and not outputs[-1]:
        outputs.pop()  # a call may leave the last ones out
    return node_proto(node, inputs, outputs, name, node.note.overload or None)
