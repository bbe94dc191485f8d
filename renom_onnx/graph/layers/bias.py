"""The bias layer."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of, known_sizes
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant, Initializer


class Bias(Layer):
    """y = x + b, one b for each feature (axis 1).

    Args:
        initializer: of b; default 0.

    Parameters: b (1, C), with an axis of size 1 for each further axis of x.

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than two axes, or C is not that of the first call.

    Source: https://onnx.ai/onnx/operators/onnx__Add.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Bias(rm.utility.initializer.Constant(1))(np.array([[1, 2]])))
        [[2. 3.]]
    """

    def __init__(self, initializer: Initializer | None = None, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.initializer = initializer

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x + b."""
        rank = len(axes_of(x, "Bias", 2, "(N, C, *S)"))
        shape = [1, *known_sizes(x, [1], "Bias"), *[1] * (rank - 2)]
        b = self.parameter("b", shape, self.initializer or Constant(0))
        return apply("Add", x, b, casts=[cast_to_precision(x), None])
