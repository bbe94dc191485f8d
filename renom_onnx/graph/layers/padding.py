"""Padding as a layer of its own."""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import Padding, axes_of, both_ends
from renom_onnx.graph.node import Constant
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site

_MODES = ("constant", "reflect", "edge", "wrap")


class Pad(Layer):
    """Add pixels around the spatial axes; before a convolution without padding, this is its padding mode.

    Args:
        padding: pixels at both ends: one number, one per spatial axis, or pairs (begin, end); negative ones cut off.
        mode: "constant" (the default), "reflect" without repeating the border, "edge" (PyTorch's replicate) or "wrap"
            (PyTorch's circular), which makes an export of opset 19.
        value: of the pixels with "constant".

    Called with x (N, C, *S), returns (N, C, *O) with O = S + begin + end.

    Raises:
        ShapeError: x has fewer than three axes, or padding is not one number, or one or a pair per spatial axis.
        ConversionError: the mode is another.

    Source: https://onnx.ai/onnx/operators/onnx__Pad.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Pad(1, "reflect")(np.array([[[1.0, 2.0, 3.0]]])))
        [[[2. 1. 2. 3. 2.]]]
        >>> print(rm.graph.Pad([(2, 0)])(np.array([[[1.0, 2.0, 3.0]]])))
        [[[0. 0. 1. 2. 3.]]]
    """

    def __init__(self, padding: Padding = 1, mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        if mode not in _MODES:
            known = ", ".join(map(repr, _MODES))
            raise ConversionError(f"Pad: mode must be one of {known}, got {mode!r}. {created_at(user_site())}")
        self.padding = padding
        self.mode = mode
        self.value = value

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the padded x."""
        n_axes = len(axes_of(x, "Pad", 3, "(N, C, *S)")) - 2
        pads = both_ends(self.padding, n_axes, "Pad")
        cast = cast_to_precision(x)
        value = Constant(np.array(self.value, cast or x.dtype)).output if self.mode == "constant" else None
        return apply(
            "Pad",
            x,
            integers([0, 0, *pads[:n_axes], 0, 0, *pads[n_axes:]]),
            value,
            casts=[cast, None, None],
            opset=19 if self.mode == "wrap" else None,
            mode=self.mode,
        )
