"""Pooling of regions of interest."""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import differentiable
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.node import Value


def roi_body(op: Builder, x: Value, rois: Value, *, pooled_shape: tuple[int, ...], spatial_scale: float) -> Value:
    """Y = max over bins of X: first along the width, then along the height; ties share the gradient."""
    assert x.shape is not None
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
    y: Value = op.Where(op.Greater(image, op.constant(np.finfo(x.dtype).min, x.dtype)), image, op.zero(image))
    return y


def _round(op: Builder, x: Value) -> Value:
    """Round halves away from zero, as onnxruntime's kernel does."""
    y: Value = op.Mul(op.Sign(x), op.Floor(op.Add(op.Abs(x), 0.5)))
    return y


class RoiPool(Layer):
    """The largest element of every bin of regions of interest.

    A region spans the pixels round(scale * corner) on both ends; bin i of n spans floor(i h / n) to ceil((i + 1) h / n)
    of its height (or width) h. An empty bin gives 0.

    Args:
        outw, outh: bins of a region.
        spatial_scale: pixels of x for one pixel of the regions' coordinates.

    Called with x (N, C, H, W) and rois (R, 5), rows of index in the batch, xmin, ymin, xmax, ymax; returns
    (R, C, outh, outw).

    Raises:
        ShapeError: x has not four axes with a known H and W, or rois not two.

    Source: Girshick 2015, arXiv:1504.08083; https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x, rois = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[0, 0, 0, 3, 3]])
        >>> print(rm.graph.RoiPool(outw=1, outh=2, spatial_scale=1.0)(x, rois).as_ndarray().ravel())
        [ 7. 15.]
    """

    def __init__(self, outw: int = 7, outh: int = 7, spatial_scale: float = 1 / 16) -> None:
        super().__init__()
        self.outw = outw
        self.outh = outh
        self.spatial_scale = spatial_scale

    def __call__(self, x: Any, rois: Any) -> GraphElement:
        """Connect image and regions; an array of regions keeps its number of rows, which is not the batch's."""
        return super().__call__(x, rois if isinstance(rois, GraphElement) else static(rois))

    def forward(self, x: GraphElement, rois: GraphElement) -> GraphElement:
        """Return the maxima."""
        exact_axes(x, "RoiPool", 4, "(N, C, H, W)")
        exact_axes(rois, "RoiPool", 2, "(R, 5)")
        known_sizes(x, [2, 3], "RoiPool")
        casts = [cast_to_precision(x), cast_to_precision(rois)]
        shape = (self.outh, self.outw)
        return differentiable(
            "MaxRoiPool", roi_body, x, rois, casts=casts, pooled_shape=shape, spatial_scale=float(self.spatial_scale)
        )
