"""Initializers: how a parameter starts.

An initializer is called with a shape and a generator and returns an array. Fan-in and fan-out follow the field: for a
matrix (F, units) they are F and units; for a convolution kernel (M, C / group, *K) they are C / group * prod(K) and
M * prod(K).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from renom_onnx.errors import ShapeError

__all__ = ["Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Initializer"]

Array = np.ndarray[Any, Any]


class Initializer:
    """Base of initializers; subclasses write `draw`."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
        """Return a new array.

        Args:
            shape: of the parameter.
            rng: source of random numbers.
            dtype: element type.
        """
        return np.asarray(self.draw(shape, rng), dtype=dtype)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return the values in float64."""
        raise NotImplementedError(f"{type(self).__name__}.draw: an initializer must define it, got the base class's.")


class Constant(Initializer):
    """Every element is ``value``.

    Example:
        >>> import numpy as np
        >>> Constant(3)((2,), np.random.default_rng(0))
        array([3., 3.], dtype=float32)
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return the constant."""
        return np.full(shape, self.value, dtype=np.float64)


class _Scaled(Initializer):
    """Random values whose spread follows from fan-in and fan-out."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain


class GlorotUniform(_Scaled):
    """U(-a, a) with a = gain * sqrt(6 / (fan_in + fan_out)).

    Source: Glorot & Bengio 2010, proceedings.mlr.press/v9/glorot10a.html.
    """

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return uniform values."""
        limit = self.gain * math.sqrt(6.0 / sum(fans(shape, type(self).__name__)))
        return rng.uniform(-limit, limit, shape)


class GlorotNormal(_Scaled):
    """N(0, s) with s = gain * sqrt(2 / (fan_in + fan_out)).

    Source: Glorot & Bengio 2010, proceedings.mlr.press/v9/glorot10a.html.
    """

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return normal values."""
        return rng.normal(0.0, self.gain * math.sqrt(2.0 / sum(fans(shape, type(self).__name__))), shape)


class HeNormal(_Scaled):
    """N(0, s) with s = gain * sqrt(2 / fan_in). Source: He et al. 2015, arXiv:1502.01852."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return normal values."""
        return rng.normal(0.0, self.gain * math.sqrt(2.0 / fans(shape, type(self).__name__)[0]), shape)


class HeUniform(_Scaled):
    """U(-a, a) with a = gain * sqrt(6 / fan_in). Source: He et al. 2015, arXiv:1502.01852."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return uniform values."""
        limit = self.gain * math.sqrt(6.0 / fans(shape, type(self).__name__)[0])
        return rng.uniform(-limit, limit, shape)


def fans(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return fan-in and fan-out of a matrix or convolution kernel.

    Raises:
        ShapeError: the shape has fewer than two axes.
    """
    if len(shape) < 2:
        raise ShapeError(f"{name}: a shape must have two axes or more, got {list(shape)}. Use Constant for a vector.")
    if len(shape) == 2:
        return shape[0], shape[1]
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


Draw = Callable[[tuple[int, ...], np.random.Generator], Array]
