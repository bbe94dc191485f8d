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

__all__ = [
    "Constant", "Gaussian", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Initializer", "Orthogonal",
    "Uniform",
]  # fmt: skip

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


class Gaussian(_Scaled):
    """gain * N(mean, std).

    Args:
        mean, std: default 0 and 0.1.
        gain: multiplies the result.
    """

    def __init__(self, mean: float = 0.0, std: float = 0.1, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.mean = mean
        self.std = std

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return normal values."""
        return self.gain * rng.normal(self.mean, self.std, shape)


class Uniform(_Scaled):
    """gain * U(min, max).

    Args:
        min, max: default -1 and 1.
        gain: multiplies the result.
    """

    def __init__(self, min: float = -1.0, max: float = 1.0, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.min = min
        self.max = max

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return uniform values."""
        return self.gain * rng.uniform(self.min, self.max, shape)


class Orthogonal(_Scaled):
    """gain * q, q a random matrix whose rows or columns, whichever are fewer, are orthonormal.

    A shape (M, *K) of more than two axes is drawn as the matrix (M, prod(K)).

    Source: Saxe et al. 2014, arXiv:1312.6120.

    Example:
        >>> import numpy as np
        >>> q = Orthogonal()((2, 3), np.random.default_rng(0), np.float64)
        >>> bool(np.allclose(q @ q.T, np.eye(2)))
        True
    """

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return an orthogonal matrix, uniformly distributed."""
        fans(shape, type(self).__name__)
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


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
