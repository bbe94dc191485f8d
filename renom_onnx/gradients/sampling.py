"""Gradients of operators that read an image between its pixels. Operators: https://onnx.ai/onnx/operators/.

A sample is a sum of pixels, its taps, with weights that depend on the place. The taps are gathered again, as rows of
channels, and the gradients of image and place are those of this sum. Source: Jaderberg et al. 2015, arXiv:1506.02025.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.node import Value

Taps = list[tuple[Value, Value]]
"""Along one axis: positions of pixels, as floats, and their weights."""


@gradient("GridSample")
def grid_sample(op, dy, y, x, grid, *, mode, padding_mode, align_corners):
    """dx = dy times the weights, added to the pixels that y was made of; d_grid = dy times their slopes."""
    if x.rank is None or x.shape is None:
        raise GradientError("GridSample: the gradient must know the rank of x, got none. Give x a shape in the model.")
    axes, taps = range(2, x.rank), []
    for k, axis in enumerate(axes):  # the grid names the last axis first
        size = op.Cast(op.Squeeze(op.size_of(x, [axis]), [0]), to=x.dtype)
        g = op.Reshape(op.Gather(grid, op.constant(len(axes) - 1 - k, np.int64), axis=-1), [0, -1])
        last = op.Sub(size, 1)
        if align_corners:
            place, bounds = op.Mul(op.Add(g, 1), op.Mul(last, 0.5)), (op.zero(x), last)
        else:
            place = op.Mul(op.Sub(op.Mul(op.Add(g, 1), size), 1), 0.5)
            bounds = op.constant(-0.5, x.dtype), op.Sub(size, 0.5)
        taps.append(_taps(op, place, last, bounds, mode, padding_mode))
    sampled = op.Transpose(_sampled(op, x, None, taps), perm=[0, 2, 1])
    dx, d_grid = gradients_through(op, [op.Reshape(sampled, op.Shape(dy))], [dy], [x, grid])
    return dx, op.zeros_like(grid) if d_grid is None else d_grid


def _taps(op: Builder, place: Value, last: Value, bounds: Any, mode: str, padding: str) -> Taps:
    """Return the taps of a place along an axis whose last pixel is ``last``."""

    def inside(p: Value) -> Value:
        if padding == "reflection":
            span = op.Max(op.Sub(bounds[1], bounds[0]), 1e-6)
            turn = op.Mod(op.Abs(op.Sub(p, bounds[0])), op.Mul(span, 2), fmod=1)
            p = op.Sub(op.Add(bounds[0], span), op.Abs(op.Sub(turn, span)))
        return p if padding == "zeros" else op.Clip(p, op.zero(p), last)

    if mode not in {"cubic", "bicubic"}:
        place = inside(place)
    if mode == "nearest":
        return [_within(op, op.Round(place), op.constant(1, place.dtype), last)]
    first = op.Floor(place)
    t = op.Sub(place, first)
    if mode in {"linear", "bilinear"}:
        weights = {0: op.Sub(op.constant(1, t.dtype), t), 1: t}
    else:
        weights = {k: _cubic(op, op.Sub(t, k), abs(k - 0.5) > 1) for k in (-1, 0, 1, 2)}
        return [_within(op, op.Round(inside(op.Add(first, k))), w, last) for k, w in weights.items()]
    return [_within(op, op.Add(first, k), w, last) for k, w in weights.items()]


def _cubic(op: Builder, t: Value, is_far: bool) -> Value:
    """Return the convolution kernel of Keys 1981, doi:10.1109/TASSP.1981.1163711, with a = -0.75."""
    a, d = -0.75, op.Abs(t)
    c = (a, -5 * a, 8 * a, -4 * a) if is_far else (a + 2, -a - 3, 0, 1)
    value: Value = op.Add(op.Mul(op.Add(op.Mul(op.Add(op.Mul(d, c[0]), c[1]), d), c[2]), d), c[3])
    return value


def _within(op: Builder, place: Value, weight: Value, last: Value) -> tuple[Value, Value]:
    """Return the place and weight of a tap; outside of the image its weight is 0."""
    clipped = op.Clip(place, op.zero(place), last)
    return clipped, op.Mul(weight, op.Cast(op.Equal(clipped, place), to=weight.dtype))


def _sampled(op: Builder, x: Value, image: Value | None, taps: list[Taps], reduce: str = "sum") -> Value:
    """Return samples (R, P, C) of x (N, C, *S).

    Args:
        op: builder.
        x: the images.
        image: which image each of the R reads, int64; by default each its own, R = N.
        taps: for each spatial axis; shapes (R, ...) that broadcast to (R, P).
        reduce: "max" for the greatest weighted tap instead of their sum.
    """
    assert x.rank is not None
    sizes = [op.size_of(x, [axis]) for axis in range(2, x.rank)]
    if image is None:
        n = op.Squeeze(op.size_of(x, [0]), [0])
        image = op.Range(op.constant(0, np.int64), n, op.constant(1, np.int64))
    combined: list[tuple[Any, Any]] = [(None, None)]
    for axis, size in zip(taps, sizes, strict=True):
        places = [(op.Cast(place, to=np.int64), weight) for place, weight in axis]
        combined = [
            (place if p is None else op.Add(op.Mul(p, size), place), weight if w is None else op.Mul(w, weight))
            for p, w in combined
            for place, weight in places
        ]
    stacked = [op.Concat(*(op.Reshape(v, [0, -1, 1]) for v in vs), axis=2) for vs in zip(*combined, strict=True)]
    n_pixels = op.ReduceProd(op.Concat(*sizes, axis=0), keepdims=1)
    row = op.Add(stacked[0], op.Unsqueeze(op.Mul(image, n_pixels), [1, 2]))
    perm = [0, *range(2, x.rank), 1]
    rows = op.Reshape(op.Transpose(x, perm=perm), op.vector([-1], op.size_of(x, [1])))
    weighted = op.Mul(op.Gather(rows, row, axis=0), op.Unsqueeze(stacked[1], [3]))  # (R, P, taps, C)
    combine = op.ReduceMax if reduce == "max" else op.ReduceSum
    value: Value = combine(weighted, [2], keepdims=0)
    return value


@gradient("RoiAlign")
def roi_align(
    op, dy, y, x, rois, images, *,
    coordinate_transformation_mode, mode, output_height, output_width, sampling_ratio, spatial_scale,
):  # fmt: skip
    """dx = dy times the weights, added to the pixels that y was made of; d_rois through the places.

    Source: He et al. 2017, arXiv:1703.06870.
    """
    is_half = coordinate_transformation_mode == "half_pixel"
    taps, n_samples, kept = [], [], []
    for k, (axis, n_bins) in enumerate(((2, output_height), (3, output_width))):
        low, high = (op.Gather(rois, op.constant([i], np.int64), axis=1) for i in (1 - k, 3 - k))  # (R, 1)
        start, end = (op.Sub(op.Mul(v, spatial_scale), 0.5 if is_half else 0.0) for v in (low, high))
        extent = op.Sub(end, start)
        extent = extent if is_half else op.Max(extent, 1.0)
        bins = op.Mul(extent, 1 / n_bins)
        count = op.constant([[sampling_ratio]], x.dtype) if sampling_ratio > 0 else op.Max(op.Ceil(bins), 1.0)
        most = op.Cast(op.ReduceMax(count, keepdims=0), to=np.int64)
        i = op.Cast(op.Range(op.constant(0, np.int64), most, op.constant(1, np.int64)), to=x.dtype)
        offset = op.Div(op.Add(i, 0.5), count)  # (R, samples)
        place = op.Add(op.Unsqueeze(op.constant(np.arange(n_bins), x.dtype), [1]), op.Unsqueeze(offset, [1]))
        place = op.Add(op.Unsqueeze(start, [2]), op.Mul(op.Unsqueeze(bins, [2]), place))  # (R, bins, samples)
        last = op.Sub(op.Cast(op.Squeeze(op.size_of(x, [axis]), [0]), to=x.dtype), 1.0)
        is_near = op.And(op.GreaterOrEqual(place, -1.0), op.LessOrEqual(place, op.Add(last, 1.0)))
        is_used = op.And(is_near, op.Unsqueeze(op.Less(i, count), [1]))
        shape = [0, -1, 1] if k == 0 else [0, 1, -1]
        kept.append(op.Reshape(op.Cast(is_used, to=x.dtype), shape))
        edges = op.zero(x), last
        near = _taps(op, place, last, edges, "linear", "border")
        taps.append([(op.Reshape(p, shape), op.Mul(op.Reshape(w, shape), kept[k])) for p, w in near])
        n_samples.append((op.Unsqueeze(most, [0]), op.Unsqueeze(count, [2])))
    samples = _sampled(op, x, op.Cast(images, to=np.int64), taps, "max" if mode == "max" else "sum")
    (most_h, count_h), (most_w, count_w) = n_samples
    parts = op.vector([0, output_height], most_h, [output_width], most_w, [-1])
    samples = op.Reshape(samples, parts)  # (R, OH, samples, OW, samples, C)
    if mode == "max":
        value = op.ReduceMax(samples, [2, 4], keepdims=0)
    else:
        total = op.ReduceSum(samples, [2, 4], keepdims=0)
        value = op.Div(total, op.Unsqueeze(op.Mul(count_h, count_w), [3]))
    value = op.Transpose(value, perm=[0, 3, 1, 2])
    dx, d_rois = gradients_through(op, [value], [dy], [x, rois])
    return dx, d_rois


@gradient("DeformConv")
def deform_conv(
    op, dy, y, x, w, offset, b=None, mask=None, *, dilations, group, kernel_shape, offset_group, pads, strides
):
    """y = w times samples of x at the taps moved by the offsets: back through product, mask and samples.

    Source: Zhu et al. 2019, arXiv:1811.11168.
    """
    kernel = w.shape[2:] if w.shape is not None else ()
    if len(kernel) != 2 or not all(isinstance(k, int) for k in kernel):
        raise GradientError(f"DeformConv: the gradient must know the sizes of w, two of them spatial, got w is {w}.")
    n_taps, groups = int(np.prod(kernel)), offset_group or 1
    strides, dilations, pads = strides or (1, 1), dilations or (1, 1), pads or (0,) * 4
    out = [op.size_of(dy, [axis]) for axis in (2, 3)]
    n_places = op.Mul(*out)
    moves = op.Reshape(offset, op.vector([-1, n_taps, 2], *out))  # (N groups, taps, 2, OH, OW)
    taps = []
    for k in range(2):
        size = op.Squeeze(out[k], [0])
        base = op.Mul(op.Cast(op.Range(0, size, 1), to=x.dtype), float(strides[k]))
        along = np.indices(kernel)[k].reshape(n_taps, 1, 1) * float(dilations[k]) - pads[k]
        base = op.Add(op.Unsqueeze(base, [1] if k == 0 else [0]), op.constant(along, x.dtype))
        place = op.Add(op.Gather(moves, op.constant(k, np.int64), axis=2), base)
        last = op.Sub(op.Cast(op.Squeeze(op.size_of(x, [2 + k]), [0]), to=x.dtype), 1.0)
        taps.append(_taps(op, op.Reshape(place, [0, -1]), last, None, "linear", "zeros"))
    channels = op.Div(op.size_of(x, [1]), groups)
    split = op.Reshape(x, op.vector([-1], channels, op.size_of(x, [2, 3])))
    samples = op.Transpose(_sampled(op, split, None, taps), perm=[0, 2, 1])  # (N groups, C / groups, taps OH OW)
    if mask is not None:
        samples = op.Mul(samples, op.Reshape(mask, op.vector([-1, 1], op.Mul(n_places, n_taps))))
    columns = op.Reshape(samples, op.vector(op.size_of(x, [0]), [group, -1], n_places))
    rows = op.Reshape(w, op.vector([group, -1], op.ReduceProd(op.Shape(w, start=1))))
    value = op.Reshape(op.MatMul(rows, columns), op.Shape(dy))
    dx, dw, d_offset, d_mask = gradients_through(op, [value], [dy], [x, w, offset, mask])
    return dx, dw, d_offset, None if b is None else op.ReduceSum(dy, [0, 2, 3], keepdims=0), d_mask


@gradient("AffineGrid", linear_in_each=True)
def affine_grid(op, dy, y, theta, size, *, align_corners):
    """Each point of the grid is theta (p, 1): d_theta = sum of dy (p, 1)'; p is the grid of the identity."""
    n = theta.shape[1] if theta.shape is not None else None
    if not isinstance(n, int):
        raise GradientError(f"AffineGrid: the gradient must know the sizes of theta, got theta is {theta}.")
    identity = op.Expand(op.constant(np.eye(n, n + 1)[None], theta.dtype), op.shape_of(theta))
    points, dy = (op.Reshape(v, [0, -1, n]) for v in (op.AffineGrid(identity, size, align_corners=align_corners), dy))
    turned = op.MatMul(op.Transpose(dy, perm=[0, 2, 1]), points)
    return op.shaped(op.Concat(turned, op.Unsqueeze(op.ReduceSum(dy, [1], keepdims=0), [2]), axis=2), theta)


@gradient("MaxRoiPool")
def max_roi_pool(op, dy, y, x, rois, *, pooled_shape, spatial_scale):
    """dx = dy at the greatest element of each bin; bounds of bins are rounded, so rois have none; arXiv:1504.08083."""
    if x.shape is None or not all(isinstance(d, int) for d in x.shape[2:]):
        raise GradientError(f"MaxRoiPool: the gradient must know the height and width of x, got x is {x}.")
    value = _roi_maxima(op, x, rois, pooled_shape=tuple(pooled_shape), spatial_scale=spatial_scale)
    return gradients_through(op, [value], [dy], [x])[0]


def _roi_maxima(op, x, rois, *, pooled_shape, spatial_scale):
    """y = max over bins of x: first along the width, then along the height; ties share the gradient."""
    columns = [op.Gather(rois, op.constant(i, np.int64), axis=1) for i in range(5)]
    image = op.Gather(x, op.Cast(columns[0], to=np.int64), axis=0)  # (R, C, H, W)
    for axis, first, last, n_bins in ((3, 1, 3, pooled_shape[1]), (2, 2, 4, pooled_shape[0])):
        size = x.shape[axis]
        start, end = (_round(op, op.Mul(columns[i], spatial_scale)) for i in (first, last))
        length = op.Div(op.Max(op.Add(op.Sub(end, start), 1.0), op.constant(1, x.dtype)), float(n_bins))
        bins = op.constant(np.arange(n_bins)[None], x.dtype)
        length, start = op.Unsqueeze(length, [1]), op.Unsqueeze(start, [1])
        low = op.Unsqueeze(op.Add(op.Floor(op.Mul(bins, length)), start), [2])  # (R, bins, 1)
        high = op.Unsqueeze(op.Add(op.Ceil(op.Mul(op.Add(bins, 1.0), length)), start), [2])
        place = op.constant(np.arange(size)[None, None], x.dtype)
        inside = op.And(op.GreaterOrEqual(place, low), op.Less(place, high))  # (R, bins, size)
        shape = op.Unsqueeze(inside, [1, 2]) if axis == 3 else op.Unsqueeze(inside, [1, 4])
        lowest = op.constant(np.finfo(x.dtype).min, x.dtype)
        spread = op.Unsqueeze(image, [3]) if axis == 3 else op.Unsqueeze(image, [2])
        image = op.ReduceMax(op.Where(shape, spread, lowest), [4 if axis == 3 else 3], keepdims=0)
    y = op.Where(op.Greater(image, op.constant(np.finfo(x.dtype).min, x.dtype)), image, op.zero(image))
    return y


def _round(op, x):
    """Round halves away from zero, as onnxruntime's kernel does."""
    return op.Mul(op.Sign(x), op.Floor(op.Add(op.Abs(x), 0.5)))
