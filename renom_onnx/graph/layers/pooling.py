"""Pooling layers: one number for every window."""

from __future__ import annotations

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.elementwise import Elementwise
from renom_onnx.graph.layers.size import Padding, Sizes, axes_of, both_ends, per_axis
from renom_onnx.graph.operators import apply


class MaxPool(Layer):
    """The largest element of every window; the gradient goes to the first of equal ones.

    Args:
        kernel, padding, stride: pixels, one number or one per spatial axis; for padding also pairs (begin, end).
            Padding counts as minus infinity (ReNom's CPU code padded with 0).
        dilation: distance of the pixels of a window.
        ceil: a last window may hang over the end.

    Called with x (N, C, *S), returns (N, C, *O) with O = (S + 2 padding - dilation (kernel - 1) - 1) // stride + 1,
    rounded up with `ceil`.

    Raises:
        ShapeError: x has fewer than three axes, or a sequence is not one size per spatial axis.

    Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.MaxPool(kernel=2, stride=2)(np.arange(4.0).reshape(1, 1, 2, 2)))
        [[[[3.]]]]
    """

    def __init__(
        self, kernel: Sizes = 3, padding: Padding = 0, stride: Sizes = 1, dilation: Sizes = 1, *, ceil: bool = False
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.padding = padding
        self.stride = stride
        self.dilation = dilation
        self.ceil = ceil

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the maxima."""
        n_axes = len(axes_of(x, "MaxPool", 3, "(N, C, *S)")) - 2
        return apply(
            "MaxPool",
            x,
            casts=[cast_to_precision(x)],
            kernel_shape=per_axis(self.kernel, n_axes, "MaxPool", "kernel"),
            pads=both_ends(self.padding, n_axes, "MaxPool"),
            strides=per_axis(self.stride, n_axes, "MaxPool", "stride"),
            dilations=per_axis(self.dilation, n_axes, "MaxPool", "dilation"),
            ceil_mode=int(self.ceil),
        )


class AvgPool(Layer):
    """The mean of every window.

    Args:
        kernel, padding, stride: pixels, one number or one per spatial axis; for padding also pairs (begin, end).
        ceil: a last window may hang over the end; what hangs over is not counted.
        count_padding: the padding counts, as zeros (the default of ReNom and PyTorch, not of ONNX).

    Called with x (N, C, *S), returns (N, C, *O) with O = (S + 2 padding - kernel) // stride + 1, rounded up with
    `ceil`.

    Raises:
        ShapeError: x has fewer than three axes, or a sequence is not one size per spatial axis.

    Source: https://onnx.ai/onnx/operators/onnx__AveragePool.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.AvgPool(kernel=2, stride=2)(np.arange(4.0).reshape(1, 1, 2, 2)))
        [[[[1.5]]]]
    """

    def __init__(
        self,
        kernel: Sizes = 3,
        padding: Padding = 0,
        stride: Sizes = 1,
        *,
        ceil: bool = False,
        count_padding: bool = True,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.padding = padding
        self.stride = stride
        self.ceil = ceil
        self.count_padding = count_padding

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the means."""
        n_axes = len(axes_of(x, "AvgPool", 3, "(N, C, *S)")) - 2
        return apply(
            "AveragePool",
            x,
            casts=[cast_to_precision(x)],
            kernel_shape=per_axis(self.kernel, n_axes, "AvgPool", "kernel"),
            pads=both_ends(self.padding, n_axes, "AvgPool"),
            strides=per_axis(self.stride, n_axes, "AvgPool", "stride"),
            ceil_mode=int(self.ceil),
            count_include_pad=int(self.count_padding),
        )


class GlobalAvgPool(Elementwise):
    """The mean of every channel: (N, C, *S) to (N, C, 1, …). Source: https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.GlobalAvgPool()(np.arange(4.0).reshape(1, 1, 2, 2)))
        [[[[1.5]]]]
    """

    op_type = "GlobalAveragePool"


class GlobalMaxPool(Elementwise):
    """The largest element of every channel: (N, C, *S) to (N, C, 1, …).

    Source: https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html.
    """

    op_type = "GlobalMaxPool"
