"""Pooling of regions of interest."""

from __future__ import annotations

from typing import Any

from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.operators import apply


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
        return apply("MaxRoiPool", x, rois, casts=casts, pooled_shape=shape, spatial_scale=float(self.spatial_scale))
