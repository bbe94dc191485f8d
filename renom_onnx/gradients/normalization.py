"""Gradients of normalizations. Operators: https://onnx.ai/onnx/operators/.

All have the form y = scale u + b with u = (x - mean) r, r = (variance + epsilon)^(-1/2); mean and variance are taken
over some axes. With g = dy scale, the gradient is dx = r (g - mean of g - u (mean of g u)): the second term makes it
orthogonal to shifts of x, the third to its scale. Source: Ioffe & Szegedy 2015, arXiv:1502.03167; without the mean,
Zhang & Sennrich 2019, arXiv:1910.07467.
"""

import math

import numpy as np

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.function import DOMAIN


def _standardized(op, x, axes, epsilon, *, centered=True):
    """Return u and r."""
    shifted = op.Sub(x, op.ReduceMean(x, axes, keepdims=1)) if centered else x
    variance = op.ReduceMean(op.Mul(shifted, shifted), axes, keepdims=1)
    r = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return op.Mul(shifted, r), r


def _through(op, g, u, r, axes, *, centered=True):
    """Return dx for g = dy scale."""
    along = op.ReduceMean(op.Mul(g, u), axes, keepdims=1)
    if centered:
        g = op.Sub(g, op.ReduceMean(g, axes, keepdims=1))
    return op.Mul(r, op.Sub(g, op.Mul(u, along)))


def _axes_from(op, x, axis):
    """Return the axes from ``axis`` on."""
    if x.rank is not None:
        return list(range(axis % x.rank - x.rank, 0))
    if axis < 0:
        return list(range(axis, 0))
    return op.Range(op.constant(axis, np.int64), op.Squeeze(op.Shape(op.Shape(x)), [0]), op.constant(1, np.int64))


def _share(op, d, x, y):
    """Return d / n, where n elements of x make one of y."""
    n = op.Div(op.ReduceProd(op.shape_of(x), keepdims=0), op.ReduceProd(op.shape_of(y), keepdims=0))
    return op.Div(d, op.Cast(n, to=d.dtype))


@gradient("LayerNormalization", all_outputs=True, in_float32=True)
def layer_normalization(op, dys, ys, x, scale, b=None, *, axis, epsilon):
    """dx = r (g - mean g - u mean(g u)), g = dy scale; d_scale = dy u; db = dy; arXiv:1607.06450.

    Through the outputs mean and r: d_mean / n - d_r r² u / n.
    """
    dy = dys[0]
    axes = _axes_from(op, x, axis)
    if x.dtype == np.float32:  # as the forward pass has it, so that a runtime may compute it once
        _, mean, r = op.LayerNormalization(x, scale, b, axis=axis, epsilon=epsilon, outputs=3)
        z = op.Sub(x, mean)
    else:  # the operator's statistics are float32
        z = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
        r = op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(z, z), axes, keepdims=1), epsilon)))
    dx, d_scale = op.zeros_like(x), None
    if dy is not None:
        dx, d_scale = _through_scaled(op, dy, z, r, scale, axis, axes)
    d_mean, d_r = (*dys[1:], None, None)[:2]
    if d_mean is not None:
        dx = op.Add(dx, _share(op, op.Cast(d_mean, to=x.dtype), x, d_mean))
    if d_r is not None:
        dx = op.Sub(dx, op.Mul(_share(op, op.Mul(op.Cast(d_r, to=x.dtype), op.Mul(r, op.Mul(r, r))), x, d_r), z))
    return dx, d_scale, dy


@gradient("RMSNormalization", in_float32=True)
def rms_normalization(op, dy, y, x, scale, *, axis, epsilon):
    """dx = r (g - u mean(g u)), g = dy scale; d_scale = dy u; arXiv:1910.07467."""
    axes = _axes_from(op, x, axis)
    r = op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), epsilon)))
    return _through_scaled(op, dy, x, r, scale, axis, axes, centered=False)


def _through_scaled(op, dy, z, r, scale, axis, axes, *, centered=True):
    """Return dx and d_scale of y = scale u, u = z r, normalized over the axes from ``axis`` on.

    With n elements in a row, dx = r (g - mean g - z k), k = r² mean(g z). Where all n are known, every mean and sum is
    a product with a vector: of the rows with scale / n, of the columns with r.
    """
    sizes = None if z.rank is None else z.shape[axis % z.rank :]
    if sizes is None or scale.shape != sizes or not all(isinstance(d, int) for d in sizes):
        u, g = op.Mul(z, r), op.Mul(dy, scale)
        return _through(op, g, u, r, axes, centered=centered), op.Mul(dy, u)
    n = math.prod(sizes)
    dy, rows, column = (op.Reshape(v, [-1, m]) for v, m in ((dy, n), (z, n), (r, 1)))
    share = op.Reshape(op.Mul(scale, 1 / n), [n, 1])
    along = op.Mul(dy, rows)
    k = op.Mul(op.MatMul(along, share), op.Mul(column, column))
    left = op.Sub(op.Mul(dy, op.Reshape(scale, [n])), op.Mul(rows, k))
    if centered:
        left = op.Sub(left, op.MatMul(dy, share))
    dx = op.Mul(op.reshape_like(left, z), r)
    return dx, op.reshape_like(op.MatMul(op.Reshape(column, [1, -1]), along), scale)


@gradient("InstanceNormalization", in_float32=True)
def instance_normalization(op, dy, y, x, scale, b, *, epsilon):
    """dx = r (g - mean g - u mean(g u)), g = dy scale; d_scale = sum of dy u; db = sum of dy; arXiv:1607.08022."""
    flat, dy = (op.Reshape(v, [0, 0, -1]) for v in (x, dy))
    u, r = _standardized(op, flat, [-1], epsilon)
    dx = _through(op, op.Mul(dy, op.Unsqueeze(scale, [1])), u, r, [-1])
    return op.reshape_like(dx, x), op.ReduceSum(op.Mul(dy, u), [0, 2], keepdims=0), op.ReduceSum(dy, [0, 2], keepdims=0)


@gradient("GroupNormalization", in_float32=True)
def group_normalization(op, dy, y, x, scale, b, *, num_groups, epsilon):
    """dx = r (g - mean g - u mean(g u)) in each group, g = dy scale; d_scale = sum of dy u; arXiv:1803.08494.

    Up to opset 20 there is one scale for each group, from 21 on one for each channel.
    """
    groups = [0, num_groups, -1]
    scaled = op.vector([0], op.size_of(x, [1]), [-1]) if op.opset >= 21 else groups
    u, r = _standardized(op, op.Reshape(x, groups), [-1], epsilon)
    dy, u_scaled = op.Reshape(dy, scaled), op.Reshape(u, scaled)
    g = op.Reshape(op.Mul(dy, op.Unsqueeze(scale, [1])), groups)
    dx = op.reshape_like(_through(op, g, u, r, [-1]), x)
    return dx, op.ReduceSum(op.Mul(dy, u_scaled), [0, 2], keepdims=0), op.ReduceSum(dy, [0, 2], keepdims=0)


@gradient("MeanVarianceNormalization", in_float32=True)
def mean_variance_normalization(op, dy, y, x, *, axes):
    """y = (x - mean) / d, d = s + 1e-9, s² the variance: dx = (dy - mean dy - u mean(dy y)) / d, u = (x - mean) / s."""
    shifted = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    s = op.Sqrt(op.ReduceMean(op.Mul(shifted, shifted), axes, keepdims=1))
    safe = op.Add(s, 1e-9)
    along = op.ReduceMean(op.Mul(dy, y), axes, keepdims=1)
    g = op.Sub(op.Sub(dy, op.ReduceMean(dy, axes, keepdims=1)), op.Mul(op.Div(shifted, op.Max(s, 1e-30)), along))
    return op.Div(g, safe)


@gradient("BatchNormalization", all_outputs=True, in_float32=True)
def batch_normalization(op, dys, ys, x, scale, b, mean, var, *, epsilon, momentum, training_mode):
    """dx = dy scale r; in training dx = r (g - mean g - u mean(g u)), g = dy scale; d_scale = sum of dy u.

    In inference, d_mean = -sum of dy scale r and d_var = -sum of dy u scale r² / 2. In training the statistics that go
    in only reach the running ones that come out, of which y is independent. Source: arXiv:1502.03167.
    """
    rows = _Channels(op, x)
    if training_mode:
        return _batch_statistics(op, rows, dys, x, scale, mean, epsilon, momentum)
    dy = dys[0]
    r = op.Reciprocal(op.Sqrt(op.Add(var, epsilon)))
    u = op.Mul(op.Sub(x, rows.spread(mean)), rows.spread(r))
    db, d_scale, slope = rows.sum(dy), rows.sum(op.Mul(dy, u)), op.Mul(scale, r)
    d_var = op.Mul(op.Mul(d_scale, slope), op.Mul(r, -0.5))
    return op.Mul(dy, rows.spread(slope)), d_scale, db, op.Neg(op.Mul(db, slope)), d_var


@gradient("BatchNormalizationTrain", domain=DOMAIN, all_outputs=True, in_float32=True)
def batch_normalization_train(op, dys, ys, x, scale, b, mean, var, *, epsilon, momentum, unbiased):
    """dx = r (g - mean g - u mean(g u)), g = dy scale; d_scale = sum of dy u; db = sum of dy; arXiv:1502.03167.

    With unbiased the running variance is that of a sample, n / (n - 1) times the batch's.
    """
    return _batch_statistics(op, _Channels(op, x), dys, x, scale, mean, epsilon, momentum, unbiased)


def _batch_statistics(op, rows, dys, x, scale, mean, epsilon, momentum, unbiased=False):
    """Return the gradients in training; running = momentum times the old + (1 - momentum) times the batch's.

    With z = x - batch mean, s = 1 / r and three numbers for each channel, dx = a dy + k z + c, where a = scale / s,
    k = -a sum(dy z) / (n s²) and c = -a sum(dy) / n: the fewest passes over the batch, and z and s are those of the
    forward pass.
    """
    z = op.Sub(x, op.ReduceMean(x, rows.axes, keepdims=1))
    s = op.Sqrt(op.Add(op.ReduceMean(op.Mul(z, z), rows.axes, keepdims=1), epsilon))
    n = op.Cast(
        op.Div(op.ReduceProd(op.shape_of(x), keepdims=0), op.ReduceProd(op.shape_of(mean), keepdims=0)), to=x.dtype
    )
    dy, d_running_mean, d_running_var = (*dys, None, None)[:3]
    dx, slope, shift, d_scale, db = None, None, None, None, None
    if dy is not None:
        total, along = (op.ReduceSum(value, rows.axes, keepdims=1) for value in (dy, op.Mul(dy, z)))
        d_scale, db = (rows.gather(value, scale) for value in (op.Div(along, s), total))
        a = op.Div(rows.spread(scale), s)
        share = op.Neg(op.Div(a, n))
        dx, slope, shift = op.Mul(dy, a), op.Mul(share, op.Div(along, op.Mul(s, s))), op.Mul(share, total)
    if d_running_mean is not None:
        each = rows.spread(op.Div(op.Mul(d_running_mean, 1 - momentum), n))
        shift = each if shift is None else op.Add(shift, each)
    if d_running_var is not None:
        freedom = op.Max(op.Sub(n, op.constant(1, x.dtype)), op.constant(1, x.dtype)) if unbiased else n
        each = rows.spread(op.Div(op.Mul(d_running_var, 2 * (1 - momentum)), freedom))
        slope = each if slope is None else op.Add(slope, each)
    rest = [] if slope is None else [op.Mul(z, slope)]
    rest += [] if shift is None else [shift]
    moved = op.Add(*rest) if len(rest) == 2 else rest[0]
    dx = op.Add(dx, moved) if dx is not None else op.expand_like(moved, x)
    olds = [None if d is None else op.Mul(d, momentum) for d in (d_running_mean, d_running_var)]
    return dx, d_scale, db, *olds


class _Channels:
    """The sums over all axes but the channels', axis 1, and what undoes them."""

    def __init__(self, op, x):
        self._op = op
        self._is_matrix = x.rank is not None and x.rank < 3
        n = op.Squeeze(op.Shape(op.Shape(x)), [0]) if x.rank is None else x.rank
        if x.rank is None:
            later = op.Range(op.constant(2, np.int64), n, op.constant(1, np.int64))
            self.axes, self._later = op.vector([0], later), op.Sub(later, 1)
        else:
            self.axes, self._later = [0, *range(2, n)], list(range(1, n - 1))

    def sum(self, value):
        """Return the sum of each channel, (C,)."""
        return self._op.ReduceSum(value, self.axes, keepdims=0)

    def gather(self, value, like):
        """Return (C,) of one number for each channel that was kept broadcastable."""
        return self._op.reshape_like(value, like)

    def spread(self, value):
        """Return (C, 1, ...), which broadcasts over the other axes."""
        return value if self._is_matrix else self._op.Unsqueeze(value, self._later)


@gradient("LRN", in_float32=True)
def lrn(op, dy, y, x, *, size, alpha, beta, bias):
    """y = x s^-beta, s = bias + alpha / size (sum of x² over size channels): dx = dy s^-beta - 2 alpha beta / size x c,

    where c sums dy y / s over the channels whose window the element is in. Source: Krizhevsky et al. 2012.
    """
    below, above = (size - 1) // 2, size // 2

    def window_mean(value, begin, end):
        image = op.Reshape(value, op.vector(op.size_of(value, [0]), [1], op.size_of(value, [1]), [-1]))
        pads = [begin, 0, end, 0]
        mean = op.AveragePool(image, kernel_shape=[size, 1], strides=[1, 1], pads=pads, count_include_pad=1)
        return op.reshape_like(mean, x)

    s = op.Add(op.Mul(window_mean(op.Mul(x, x), below, above), alpha), bias)
    c = window_mean(op.Div(op.Mul(dy, y), s), above, below)
    return op.Sub(op.Mul(dy, op.Pow(s, op.constant(-beta, x.dtype))), op.Mul(op.Mul(x, c), 2 * alpha * beta))
