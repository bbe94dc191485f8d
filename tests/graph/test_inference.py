"""What shape inference tells where ONNX's own tells nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.container import holds_floats
from renom_onnx.graph.node import Input


@pytest.mark.parametrize("opset", [18, 21])
def test_a_normalization_has_the_shape_of_its_operand_that_onnx_does_not_infer(opset: int):
    op = Builder(opset)
    x, c = Input(np.dtype(np.float32), ("N", 4, "W"), name="x").output, op.constant(np.ones(4, "f"))
    for y in (op.GroupNormalization(x, c, c, num_groups=4), op.MeanVarianceNormalization(x, axes=[0, 2])):
        assert (y.dtype, y.shape) == (np.float32, ("N", 4, "W"))


def test_containers_are_told_apart_by_what_they_hold():
    """For NumPy their types are equal, so that a cache by type alone takes the one for the other."""
    optional = onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2]))
    types = [schema.no_tensor(optional.SerializeToString()), schema.sequence_of(np.dtype(np.float32), (2,))]
    assert types[0] == types[1]
    for order in (types, types[::-1]):
        found = [holds_floats(Input(dtype, None, name="X").output) for dtype in order]
        assert found == [dtype is types[1] for dtype in order]
