"""Transposed convolution."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import Sizes, axes_of, in_groups, per_axis
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.utility.initializer import Constant, Initializer


class Deconv(Layer):
    """Transposed convolution: the gradient of a convolution with respect to its input, as a layer.

    y[n, m, p * stride + k * dilation - padding] += x[n, c, p] * w[c, m, k], and b[m] once

    Args:
        channels: M, channels of the output.
        kernel, padding, stride, dilation: pixels, one number or one per spatial axis; padding is what both ends of the
            output lose.
        groups: divides C and M.
        initializer: of w; default GlorotNormal. b starts at 0.
        output_padding: pixels that the end of the output gains, less than stride or dilation.
        bias: whether there is a b.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (C, M / groups, *kernel), b (M,).

    Called with x (N, C, *S), returns (N, M, *O) with O = stride (S - 1) + dilation (kernel - 1) + 1 - 2 padding +
    output_padding. ReNom flipped the kernel; this, like ONNX and PyTorch, does not.

    Raises:
        ShapeError: groups do not divide C and M, a sequence is not one size per spatial axis, or output_padding is too
            large.

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Deconv(8, kernel=4, padding=1, stride=2)(np.zeros((2, 3, 16, 16), np.float32)).shape
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
        output_padding: Sizes = 0,
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
        self.output_padding = output_padding
        self.bias = bias

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the transposed convolution."""
        n_axes = len(axes_of(x, "Deconv", 3, "(N, C, *S)")) - 2
        c = in_groups(self.groups, x, self.channels, "Deconv")
        kernel, padding, stride, dilation, extra = (
            per_axis(getattr(self, name), n_axes, "Deconv", name)
            for name in ("kernel", "padding", "stride", "dilation", "output_padding")
        )
        if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
            raise ShapeError(
                f"Deconv: output_padding must be less than stride or dilation, got output_padding {extra}, stride "
                f"{stride}, dilation {dilation}. {created_at(user_site())}"
            )
        w = self.parameter("w", (c, self.channels // self.groups, *kernel), self.initializer)
        b = self.parameter("b", (self.channels,), Constant(0)) if self.bias else None
        return apply(
            "ConvTranspose",
            x,
            w,
            b,
            casts=[cast_to_precision(x), None, None],
            kernel_shape=kernel,
            pads=padding * 2,
            strides=stride,
            dilations=dilation,
            group=self.groups,
            output_padding=extra,
        )
