"""The flatten layer."""

from __future__ import annotations

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer
from renom_onnx.graph.operators import apply


class Flatten(Layer):
    """Keep the batch axis and join the others: (N, *S) to (N, prod(S)).

    Source: https://onnx.ai/onnx/operators/onnx__Flatten.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Flatten()(np.zeros((2, 3, 4))).shape
        ('N', 12)
    """

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the joined axes."""
        return apply("Flatten", x, axis=1)
