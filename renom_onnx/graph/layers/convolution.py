"""Convolution layers."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import Sizes, axes_of, in_groups, per_axis
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant, Initializer


class Conv(Layer):
    """Cross-correlate x with w over the spatial axes.

    y[n, m, p] = b[m] + sum over c, k of x[n, c, p * stride + k * dilation - padding] * w[m, c, k]

    Args:
        channels: M, channels of the output.
        kernel, padding, stride, dilation: pixels, one number or one per spatial axis; padding is at both ends.
        groups: divides C and M; groups = C is depthwise.
        initializer: of w; default GlorotNormal. b starts at 0.
        bias: whether there is a b.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay.

    Parameters: w (M, C / groups, *kernel), b (M,).

    Called with x (N, C, *S), returns (N, M, *O) with O = (S + 2 padding - dilation (kernel - 1) - 1) // stride + 1.
    ReNom flipped 2-D kernels; this, like ONNX and PyTorch, does not.

    Raises:
        ShapeError: C does not fit w and groups, or a sequence is not one size per spatial axis.

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Conv(8, kernel=3, padding=1)(np.zeros((2, 3, 32, 32), np.float32)).shape
        ('N', 8, 32, 32)
    """

    def __init__(
        self,
        channels: int = 3,
        kernel: Sizes = 3,
        padding: Sizes = 0,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        groups: int = 1,
        initializer: Initializer | None = None,
        *,
        bias: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.channels = channels
        self.kernel = kernel
        self.padding = padding
        self.stride = stride
        self.dilation = dilation
        self.groups = groups
        self.initializer = initializer
        self.bias = bias

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the cross-correlation."""
        n_axes = len(axes_of(x, "Conv", 3, "(N, C, *S)")) - 2
        c = in_groups(self.groups, x, self.channels, "Conv")
        kernel = per_axis(self.kernel, n_axes, "Conv", "kernel")
        w = self.parameter("w", (self.channels, c // self.groups, *kernel), self.initializer)
        b = self.parameter("b", (self.channels,), Constant(0)) if self.bias else None
        return apply(
            "Conv",
            x,
            w,
            b,
            casts=[cast_to_precision(x), None, None],
            kernel_shape=kernel,
            pads=per_axis(self.padding, n_axes, "Conv", "padding") * 2,
            strides=per_axis(self.stride, n_axes, "Conv", "stride"),
            dilations=per_axis(self.dilation, n_axes, "Conv", "dilation"),
            group=self.groups,
        )
