"""Pooling layers."""

from __future__ import annotations

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.convolution import Sizes, per_axis
from renom_onnx.graph.operators import apply
from renom_onnx.graph.site import created_at, user_site


class MaxPool(Layer):
    """The largest element of every window; the gradient goes to the first of equal ones.

    Args:
        kernel, padding, stride: pixels, one number or one per spatial axis. Padding counts as minus infinity (ReNom's
            CPU code padded with 0).

    Called with x (N, C, *S), returns (N, C, *O) with O = (S + 2 padding - kernel) // stride + 1.

    Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.MaxPool(kernel=2, stride=2)(np.arange(4.0).reshape(1, 1, 2, 2)))
        [[[[3.]]]]
    """

    def __init__(self, kernel: Sizes = 3, padding: Sizes = 0, stride: Sizes = 1) -> None:
        super().__init__()
        self.kernel = kernel
        self.padding = padding
        self.stride = stride

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the maxima."""
        if x.shape is None or len(x.shape) < 3:
            raise ShapeError(
                f"MaxPool: x must have three axes or more, (N, C, *S), got x is {x.output}. Reshape it first. "
                f"{created_at(user_site())}"
            )
        n_axes = len(x.shape) - 2
        return apply(
            "MaxPool",
            x,
            casts=[cast_to_precision(x)],
            kernel_shape=per_axis(self.kernel, n_axes, "MaxPool", "kernel"),
            pads=per_axis(self.padding, n_axes, "MaxPool", "padding") * 2,
            strides=per_axis(self.stride, n_axes, "MaxPool", "stride"),
        )
