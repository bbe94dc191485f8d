"""What shape inference tells where ONNX's own tells nothing."""

from __future__ import annotations

import numpy as np
import pytest

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Input


@pytest.mark.parametrize("opset", [18, 21])
def test_a_normalization_has_the_shape_of_its_operand_that_onnx_does_not_infer(opset: int):
    op = Builder(opset)
    x, c = Input(np.dtype(np.float32), ("N", 4, "W"), name="x").output, op.constant(np.ones(4, "f"))
    for y in (op.GroupNormalization(x, c, c, num_groups=4), op.MeanVarianceNormalization(x, axes=[0, 2])):
        assert (y.dtype, y.shape) == (np.float32, ("N", 4, "W"))
