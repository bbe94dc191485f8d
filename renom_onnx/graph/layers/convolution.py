"""Convolution layers."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import Padding, Sizes, axes_of, both_ends, in_groups, per_axis
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.utility.initializer import Constant, Initializer


class Conv(Layer):
    """Cross-correlate x with w over the spatial axes.

    y[n, m, p] = b[m] + sum over c, k of x[n, c, p * stride + k * dilation - padding] * w[m, c, k]

    Args:
        channels: M, channels of the output.
        kernel, stride, dilation: pixels, one number or one per spatial axis.
        padding: zeros at both ends: one number, one per spatial axis, pairs (begin, end), or "same", with which y is as
            large as x. `Pad` has other modes.
        groups: divides C and M; groups = C is depthwise.
        initializer: of w; default GlorotNormal. b starts at 0.
        bias: whether there is a b.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (M, C / groups, *kernel), b (M,).

    Called with x (N, C, *S), returns (N, M, *O) with O = (S + begin + end - dilation (kernel - 1) - 1) // stride + 1.
    ReNom flipped 2-D kernels; this, like ONNX and PyTorch, does not.

    Raises:
        ShapeError: C does not fit w and groups, a sequence is not one size per spatial axis, or padding is "same" with
            a stride.

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
        padding: Padding | str = 0,
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
        stride, dilation = (per_axis(getattr(self, name), n_axes, "Conv", name) for name in ("stride", "dilation"))
        return apply(
            "Conv",
            x,
            w,
            b,
            casts=[cast_to_precision(x), None, None],
            kernel_shape=kernel,
            pads=self._pads(kernel, stride, dilation),
            strides=stride,
            dilations=dilation,
            group=self.groups,
        )

    def _pads(self, kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
        if isinstance(self.padding, str):
            if self.padding != "same" or any(s != 1 for s in stride):
                raise ShapeError(
                    f'Conv: padding must be pixels, or "same" with stride 1, got {self.padding!r} with stride '
                    f"{stride}. {created_at(user_site())}"
                )
            missing = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            return [*(m // 2 for m in missing), *(m - m // 2 for m in missing)]
        return both_ends(self.padding, len(kernel), "Conv")
