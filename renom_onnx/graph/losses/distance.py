"""Losses that measure a distance of numbers."""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import cast_to_precision
from renom_onnx.graph.losses.loss import Loss, check_same_shape, reduced
from renom_onnx.graph.node import Constant
from renom_onnx.graph.operators import apply, clip, stop_gradient
from renom_onnx.graph.site import created_at, user_site


class MeanSquared(Loss):
    """sum((x - t)^2) / 2, divided by the rows N of the batch.

    Args:
        reduction: "mean" (the default), "sum" or None.

    Called with x (N, ...) and t of the same shape. The half is ReNom's, so that the gradient is (x - t) / N.

    Raises:
        ShapeError: x and t have different shapes.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.MeanSquared()(np.array([[1.0], [4.0]]), np.array([[0.0], [1.0]])))
        2.5
    """

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        d = _difference("MeanSquared", x, t)
        half = Constant(np.array(0.5, d.dtype)).output
        return apply("Mul", reduced(self, apply("Mul", d, d)), half)


def _difference(loss: str, x: GraphElement, t: GraphElement) -> GraphElement:
    check_same_shape(loss, x, t)
    return apply("Sub", x, t, casts=[cast_to_precision(x), cast_to_precision(t)])


def _huber(d: GraphElement, delta: float) -> GraphElement:
    """Return c (d - c / 2) with c = clip(d): d^2 / 2 inside, delta (|d| - delta / 2) outside; its gradient is c."""
    c = clip(d, -delta, delta)
    half = Constant(np.array(0.5, d.dtype)).output
    return apply("Mul", c, apply("Sub", d, apply("Mul", c, half)))


class SmoothL1(Loss):
    """Sum of d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = x - t; divided by the rows N of the batch.

    PyTorch calls this HuberLoss; its SmoothL1Loss is divided by delta.

    Args:
        delta: where the square becomes a line; default 1.
        reduction: "mean" (the default), "sum" or None.

    Called with x (N, ...) and t of the same shape.

    Raises:
        ShapeError: x and t have different shapes, or delta is not positive.

    Source: Girshick 2015, arXiv:1504.08083; Huber 1964, doi:10.1214/aoms/1177703732.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.SmoothL1()(np.array([[0.5], [3.0]]), np.array([[0.0], [0.0]])))
        1.3125
    """

    def __init__(self, delta: float = 1.0, reduction: str | None = "mean") -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise ShapeError(f"SmoothL1: delta must be positive, got {delta}. {created_at(user_site())}")
        self.delta = float(delta)

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        return reduced(self, _huber(_difference("SmoothL1", x, t), self.delta))


class ClippedMeanSquared(Loss):
    """The value of MeanSquared with a gradient whose elements, before any division by N, are clipped to [-clip, clip].

    Args:
        clip: default 1.
        reduction: "mean" (the default), "sum" or None.

    Called with x (N, ...) and t of the same shape.

    Raises:
        ShapeError: x and t have different shapes, or clip is not positive.

    Source: Mnih et al. 2015, doi:10.1038/nature14236 (methods: the error term is clipped).

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.ClippedMeanSquared()(np.array([[4.0]]), np.array([[0.0]])))
        8.0
    """

    def __init__(self, clip: float = 1.0, reduction: str | None = "mean") -> None:
        super().__init__(reduction)
        if not clip > 0:
            raise ShapeError(f"ClippedMeanSquared: clip must be positive, got {clip}. {created_at(user_site())}")
        self.clip = float(clip)

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        d = _difference("ClippedMeanSquared", x, t)
        half = Constant(np.array(0.5, d.dtype)).output
        with_gradient = _huber(d, self.clip)
        rest = stop_gradient(apply("Sub", apply("Mul", apply("Mul", d, d), half), with_gradient))
        return reduced(self, apply("Add", with_gradient, rest))
