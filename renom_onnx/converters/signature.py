"""Inputs of a graph as plain types, for those who feed it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.encoding import value_type
from renom_onnx.graph.node import Shape

ModelProto = onnx.ModelProto
"""For annotations outside of this folder, where onnx is not imported."""


def input_types(
    graph: onnx.GraphProto, names: Container[str] | None = None
) -> list[tuple[str, np.dtype[Any], Shape | None]]:
    """Return name, element type and shape of every input, or of those that are named."""
    return [(info.name, *value_type(info.type)) for info in graph.input if names is None or info.name in names]


def output_types(graph: onnx.GraphProto) -> list[tuple[str, np.dtype[Any], Shape | None]]:
    """Return name, element type and shape of every output."""
    return [(info.name, *value_type(info.type)) for info in graph.output]


def holds_bfloat16(model: bytes) -> bool:
    """Whether anything in the model is converted to bfloat16, is fed in it or is an array of it."""
    proto = onnx.ModelProto.FromString(model)
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    casts = [a.i for node in nodes if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
    arrays = [tensor.data_type for tensor in proto.graph.initializer]
    return onnx.TensorProto.BFLOAT16 in [*casts, *arrays, *(i.type.tensor_type.elem_type for i in proto.graph.input)]
