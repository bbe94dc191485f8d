"""The dense layer."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant, Initializer


class Dense(Layer):
    """y = x w + b.

    Args:
        units: size of the output.
        initializer: of w; default GlorotNormal. b starts at 0.
        bias: whether there is a b.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (F, units), b (1, units).

    Called with x (N, F), or with more axes (N, ..., F), returns (N, ..., units) in the parameters' dtype.

    Raises:
        ShapeError: x has fewer than two axes, or F is not that of the first call.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> dense = rm.graph.Dense(3, initializer=rm.utility.initializer.Constant(1))
        >>> print(dense(np.arange(4).reshape(2, 2)))
        [[1. 1. 1.]
         [5. 5. 5.]]
    """

    def __init__(
        self,
        units: int,
        initializer: Initializer | None = None,
        *,
        bias: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.units = units
        self.initializer = initializer
        self.bias = bias

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x w + b."""
        shape = axes_of(x, "Dense", 2, "(N, F)")
        w = self.parameter("w", (shape[-1], self.units), self.initializer)
        b = self.parameter("b", (1, self.units), Constant(0)) if self.bias else None
        cast = cast_to_precision(x)
        if len(shape) == 2:
            return apply("Gemm", x, w, b, casts=[cast, None, None])
        y = apply("MatMul", x, w, casts=[cast, None])
        return y if b is None else y + b
