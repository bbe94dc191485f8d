"""Resizing images: more pixels or fewer, without parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import Sizes, axes_of, per_axis
from renom_onnx.graph.node import Constant
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site

_MODES = ("nearest", "linear", "cubic")


class Resize(Layer):
    """Sample x at other places of its spatial axes: upsampling by a scale or to a size, or downsampling.

    Output pixel p lies at p / scale ("nearest", rounded down) or (p + 1/2) / scale - 1/2 ("linear", "cubic") of x, or
    with `align_corners` at p (S - 1) / (O - 1); beyond its border x goes on as it ends.

    Args:
        scale: how many times as many pixels, one number or one per spatial axis; default 2.
        size: pixels of the output, one number or one per spatial axis, instead of a scale.
        mode: "nearest" (the default) repeats pixels, "linear" blends two along every axis (bilinear for images),
            "cubic" four (Keys' kernel with a = -0.75), for two spatial axes only.
        align_corners: first and last pixels of "linear" and "cubic" stay first and last.

    Called with x (N, C, *S), returns (N, C, *O) with O = floor(scale S), or the size. PyTorch's Upsample and
    interpolate are the same; they call "linear" over two axes "bilinear".

    Raises:
        ShapeError: x has fewer than three axes, a sequence is not one number per spatial axis, one is not positive,
            both scale and size are given, or "cubic" meets another number of spatial axes than two.
        ConversionError: the mode is another, or corners are to be aligned by "nearest".

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html; Keys 1981, doi:10.1109/TASSP.1981.1163711.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Resize(2)(np.array([[[1.0, 3.0]]])))
        [[[1. 1. 3. 3.]]]
        >>> print(rm.graph.Resize(size=3, mode="linear", align_corners=True)(np.array([[[1.0, 3.0]]])))
        [[[1. 2. 3.]]]
    """

    def __init__(
        self,
        scale: float | Sequence[float] | None = None,
        size: Sizes | None = None,
        mode: str = "nearest",
        *,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            known = ", ".join(map(repr, _MODES))
            raise ConversionError(f"Resize: mode must be one of {known}, got {mode!r}. {created_at(user_site())}")
        if align_corners and mode == "nearest":
            raise ConversionError(
                f"Resize: corners can be aligned by 'linear' and 'cubic', got mode 'nearest'. {created_at(user_site())}"
            )
        if scale is not None and size is not None:
            raise ShapeError(
                f"Resize: scale or size must be given, got scale {scale} and size {size}. {created_at(user_site())}"
            )
        self.scale = scale
        self.size = size
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the resized x."""
        shape = axes_of(x, "Resize", 3, "(N, C, *S)")
        n_axes = len(shape) - 2
        if self.mode == "cubic" and n_axes != 2:
            raise ShapeError(
                f"Resize: x must have 4 axes, (N, C, H, W), with mode 'cubic', got x is {x.output}. "
                f"{created_at(user_site())}"
            )
        attributes: dict[str, Any] = dict(mode=self.mode, coordinate_transformation_mode=self._coordinates())
        if self.mode == "nearest":
            attributes["nearest_mode"] = "floor"
        casts = [cast_to_precision(x), None, None, None]
        if self.size is not None:
            sizes = self._positive("size", per_axis(self.size, n_axes, "Resize", "size"))
            axes = list(range(2, len(shape)))
            y = apply("Resize", x, None, None, integers(sizes), casts=casts, axes=axes, **attributes)
        else:
            scale = 2 if self.scale is None else self.scale
            scales = self._positive("scale", per_axis(scale, n_axes, "Resize", "scale"))
            factors = Constant(np.array([1, 1, *scales], np.float32)).output
            y = apply("Resize", x, None, factors, casts=casts[:3], **attributes)
        assert y.shape is not None
        y.output.shape = (*shape[:2], *y.shape[2:])  # of a symbol's size times 1, ONNX's inference says nothing
        return y

    def _coordinates(self) -> str:
        if self.mode == "nearest":
            return "asymmetric"
        return "align_corners" if self.align_corners else "half_pixel"

    def _positive(self, name: str, numbers: list[Any]) -> list[Any]:
        if not all(number > 0 for number in numbers):
            raise ShapeError(f"Resize: {name} must be positive, got {numbers}. {created_at(user_site())}")
        return numbers
