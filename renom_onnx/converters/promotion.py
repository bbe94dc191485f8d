"""Constants that are weights: some exporters write weights as nodes, where training cannot reach them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.initializer import Kind, kind_of, readers_of

LARGEST = 2**28
"""Elements of a constant that is filled in: a file of a few bytes can ask for any number."""


def with_weights_of_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the model with the Constant and ConstantOfShape nodes that are weights as initializers, and their names.

    Which constants are weights is decided as for initializers. A model without any is returned as it is.
    """
    readers = readers_of(model.graph.node)
    found = [
        (node, tensor)
        for node, tensor in _constants(model.graph)
        if kind_of(tensor, readers.get(tensor.name, ())) is not Kind.FIXED
    ]
    if not found:
        return model, []
    result = onnx.ModelProto()
    result.CopyFrom(model)
    moved = {node.output[0] for node, _ in found}
    kept = [node for node in model.graph.node if not moved.intersection(node.output)]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(tensor for _, tensor in found)
    result.ir_version = max(model.ir_version, 4)  # before, an initializer had to be an input too
    return result, [tensor.name for _, tensor in found]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Yield the nodes that make a tensor of nothing but the file, with that tensor."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attributes["value"].t)
            tensor.name = node.output[0]
            known[tensor.name] = tensor
            yield node, tensor
        elif node.op_type == "ConstantOfShape" and node.input[0] in known:
            filled = _filled(node.output[0], known[node.input[0]], attributes)
            if filled is not None:
                yield node, filled


def _filled(
    name: str, shape: onnx.TensorProto, attributes: Mapping[str, onnx.AttributeProto]
) -> onnx.TensorProto | None:
    sizes = [int(size) for size in array_of(shape).reshape(-1)]
    if any(size < 0 for size in sizes) or np.prod(sizes, dtype=object) > LARGEST:
        return None
    value = array_of(attributes["value"].t).reshape(-1)[0] if "value" in attributes else np.float32(0)
    return numpy_helper.from_array(np.full(sizes, value), name)
