"""A graph written as it was read: the file's names, order, documentation and opset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from renom_onnx.converters.encoding import copy_field, graph_shell, write_data
from renom_onnx.converters.writer import constant_proto, node_proto
from renom_onnx.graph.body import Body, attribute_bodies, operand_count
from renom_onnx.graph.node import Constant, Mutable, Node, Static, Value


def shell_of(model: onnx.ModelProto, *, with_training: bool = True) -> onnx.ModelProto:
    """Return the model without its nodes and without the data of its initializers; the model is left alone."""
    shell = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph" and (with_training or field.name != "training_info"):
            copy_field(shell, field.name, value)
    shell.graph.CopyFrom(graph_shell(model.graph))
    return shell


def model_as_read(
    shell: onnx.ModelProto,
    nodes: Iterable[Node],
    initializers: Mapping[str, Value] | None = None,
    state: Mapping[str, Mutable] | None = None,
) -> onnx.ModelProto:
    """Return the model of a shell with its nodes again, and with today's values of its initializers.

    Args:
        shell: what is kept of the file.
        nodes: of its graph.
        initializers: of its graph, by name; of those that are not among them it has names and types alone.
        state: initializers of its training step that may have changed.
    """
    model = onnx.ModelProto()
    model.CopyFrom(shell)
    _fill(model.graph, nodes, initializers)
    for tensor in (tensor for info in model.training_info for tensor in info.algorithm.initializer):
        if state and tensor.name in state:
            write_data(tensor, state[tensor.name].array)
    return model


def _fill(graph: onnx.GraphProto, nodes: Iterable[Node], initializers: Mapping[str, Value] | None) -> None:
    """Give a shell its nodes, and its initializers the values of the leaves of these names."""
    graph.node.extend(as_read(node) for node in nodes)
    for tensor in graph.initializer:
        if initializers is not None and tensor.name in initializers:
            leaf = initializers[tensor.name].node
            assert isinstance(leaf, Constant | Static | Mutable)
            write_data(tensor, leaf.array)


def as_read(node: Node) -> onnx.NodeProto:
    """Return a node that was read from a file, as it stood there."""
    assert node.note is not None
    name = node.note.name or None
    if isinstance(node, Constant):
        return constant_proto(node, node.output.name or "", name)
    inputs = ["" if value is None else str(value.name) for value in node.inputs[: operand_count(node)]]
    graphs = [_body_as_read(body) for _, body in attribute_bodies(node.attributes)]
    outputs = [value.name or "" for value in node.outputs[: node.note.n_outputs]]  # a gradient may ask for more
    return node_proto(node, inputs, outputs, name, node.note.overload or None, graphs)


def _body_as_read(body: Body) -> onnx.GraphProto:
    assert body.note is not None
    graph: onnx.GraphProto = onnx.GraphProto.FromString(body.note)
    own = {str(node.output.name): node.output for node in body.nodes if isinstance(node, Constant)}
    _fill(graph, (node for node in body.nodes if node.note is not None), own)
    return graph
