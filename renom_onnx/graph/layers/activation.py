"""Activation layers: each the operator of its name."""

from __future__ import annotations

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.operators import apply


class Relu(Layer):
    """max(x, 0); the gradient is 0 where y is 0. Source: https://onnx.ai/onnx/operators/onnx__Relu.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Relu()(np.array([[-1.0, 2.0]])))
        [[0. 2.]]
    """

    def forward(self, x: GraphElement) -> GraphElement:
        """Return max(x, 0)."""
        return apply("Relu", x, casts=[cast_to_precision(x)])


class Sigmoid(Layer):
    """1 / (1 + e^-x). Source: https://onnx.ai/onnx/operators/onnx__Sigmoid.html."""

    def forward(self, x: GraphElement) -> GraphElement:
        """Return 1 / (1 + e^-x)."""
        return apply("Sigmoid", x, casts=[cast_to_precision(x)])


class Tanh(Layer):
    """Hyperbolic tangent. Source: https://onnx.ai/onnx/operators/onnx__Tanh.html."""

    def forward(self, x: GraphElement) -> GraphElement:
        """Return tanh(x)."""
        return apply("Tanh", x, casts=[cast_to_precision(x)])


class Softmax(Layer):
    """e^x / sum(e^x) along an axis.

    Args:
        axis: default 1, the classes.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html.
    """

    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the shares."""
        return apply("Softmax", x, casts=[cast_to_precision(x)], axis=self.axis)
