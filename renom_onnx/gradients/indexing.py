"""Gradients of operators that pick or place elements by position. Operators: https://onnx.ai/onnx/operators/.

Sums over repeated positions are made by ScatterElements: onnxruntime's CPU kernel of ScatterND adds in several threads
without a lock and silently loses summands (onnxruntime 1.32).
"""

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import known_array


def add_at(op, x, indices, updates, *, axis):
    """Return zeros of the shape of x, with the updates added where the indices say."""
    narrow = x.dtype.itemsize < 4  # onnxruntime's CPU kernel adds no float16
    wide = op.Cast(updates, to=np.float32) if narrow else updates
    zeros = op.Cast(op.zeros_like(x), to=np.float32) if narrow else op.zeros_like(x)
    sums = op.ScatterElements(zeros, indices, wide, axis=axis, reduction="add")
    return op.shaped(op.Cast(sums, to=x.dtype) if narrow else sums, x)


def positions(op, x):
    """Return an int64 tensor of the shape of x that numbers its elements."""
    n = op.ReduceProd(op.shape_of(x), keepdims=0)
    return op.reshape_like(op.Range(op.constant(0, np.int64), n, op.constant(1, np.int64)), x)


def put_back(op, dy, source, x):
    """Return the gradient of an operator that copies elements: each dy is added to the element that it was copied from.

    Args:
        op: builder.
        dy: gradient of the copies.
        source: what the operator makes of `positions`.
        x: the operand.
    """
    flat = op.Reshape(op.zeros_like(x), [-1])
    sums = add_at(op, flat, op.Reshape(source, [-1]), op.Reshape(dy, [-1]), axis=0)
    return op.reshape_like(sums, x)


@gradient("Slice", linear_in_each=True)
def slice_(op, dy, y, x, starts, ends, axes=None, steps=None):
    """dx = dy between zeros: by Pad where all steps are 1, else every element is put back where it came from."""
    step, start, axis = known_array(steps), known_array(starts), known_array(axes)
    if axes is None and starts.shape is not None and isinstance(starts.shape[0], int):
        axis = np.arange(starts.shape[0])
    if axis is None or x.rank is None or (steps is not None and (step is None or (step != 1).any())):
        return put_back(op, dy, op.Slice(positions(op, x), starts, ends, axes, steps), x)
    sizes, rest = op.size_of(x, axis.tolist()), op.size_of(y, axis.tolist())
    n, m = known_array(sizes), known_array(rest)
    if start is not None and n is not None and m is not None:
        begin = np.clip(start + n * (start < 0), 0, n)
        return op.Pad(dy, op.constant([*begin, *(n - m - begin)], np.int64), None, op.constant(axis, np.int64))
    begin = op.Cast(starts, to=np.int64)
    if start is None or (start < 0).any():  # negative starts count from the end, and both ends are limits
        counted = op.Add(begin, op.Mul(sizes, op.Cast(op.Less(begin, 0), to=np.int64)))
        begin = op.Min(op.Max(counted, op.constant(0, np.int64)), sizes)
    pads = op.vector(begin, op.Sub(op.Sub(sizes, rest), begin))
    return op.shaped(op.Pad(dy, pads, None, op.constant(axis, np.int64)), x)


@gradient("Pad", linear_in_each=True)
def pad(op, dy, y, x, pads, value=None, axes=None, *, mode):
    """dx = dy without the pads; with mode reflect, edge or wrap every copy is added to its original."""
    if mode != "constant":
        return put_back(op, dy, op.Pad(positions(op, x), pads, None, axes, mode=mode), x)
    known = known_array(pads)
    dx = op.Pad(dy, op.Neg(pads) if known is None else op.constant(-known), None, axes)
    if value is None:
        return op.shaped(dx, x)
    padding = op.Pad(op.zeros_like(x), pads, op.constant(1, dy.dtype), axes)
    return op.shaped(dx, x), None, op.ReduceSum(op.Mul(dy, padding), keepdims=0)


@gradient("Gather", linear_in_each=True)
def gather(op, dy, y, x, indices, *, axis):
    """dx = dy, added along the axis where the indices say."""
    if x.rank is None or indices.rank is None:
        return put_back(op, dy, op.Gather(positions(op, x), indices, axis=axis), x)
    axis %= x.rank
    before, after = list(range(axis)), list(range(axis + 1, x.rank))
    flat = op.Reshape(dy, op.vector(op.size_of(x, before), [-1], op.size_of(x, after)))
    column = op.Reshape(indices, [-1] + [1] * len(after))
    return add_at(op, x, op.Expand(column, op.Shape(flat)), flat, axis=axis)


@gradient("GatherElements", linear_in_each=True)
def gather_elements(op, dy, y, x, indices, *, axis):
    """dx = dy, added along the axis where the indices say."""
    return add_at(op, x, indices, dy, axis=axis)


@gradient("GatherND", linear_in_each=True)
def gather_nd(op, dy, y, x, indices, *, batch_dims):
    """dx = dy, every element added to the one that it was copied from."""
    return put_back(op, dy, op.GatherND(positions(op, x), indices, batch_dims=batch_dims), x)


@gradient("Compress", linear_in_each=True)
def compress(op, dy, y, x, condition, *, axis):
    """dx = dy, put back where it came from."""
    return put_back(op, dy, op.Compress(positions(op, x), condition, axis=axis), x)


@gradient("TopK", all_outputs=True)
def top_k(op, dys, ys, x, k, *, axis):
    """dx = dy of the values, put back where they came from; the indices have no gradient."""
    return op.shaped(op.ScatterElements(op.zeros_like(x), ys[1], dys[0], axis=axis), x)


@gradient("ScatterElements")
def scatter_elements(op, dy, y, x, indices, updates, *, axis, reduction):
    """dx = dy and du = dy at the indices, each times the share that the reduction gives it."""

    def scatter(data, values, how):
        return op.ScatterElements(data, indices, values, axis=axis, reduction=how)

    return _scatter(op, dy, y, x, updates, lambda v: op.GatherElements(v, indices, axis=axis), scatter, reduction)


@gradient("ScatterND")
def scatter_nd(op, dy, y, x, indices, updates, *, reduction):
    """dx = dy and du = dy at the indices, each times the share that the reduction gives it."""

    def scatter(data, values, how):
        return op.ScatterND(data, indices, values, reduction=how)

    return _scatter(op, dy, y, x, updates, lambda v: op.GatherND(v, indices), scatter, reduction)


def _scatter(op, dy, y, x, updates, gather, scatter, reduction):
    """Return (dx, None, du). For max and min, ties share evenly, as in PyTorch."""

    def mask(condition):
        return op.Cast(condition, to=dy.dtype)

    if reduction in {None, "none"}:
        return scatter(dy, op.zeros_like(updates), "none"), None, gather(dy)
    if reduction == "add":
        return dy, None, gather(dy)
    if reduction == "mul":  # the product of the others: of all that are not 0, unless another is 0
        x_is_zero, u_is_zero = mask(op.Equal(x, 0)), mask(op.Equal(updates, 0))
        x, updates = op.Add(x, x_is_zero), op.Add(updates, u_is_zero)
        scaled = op.Mul(dy, scatter(x, updates, "mul"))
        n_zeros = scatter(x_is_zero, u_is_zero, "add")
        dx = op.Mul(op.Div(scaled, x), mask(op.Equal(n_zeros, x_is_zero)))
        return dx, None, op.Mul(op.Div(gather(scaled), updates), mask(op.Equal(gather(n_zeros), u_is_zero)))
    x_hits, u_hits = mask(op.Equal(x, y)), mask(op.Equal(updates, gather(y)))
    share = op.Div(dy, scatter(x_hits, u_hits, "add"))
    return op.Mul(share, x_hits), None, op.Mul(gather(share), u_hits)


@gradient("OneHot")
def one_hot(op, dy, y, indices, depth, values, *, axis):
    """Y = values[0] + h (values[1] - values[0]): d_values = sums of dy (1 - h) and of dy h; none for the indices."""
    h = op.OneHot(indices, depth, op.constant([0, 1], dy.dtype), axis=axis)
    on = op.ReduceSum(op.Mul(dy, h), keepdims=0)
    off = op.Sub(op.ReduceSum(dy, keepdims=0), on)
    return None, None, op.Concat(op.Unsqueeze(off, [0]), op.Unsqueeze(on, [0]), axis=0)


@gradient("TensorScatter")
def tensor_scatter(op, dy, y, past, update, indices=None, *, axis, mode):
    """d_past = dy, 0 where it was overwritten; d_update = dy where it was written."""
    if past.rank is None:
        raise GradientError("TensorScatter: the gradient must know the rank of past_cache, got none. Give it a shape.")
    d_past = op.TensorScatter(dy, op.zeros_like(update), indices, axis=axis, mode=mode)
    axis %= past.rank
    length = op.Squeeze(op.size_of(update, [axis]), [0])
    place = op.Unsqueeze(op.Range(op.constant(0, np.int64), length, op.constant(1, np.int64)), [0])
    if indices is not None:
        place = op.Add(op.Unsqueeze(indices, [1]), place)
    if mode == "circular":
        place = op.Mod(place, op.size_of(past, [axis]))
    place = op.Unsqueeze(place, [a for a in range(1, past.rank) if a != axis])
    return d_past, op.GatherElements(dy, op.Expand(place, op.shape_of(update)), axis=axis)


@gradient("Unique", all_outputs=True)
def unique(op, dys, ys, x, *, axis, sorted):
    """dx = dy, put back to the first of equal elements; the other outputs are integers."""
    first = ys[1] if len(ys) > 1 else op.Unique(x, outputs=2, axis=axis, sorted=sorted)[1]
    if axis is None:
        return op.reshape_like(op.ScatterElements(op.Reshape(op.zeros_like(x), [-1]), first, dys[0]), x)
    if x.rank is None:
        raise GradientError("Unique: the gradient must know the rank of x, got none. Give x a shape in the model.")
    axis %= x.rank
    place = op.Unsqueeze(first, [a for a in range(x.rank) if a != axis])
    return op.shaped(op.ScatterElements(op.zeros_like(x), op.Expand(place, op.Shape(dys[0])), dys[0], axis=axis), x)


@gradient("ArrayFeatureExtractor", domain="ai.onnx.ml", linear_in_each=True)
def array_feature_extractor(op, dy, y, x, indices):
    """dx = dy, added along the last axis where the indices say."""
    return put_back(op, dy, op.Gather(positions(op, x), op.Reshape(indices, [-1]), axis=-1), x)
