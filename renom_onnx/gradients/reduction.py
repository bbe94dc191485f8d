"""Gradients of reductions. Operators: https://onnx.ai/onnx/operators/.

Without kept axes, dy and y get their axes of size 1 back first; the axes may be known only at run time.
"""

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import known_array


def _kept(op, value, axes, keepdims):
    """Return the value with the reduced axes at size 1; a full reduction is a scalar, which broadcasts as it is."""
    known = known_array(axes)
    if keepdims or axes is None or (known is not None and not known.size):
        return value
    return op.Unsqueeze(value, axes)


@gradient("ReduceSum", linear_in_each=True)
def reduce_sum(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy, repeated."""
    return op.expand_like(_kept(op, dy, axes, keepdims), x)


@gradient("ReduceMean", linear_in_each=True)
def reduce_mean(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy / n, repeated; n is the number of elements that one mean is taken of."""
    share = op.Div(dy, op.Cast(_count(op, x, y, axes), to=dy.dtype))
    return op.expand_like(_kept(op, share, axes, keepdims), x)


def _count(op, x, y, axes):
    """Return how many elements of x make one of y, as int64[]."""
    known = known_array(axes)
    if known is not None and known.size:
        return op.ReduceProd(op.size_of(x, known.tolist()), keepdims=0)
    sizes = op.ReduceProd(op.shape_of(x), keepdims=0)
    return op.Div(sizes, op.ReduceProd(op.shape_of(y), keepdims=0))


@gradient("ReduceMax", "ReduceMin")
def reduce_max(op, dy, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """dx = dy [x = y] / (number of elements that equal y): ties share evenly, as in PyTorch's amax."""
    dy, y = _kept(op, dy, axes, keepdims), _kept(op, y, axes, keepdims)
    hit = op.Cast(op.Equal(x, y), to=dy.dtype)
    n = op.ReduceSum(hit, axes, keepdims=1, noop_with_empty_axes=noop_with_empty_axes)
    return op.Mul(hit, op.Div(dy, n))


@gradient("ReduceProd")
def reduce_prod(op, dy, y, x, axes=None, *, keepdims, noop_with_empty_axes):
    """dx = dy (product of the others): the product of all that are not 0, over x, unless another is 0."""
    reduce = dict(keepdims=1, noop_with_empty_axes=noop_with_empty_axes)
    is_zero = op.Cast(op.Equal(x, 0), to=dy.dtype)
    safe = op.Add(x, is_zero)
    others = op.Div(op.ReduceProd(safe, axes, **reduce), safe)
    no_other_zero = op.Cast(op.Equal(op.ReduceSum(is_zero, axes, **reduce), is_zero), to=dy.dtype)
    return op.Mul(_kept(op, dy, axes, keepdims), op.Mul(others, no_other_zero))


@gradient("ReduceL1")
def reduce_l1(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy sign(x); 0 at 0."""
    return op.Mul(_kept(op, dy, axes, keepdims), op.Sign(x))


@gradient("ReduceL2")
def reduce_l2(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy x / y; 0 where y is 0, as in PyTorch."""
    safe = op.Add(y, op.Cast(op.Equal(y, 0), to=y.dtype))
    return op.Mul(x, _kept(op, op.Div(dy, safe), axes, keepdims))


@gradient("ReduceSumSquare")
def reduce_sum_square(op, dy, y, x, axes=None, *, keepdims):
    """dx = 2 dy x."""
    return op.Mul(x, _kept(op, op.Mul(dy, 2), axes, keepdims))


@gradient("ReduceLogSum")
def reduce_log_sum(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy / (sum of x), and the sum is exp y."""
    return op.expand_like(_kept(op, op.Div(dy, op.Exp(y)), axes, keepdims), x)


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp(op, dy, y, x, axes=None, *, keepdims):
    """dx = dy exp(x - y)."""
    dy, y = _kept(op, dy, axes, keepdims), _kept(op, y, axes, keepdims)
    return op.Mul(dy, op.Exp(op.Sub(x, y)))


@gradient("LpNormalization")
def lp_normalization(op, dy, y, x, *, axis, p):
    """y = x / n, n the p-norm: dx = (dy - d (sum of dy y)) / n; d = y for p = 2, sign(x) for p = 1; 0 where n is 0."""
    n = op.ReduceL2(x, [axis], keepdims=1) if p == 2 else op.ReduceL1(x, [axis], keepdims=1)
    is_zero = op.Cast(op.Equal(n, 0), to=n.dtype)
    direction = y if p == 2 else op.Sign(x)
    dx = op.Sub(dy, op.Mul(direction, op.ReduceSum(op.Mul(dy, y), [axis], keepdims=1)))
    return op.Mul(op.Div(dx, op.Add(n, is_zero)), op.Sub(op.constant(1, n.dtype), is_zero))
