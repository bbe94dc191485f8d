"""Straight-through gradients of quantization. Operators: https://onnx.ai/onnx/operators/.

Rounding is taken for the identity and saturation for what it is: gradients pass, through the integers, inside their
range only. Sources: Bengio et al. 2013, arXiv:1308.3432; for the scale, Esser et al. 2019, arXiv:1902.08153.
"""

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.indexing import add_at
from renom_onnx.gradients.registry import gradient

GREATEST = {"float8_e4m3fn": 448, "float8_e4m3fnuz": 240, "float8_e5m2": 57344, "float8_e5m2fnuz": 57344}
GREATEST |= {"float4_e2m1fn": 6}
"""The greatest number of a float type of 8 bits or fewer, by the name of its NumPy type."""


@gradient("QuantizeLinear", is_straight_through=True)
def quantize_linear(op, dy, y, x, scale, zero=None, *, axis, block_size):
    """y = clip(round(x / scale) + zero): dx = dy / scale inside the range, d_scale = -dy x / scale² there, else 0."""
    scales = _Scales(op, scale, x, axis, block_size)
    s = scales.spread(scale)
    q = op.Div(x, s)
    if y.dtype.name in GREATEST:
        is_inside = op.LessOrEqual(op.Abs(q), GREATEST[y.dtype.name])
    else:
        shifted = op.Round(q) if zero is None else op.Add(op.Round(q), scales.spread(zero))
        is_inside = op.Equal(shifted, op.Cast(y, to=x.dtype))
    dx = op.Div(op.Mul(dy, op.Cast(is_inside, to=x.dtype)), s)
    return dx, scales.gathered(op.Neg(op.Mul(dx, q)))


@gradient("DequantizeLinear", is_straight_through=True)
def dequantize_linear(op, dy, y, x, scale, zero=None, *, axis, block_size):
    """y = (x - zero) scale: dx = dy scale, passed on through the integers; d_scale = dy (x - zero)."""
    scales = _Scales(op, scale, y, axis, block_size)
    number = op.Cast(x, to=dy.dtype)
    number = number if zero is None else op.Sub(number, scales.spread(zero))
    return op.Mul(dy, scales.spread(scale)), scales.gathered(op.Mul(dy, number))


@gradient("DynamicQuantizeLinear", all_outputs=True, is_straight_through=True)
def dynamic_quantize_linear(op, dys, ys, x):
    """dx = dy / scale, and through scale = (max(x, 0) - min(x, 0)) / 255 to the elements that it was made of."""
    dx = op.zeros_like(x) if dys[0] is None else op.Div(dys[0], ys[1])
    if len(dys) < 2 or dys[1] is None:
        return dx
    share = op.Mul(dys[1], 1 / 255)
    for end, sign in ((op.ReduceMax(x, keepdims=0), 1), (op.ReduceMin(x, keepdims=0), -1)):
        is_end = op.Cast(op.Equal(x, end), to=x.dtype)
        is_beyond = op.Cast(op.Greater(op.Mul(end, sign), 0.0), to=x.dtype)
        one = op.Mul(op.Div(is_end, op.ReduceSum(is_end, keepdims=0)), is_beyond)
        dx = op.Add(dx, op.Mul(one, op.Mul(share, sign)))
    return dx


class _Scales:
    """Scales of the whole tensor ``like``, one for each place of an axis, or one for each block along an axis."""

    def __init__(self, op, scale, like, axis, block_size):
        self._op, self._scale, self._like, self._axis, self._block_size = op, scale, like, axis, block_size
        self._is_one = scale.rank == 0 or scale.shape == (1,)
        if not self._is_one and like.rank is None:
            raise GradientError("QuantizeLinear: the gradient must know the rank of x, got none. Give x a shape.")

    def spread(self, value):
        """Return the scales or zero points in the float type of the tensor, shaped to broadcast with it."""
        op, like = self._op, self._like
        value = value if value.dtype == like.dtype else op.Cast(value, to=like.dtype)
        if self._is_one:
            return value if value.rank == 0 else op.Reshape(value, op.constant([], np.int64))
        if self._block_size:
            return op.Gather(value, self._blocks(), axis=self._axis)
        later = list(range(1, like.rank - self._axis % like.rank))
        return op.Unsqueeze(value, later) if later else value

    def gathered(self, d):
        """Return the sums of ``d``, of the shape of the tensor, over the elements of each scale."""
        op, scale, axis = self._op, self._scale, self._axis % max(d.rank or 1, 1)
        if self._is_one:
            return op.reshape_like(op.ReduceSum(d, keepdims=0), scale)
        if self._block_size:
            like = scale if scale.dtype == d.dtype else op.Cast(scale, to=d.dtype)
            block = op.Unsqueeze(self._blocks(), [a for a in range(d.rank) if a != axis])
            return add_at(op, like, op.Expand(block, op.shape_of(d)), d, axis=axis)
        axes = [a for a in range(d.rank) if a != axis]
        return op.ReduceSum(d, axes, keepdims=0) if axes else d

    def _blocks(self):
        """Return the number of the block of every place along the axis."""
        op = self._op
        n = op.Squeeze(op.size_of(self._like, [self._axis]), [0])
        return op.Div(op.Range(0, n, 1), self._block_size)
