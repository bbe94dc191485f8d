"""The sizes of a step's values, when those of its batch are known."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.structure import inferred_types

Sizes = tuple[int, ...]


def known_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, Sizes]:
    """Return the sizes of all float32 values of which all are known."""
    fixed = onnx.GraphProto()
    fixed.CopyFrom(model.graph)
    for value in [*fixed.input, *fixed.output, *fixed.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    found: dict[str, Sizes] = {}
    for name, proto in inferred_types(model, fixed).items():
        if proto.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            continue
        _, shape = value_type(proto)
        if shape is not None and all(isinstance(d, int) for d in shape):
            found[name] = tuple(int(d) for d in shape)
    return found
