"""Weight normalization."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant, Initializer


class WeightNormalize(Layer):
    """y = x v + b, v = g w / norm(w): a dense layer whose weights have their length apart.

    The norm is that of each unit's weights, as in the paper (ReNom divided by the norm of the whole matrix).

    Args:
        units: size of the output.
        gain: what g starts from.
        initializer: of w; default GlorotNormal.
        bias: whether there is a b; ReNom had none.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (F, units), g (1, units), b (1, units).

    Called with x (N, ..., F), returns (N, ..., units).

    Raises:
        ShapeError: x has fewer than two axes, or F is not that of the first call.

    Source: Salimans & Kingma 2016, arXiv:1602.07868.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> layer = rm.graph.WeightNormalize(1, gain=5, initializer=rm.utility.initializer.Constant(2))
        >>> print(layer(np.ones((1, 4))))
        [[10.]]
    """

    def __init__(
        self,
        units: int,
        gain: float = 0.1,
        initializer: Initializer | None = None,
        *,
        bias: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.units = units
        self.gain = gain
        self.initializer = initializer
        self.bias = bias

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x v + b."""
        shape = axes_of(x, "WeightNormalize", 2, "(N, F)")
        w = self.parameter("w", (shape[-1], self.units), self.initializer)
        g = self.parameter("g", (1, self.units), Constant(self.gain))
        b = self.parameter("b", (1, self.units), Constant(0)) if self.bias else None
        v = apply("Div", apply("Mul", w, g), apply("ReduceL2", w, integers([0]), keepdims=1))
        y = apply("MatMul", x, v, casts=[cast_to_precision(x), None])
        return y if b is None else y + b
