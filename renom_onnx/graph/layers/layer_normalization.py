"""Normalization of each sample over its last axes."""

from __future__ import annotations

from typing import Any, Unpack

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import composed
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of, known_sizes
from renom_onnx.graph.node import Value
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant


def rms_body(op: Builder, x: Value, scale: Value, *, axis: int, epsilon: float) -> Value:
    """Y = X / sqrt(mean of X^2 + epsilon) scale, over the axes from ``axis`` on."""
    assert x.shape is not None
    axes = list(range(axis % len(x.shape), len(x.shape)))
    mean = op.ReduceMean(op.Mul(x, x), axes, keepdims=1)
    return op.shaped(op.Mul(op.Div(x, op.Sqrt(op.Add(mean, epsilon))), scale), x)


class LayerNormalize(Layer):
    """y = g (x - mean) / sqrt(var + epsilon) + b, mean and variance over all axes of a sample from `axis` on.

    Args:
        gain: what g starts from; default 1 (ReNom's 0.1 was never trained).
        bias: what b starts from.
        axis: the first axis that is normalized; default the last.
        epsilon: default 1e-5.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: g, b, of the sizes of the normalized axes.

    Called with x (N, ..., F), returns the same shape.

    Raises:
        ShapeError: x has fewer than two axes, or a normalized size is not known.

    Source: Ba et al. 2016, arXiv:1607.06450; https://onnx.ai/onnx/operators/onnx__LayerNormalization.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.LayerNormalize(epsilon=0)(np.array([[1.0, 3.0]])))
        [[-1.  1.]]
    """

    def __init__(
        self, gain: float = 1.0, bias: float = 0.0, axis: int = -1, epsilon: float = 1e-5, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(**settings)
        self.gain = gain
        self.bias = bias
        self.axis = axis
        self.epsilon = float(epsilon)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        rank = len(axes_of(x, "LayerNormalize", 2, "(N, ..., F)"))
        sizes = known_sizes(x, range(self.axis % rank, rank), "LayerNormalize")
        g, b = self.parameter("g", sizes, Constant(self.gain)), self.parameter("b", sizes, Constant(self.bias))
        return apply(
            "LayerNormalization",
            x,
            g,
            b,
            casts=[cast_to_precision(x), None, None],
            axis=self.axis,
            epsilon=self.epsilon,
        )


class RmsNormalize(Layer):
    """y = g x / sqrt(mean(x^2) + epsilon), the mean over all axes from `axis` on.

    Args:
        gain: what g starts from.
        axis: the first axis that is normalized; default the last.
        epsilon: default 1e-5.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: g, of the sizes of the normalized axes.

    Called with x (N, ..., F), returns the same shape.

    Raises:
        ShapeError: x has fewer than two axes, or a normalized size is not known.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467; https://onnx.ai/onnx/operators/onnx__RMSNormalization.html, which
    opset 23 introduced: below, it is a function of that name.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.RmsNormalize()(np.ones((2, 5, 8), np.float32)).shape
        ('N', 5, 8)
    """

    def __init__(self, gain: float = 1.0, axis: int = -1, epsilon: float = 1e-5, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.gain = gain
        self.axis = axis
        self.epsilon = float(epsilon)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        rank = len(axes_of(x, "RmsNormalize", 2, "(N, ..., F)"))
        sizes = known_sizes(x, range(self.axis % rank, rank), "RmsNormalize")
        g = self.parameter("g", sizes, Constant(self.gain))
        attributes: dict[str, Any] = dict(axis=self.axis, epsilon=self.epsilon)
        return composed("RMSNormalization", rms_body, x, g, casts=[cast_to_precision(x), None], **attributes)
