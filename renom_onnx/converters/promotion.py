"""Constants that are weights: some exporters write weights as nodes, where training cannot reach them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.initializer import Kind, kind_of, readers_of

LARGEST = 2**28
"""Elements of a constant that is filled in: a file of a few bytes can ask for any number."""


def with_weights_of_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the model with the Constant and ConstantOfShape nodes that are weights as initializers, and their names.

    A model without any is returned as it is.
    """
    found = weights_of_constants(model.graph)
    if not found:
        return model, []
    result = onnx.ModelProto()
    result.CopyFrom(model)
    moved = {node.output[0] for node, _ in found}
    kept = [node for node in model.graph.node if not moved.intersection(node.output)]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(_filled(node, tensor) for node, tensor in found)
    result.ir_version = max(model.ir_version, 4)  # before, an initializer had to be an input too
    return result, [tensor.name for _, tensor in found]


def weights_of_constants(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Return the Constant and ConstantOfShape nodes that are weights, each with its tensor, without data of the latter.

    Which constants are weights is decided as for initializers.
    """
    readers = readers_of(graph.node)
    return [
        (node, tensor)
        for node, tensor in _constants(graph)
        if kind_of(tensor, readers.get(tensor.name, ())) is not Kind.FIXED
    ]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Yield the nodes that make a tensor of nothing but the file, with that tensor."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not node.output:
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attributes["value"].t)
            tensor.name = node.output[0]
            known[tensor.name] = tensor
            yield node, tensor
        elif node.op_type == "ConstantOfShape" and node.input and node.input[0] in known:
            sizes = [int(size) for size in array_of(known[node.input[0]]).reshape(-1)]
            if all(size >= 0 for size in sizes) and np.prod(sizes, dtype=object) <= LARGEST:
                element = attributes["value"].t.data_type if "value" in attributes else onnx.TensorProto.FLOAT
                yield node, onnx.TensorProto(name=node.output[0], data_type=element, dims=sizes)


def _filled(node: onnx.NodeProto, tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return the tensor with its data."""
    if node.op_type == "Constant":
        return tensor
    values = [array_of(attribute.t).reshape(-1)[0] for attribute in node.attribute if attribute.name == "value"]
    return numpy_helper.from_array(np.full(list(tensor.dims), values[0] if values else np.float32(0)), tensor.name)
