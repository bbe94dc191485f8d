"""Straight-through gradients of quantization. Operators: https://onnx.ai/onnx/operators/.

Rounding is taken for the identity and saturation for what it is: gradients pass, through the integers, inside their
range only. Sources: Bengio et al. 2013, arXiv:1308.3432; for the scale, Esser et al. 2019, arXiv:1902.08153.
"""

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient


@gradient("QuantizeLinear", is_straight_through=True)
def quantize_linear(op, dy, y, x, scale, zero=None, *, axis, block_size):
    """y = clip(round(x / scale) + zero): dx = dy / scale inside the range, d_scale = -dy x / scale² there, else 0."""
    scale, zero = (_spread(op, v, x, axis, block_size) for v in (scale, zero))
    q = op.Div(x, scale)
    shifted = op.Round(q) if zero is None else op.Add(op.Round(q), op.Cast(zero, to=x.dtype))
    dx = op.Div(op.Mul(dy, op.Cast(op.Equal(shifted, op.Cast(y, to=x.dtype)), to=x.dtype)), scale)
    return dx, _gathered(op, op.Neg(op.Mul(dx, q)), axis, scale)


@gradient("DequantizeLinear", is_straight_through=True)
def dequantize_linear(op, dy, y, x, scale, zero=None, *, axis, block_size):
    """y = (x - zero) scale: dx = dy scale, passed on through the integers; d_scale = dy (x - zero)."""
    scale, zero = (_spread(op, v, y, axis, block_size) for v in (scale, zero))
    number = op.Cast(x, to=dy.dtype)
    number = number if zero is None else op.Sub(number, op.Cast(zero, to=dy.dtype))
    return op.Mul(dy, scale), _gathered(op, op.Mul(dy, number), axis, scale)


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


def _spread(op, value, x, axis, block_size):
    """Return the scale or zero point with the axes of x."""
    if value is None or value.rank == 0:
        return value
    if block_size:
        raise GradientError("QuantizeLinear: there is no gradient for blocks, got a block_size. Scale whole axes.")
    if value.shape == (1,):
        return op.Reshape(value, op.constant([], np.int64))
    if x.rank is None:
        raise GradientError("QuantizeLinear: the gradient must know the rank of x, got none. Give x a shape.")
    return op.Unsqueeze(value, list(range(1, x.rank - axis % x.rank)))


def _gathered(op, d, axis, scale):
    """Return the gradient of a scale for the whole tensor, or for each place of an axis."""
    if scale.rank == 0:
        return op.ReduceSum(d, keepdims=0)
    axes = [a for a in range(d.rank) if a != axis % d.rank]
    return op.ReduceSum(d, axes, keepdims=0) if axes else d
