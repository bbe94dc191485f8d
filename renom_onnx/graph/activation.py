"""Activations as functions: ``elu(x)`` is ``Elu()(x)``. Relu, sigmoid, softmax and tanh are with the operators."""

from __future__ import annotations

from typing import Any

from renom_onnx.graph import layers
from renom_onnx.graph.element import GraphElement

__all__ = [
    "celu",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "maxout",
    "mish",
    "relu6",
    "selu",
    "silu",
    "softplus",
    "softsign",
    "swish",
]


def elu(x: Any, alpha: float = 1.0) -> GraphElement:
    """Return `Elu` of x."""
    return layers.Elu(alpha)(x)


def selu(x: Any) -> GraphElement:
    """Return `Selu` of x."""
    return layers.Selu()(x)


def leaky_relu(x: Any, slope: float = 0.01) -> GraphElement:
    """Return `LeakyRelu` of x."""
    return layers.LeakyRelu(slope)(x)


def softplus(x: Any) -> GraphElement:
    """Return `Softplus` of x."""
    return layers.Softplus()(x)


def softsign(x: Any) -> GraphElement:
    """Return `Softsign` of x."""
    return layers.Softsign()(x)


def maxout(x: Any, slice_size: int = 1) -> GraphElement:
    """Return `Maxout` of x."""
    return layers.Maxout(slice_size)(x)


def relu6(x: Any) -> GraphElement:
    """Return `Relu6` of x."""
    return layers.Relu6()(x)


def celu(x: Any, alpha: float = 1.0) -> GraphElement:
    """Return `Celu` of x."""
    return layers.Celu(alpha)(x)


def gelu(x: Any, approximate: str = "none") -> GraphElement:
    """Return `Gelu` of x."""
    return layers.Gelu(approximate)(x)


def silu(x: Any) -> GraphElement:
    """Return `Silu` of x."""
    return layers.Silu()(x)


def swish(x: Any, beta: float = 1.0) -> GraphElement:
    """Return `Swish` of x."""
    return layers.Swish(beta)(x)


def mish(x: Any) -> GraphElement:
    """Return `Mish` of x."""
    return layers.Mish()(x)


def hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5) -> GraphElement:
    """Return `HardSigmoid` of x."""
    return layers.HardSigmoid(alpha, beta)(x)


def hard_swish(x: Any) -> GraphElement:
    """Return `HardSwish` of x."""
    return layers.HardSwish()(x)
