"""Normalization of each sample over its channels or within them."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import composed
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of, in_groups, known_sizes
from renom_onnx.graph.node import Constant as ConstantLeaf, Value
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant


def normalized(op: Builder, x: Value, axes: list[int], epsilon: float) -> Value:
    """Return (x - mean) / sqrt(variance + epsilon), mean and variance over the axes."""
    centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    y: Value = op.Div(centred, op.Sqrt(op.Add(variance, epsilon)))
    return y


def group_body(op: Builder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float) -> Value:
    """Y = (X - mean) / sqrt(variance + epsilon) scale + bias, over groups of channels; scale and bias per channel."""
    assert x.shape is not None
    rank, c = len(x.shape), x.shape[1]
    assert isinstance(c, int)
    shape = op.vector(op.size_of(x, [0]), [num_groups, c // num_groups], op.size_of(x, range(2, rank)))
    groups = op.Reshape(x, shape, allowzero=1)  # no size is left to be found, so that an empty batch works
    y = op.reshape_like(normalized(op, groups, list(range(2, rank + 1)), epsilon), x)
    per_channel = [-1, *[1] * (len(x.shape) - 2)]
    return op.shaped(op.Add(op.Mul(y, op.Reshape(scale, per_channel)), op.Reshape(bias, per_channel)), x)


class InstanceNormalize(Layer):
    """y = g (x - mean) / sqrt(var + epsilon) + b, mean and variance over the spatial axes of each channel of a sample.

    Args:
        gain: what g starts from.
        bias: what b starts from.
        epsilon: default 1e-5.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: g, b (C,).

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than three axes, or C is not known.

    Source: Ulyanov et al. 2016, arXiv:1607.08022; https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.InstanceNormalize()(np.ones((2, 3, 8, 8), np.float32)).shape
        ('N', 3, 8, 8)
    """

    def __init__(
        self, gain: float = 1.0, bias: float = 0.0, epsilon: float = 1e-5, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(**settings)
        self.gain = gain
        self.bias = bias
        self.epsilon = float(epsilon)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        axes_of(x, "InstanceNormalize", 3, "(N, C, *S)")
        sizes = known_sizes(x, [1], "InstanceNormalize")
        g, b = self.parameter("g", sizes, Constant(self.gain)), self.parameter("b", sizes, Constant(self.bias))
        return apply(
            "InstanceNormalization",
            x,
            g,
            b,
            casts=[cast_to_precision(x), None, None],
            epsilon=self.epsilon,
        )


class GroupNormalize(Layer):
    """y = g (x - mean) / sqrt(var + epsilon) + b, mean and variance over each group of channels of a sample.

    Args:
        group: number of groups; divides C.
        gain: what g starts from.
        bias: what b starts from.
        epsilon: default 1e-5.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: g, b (C,).

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than three axes, or group does not divide C.

    Source: Wu & He 2018, arXiv:1803.08494; https://onnx.ai/onnx/operators/onnx__GroupNormalization.html of opset 21
    (that of opset 18 scales whole groups): below, it is a function of that name.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.GroupNormalize(2)(np.ones((2, 4, 8, 8), np.float32)).shape
        ('N', 4, 8, 8)
    """

    def __init__(
        self, group: int = 32, gain: float = 1.0, bias: float = 0.0, epsilon: float = 1e-5, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(**settings)
        self.group = group
        self.gain = gain
        self.bias = bias
        self.epsilon = float(epsilon)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        axes_of(x, "GroupNormalize", 3, "(N, C, *S)")
        sizes = [in_groups(self.group, x, None, "GroupNormalize")]
        g, b = self.parameter("g", sizes, Constant(self.gain)), self.parameter("b", sizes, Constant(self.bias))
        casts = [cast_to_precision(x), None, None]
        attributes: dict[str, Any] = dict(num_groups=self.group, epsilon=self.epsilon)
        y = composed("GroupNormalization", group_body, x, g, b, casts=casts, since=21, **attributes)
        y.output.shape = x.shape  # ONNX's inference knows nothing of the operator
        return y


class L2Norm(Layer):
    """y = w x / (sqrt(sum over channels of x^2) + epsilon).

    Args:
        scale: what w starts from.
        epsilon: default 1e-7.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (1, C), with an axis of size 1 for each further axis of x.

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than two axes, or C is not known.

    Source: Liu et al. 2015, arXiv:1506.04579.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.L2Norm(scale=10)(np.array([[3.0, 4.0]])))
        [[6. 8.]]
    """

    def __init__(self, scale: float = 20.0, epsilon: float = 1e-7, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.scale = scale
        self.epsilon = epsilon

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        rank = len(axes_of(x, "L2Norm", 2, "(N, C, *S)"))
        w = self.parameter("w", [1, *known_sizes(x, [1], "L2Norm"), *[1] * (rank - 2)], Constant(self.scale))
        cast = cast_to_precision(x)
        norm = apply("ReduceL2", x, integers([1]), casts=[cast, None], keepdims=1)
        epsilon = ConstantLeaf(np.array(self.epsilon, norm.dtype)).output
        return apply("Mul", apply("Div", x, apply("Add", norm, epsilon), casts=[cast, None]), w)


class Lrn(Layer):
    """y = x (k + a sum of x^2 over the n channels around each)^-b.

    Args:
        n: channels of the window; an even n counts as n + 1.
        k, a, b: as in the formula; a is not divided by n (ONNX's and PyTorch's alpha is).

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than four axes.

    Source: Krizhevsky et al. 2012, papers.nips.cc/paper/4824; https://onnx.ai/onnx/operators/onnx__LRN.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Lrn(n=1, k=0, a=1, b=0.5)(np.full((1, 1, 1, 1), 3.0)))
        [[[[1.]]]]
    """

    def __init__(self, n: int = 5, k: float = 2.0, a: float = 1e-4, b: float = 0.75) -> None:
        super().__init__()
        self.n = n
        self.k = k
        self.a = a
        self.b = b

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the normalized x."""
        axes_of(x, "Lrn", 4, "(N, C, *S)")
        size = self.n // 2 * 2 + 1
        attributes: dict[str, Any] = dict(size=size, alpha=float(self.a * size), beta=float(self.b), bias=float(self.k))
        return apply("LRN", x, casts=[cast_to_precision(x)], **attributes)
