"""Embeddings: vectors for integers and for positions."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph import parameter
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.node import Constant as ConstantLeaf
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.utility.initializer import Gaussian, Initializer


class Embedding(Layer):
    """y = w[x]: a vector for every integer.

    Args:
        units: size of a vector.
        vocabulary: how many integers there are; x is 0 to vocabulary - 1 (ReNom's table had as many rows as the batch).
        initializer: of w; default N(0, 1).
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (vocabulary, units).

    Called with integers x (N,), (N, T) or more axes, returns (N, ..., units).

    Raises:
        DTypeError: x holds no integers.
        IndexRangeError: an integer is out of range; told when it is run.

    Source: https://onnx.ai/onnx/operators/onnx__Gather.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Embedding(4, vocabulary=10)(np.array([[1, 2, 3]])).shape
        ('N', 3, 4)
    """

    def __init__(
        self, units: int, vocabulary: int, initializer: Initializer | None = None, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(**settings)
        self.units = units
        self.vocabulary = vocabulary
        self.initializer = initializer

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the vectors."""
        if x.dtype.kind not in "iu":
            raise DTypeError(
                f"Embedding: x must hold integers, got x is {x.output}. Convert it with astype('int64'). "
                f"{created_at(user_site())}"
            )
        w = self.parameter("w", (self.vocabulary, self.units), self.initializer or Gaussian(0.0, 1.0))
        return apply("Gather", w, x, casts=[None, None if x.dtype == np.int64 else np.dtype(np.int64)], axis=0)


class PositionalEmbedding(Layer):
    """y = x + p, p a vector for every position of a sequence.

    Args:
        max_length: the longest sequence; default the T of the first call. Sinusoidal positions have no limit, unless
            they must be there for a T that only the run will know.
        sinusoidal: p[t, 2i] = sin(t / 10000^(2i / F)), p[t, 2i + 1] = cos(the same), and no parameter.
        initializer: of w; default N(0, 0.02).
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w (max_length, F), unless sinusoidal.

    Called with x (N, T, F), returns the same shape.

    Raises:
        ShapeError: x has not three axes, F is not known nor T without a max_length, or T is longer than that.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.PositionalEmbedding(sinusoidal=True)(np.zeros((1, 1, 4))))
        [[[0. 1. 0. 1.]]]
    """

    def __init__(
        self,
        max_length: int | None = None,
        *,
        sinusoidal: bool = False,
        initializer: Initializer | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.max_length = max_length
        self.sinusoidal = sinusoidal
        self.initializer = initializer

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x + p."""
        _, length, _ = exact_axes(x, "PositionalEmbedding", 3, "(N, T, F)")
        (size,) = known_sizes(x, [2], "PositionalEmbedding")
        longest = self.max_length
        if longest is None:
            (longest,) = known_sizes(x, [1], "PositionalEmbedding")
        if not self.sinusoidal:
            self.max_length = longest
        if isinstance(length, int) and length > longest:
            raise ShapeError(
                f"PositionalEmbedding: a sequence must have at most max_length = {longest} positions, got {length}: x "
                f"is {x.output}. {created_at(user_site())}"
            )
        if self.sinusoidal:
            rows = length if isinstance(length, int) else longest
            p = GraphElement(ConstantLeaf(sinusoids(rows, size)).output)
        else:
            p = self.parameter("w", (longest, size), self.initializer or Gaussian(0.0, 0.02))
        if p.shape != (length, size):
            end = integers([length]) if isinstance(length, int) else apply("Shape", x, start=1, end=2)
            p = apply("Slice", p, integers([0]), end, integers([0]))
            p.output.shape = (length, size)
        return apply("Add", x, p, casts=[cast_to_precision(x), None])


def sinusoids(length: int, size: int) -> np.ndarray[Any, Any]:
    """Return sines and cosines (length, size) in the parameters' dtype."""
    even = np.arange(size) // 2 * 2
    angles = np.arange(length)[:, None] / np.power(10000.0, even / size)[None]
    return np.where(np.arange(size) % 2 == 0, np.sin(angles), np.cos(angles)).astype(parameter.precision)
