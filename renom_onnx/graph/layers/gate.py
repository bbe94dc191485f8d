"""Gated activations: x times a gate that depends on x."""

from __future__ import annotations

from typing import Any

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import composed
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.elementwise import Elementwise
from renom_onnx.graph.node import Value


def gelu_body(op: Builder, x: Value, *, approximate: str) -> Value:
    """Y = X / 2 (1 + erf(X / sqrt 2)); approximate="tanh": X / 2 (1 + tanh(sqrt(2 / pi) (X + 0.044715 X^3)))."""
    if approximate == "tanh":
        cubic = op.Mul(op.Mul(x, op.Mul(x, x)), 0.044715)
        t = op.Tanh(op.Mul(op.Add(x, cubic), 0.7978845608028654))
    else:
        t = op.Erf(op.Mul(x, 0.7071067811865476))
    y: Value = op.Mul(op.Mul(x, 0.5), op.Add(t, 1.0))
    return y


def swish_body(op: Builder, x: Value, *, alpha: float) -> Value:
    """Y = X sigmoid(alpha X)."""
    y: Value = op.Mul(x, op.Sigmoid(x if alpha == 1 else op.Mul(x, alpha)))
    return y


class Gelu(Layer):
    """x times the normal distribution function at x, element by element: x / 2 (1 + erf(x / sqrt 2)).

    Args:
        approximate: "none" (the default), or "tanh" for the approximation of the paper.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415; https://onnx.ai/onnx/operators/onnx__Gelu.html, which opset 20
    introduced: below, it is a function of that name.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Gelu()(np.array([[0.0, 1.0]])).as_ndarray().round(4))
        [[0.     0.8413]]
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the gated x."""
        return composed("Gelu", gelu_body, x, casts=[cast_to_precision(x)], approximate=self.approximate)


class Swish(Layer):
    """x sigmoid(beta x), element by element.

    Args:
        beta: default 1.

    Source: Ramachandran et al. 2017, arXiv:1710.05941; https://onnx.ai/onnx/operators/onnx__Swish.html, which opset 24
    introduced: below, it is a function of that name.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the gated x."""
        attributes: dict[str, Any] = {"alpha": float(self.beta)}
        return composed("Swish", swish_body, x, casts=[cast_to_precision(x)], **attributes)


class Silu(Swish):
    """x sigmoid(x), element by element: Swish with beta = 1. Source: Elfwing et al. 2017, arXiv:1702.03118.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Silu()(np.array([[0.0, 1.0]])).as_ndarray().round(4))
        [[0.     0.7311]]
    """

    def __init__(self) -> None:
        super().__init__(1.0)


class Mish(Elementwise):
    """x tanh(log(1 + e^x)), element by element.

    Source: Misra 2019, arXiv:1908.08681; https://onnx.ai/onnx/operators/onnx__Mish.html.
    """

    op_type = "Mish"


class HardSwish(Elementwise):
    """x max(0, min(1, x / 6 + 1 / 2)), element by element.

    Source: Howard et al. 2019, arXiv:1905.02244; https://onnx.ai/onnx/operators/onnx__HardSwish.html.
    """

    op_type = "HardSwish"
