"""Attention."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.node import Constant as ConstantLeaf
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.utility.initializer import Constant, Initializer


class MultiHeadAttention(Layer):
    """Each head: softmax(q k' / sqrt(E / heads)) v; the heads are joined and projected.

    q = query w_q + b_q, k = key w_k + b_k, v = value w_v + b_v, y = heads w_o + b_o

    Args:
        heads: divides E.
        causal: position t attends to positions up to t only.
        initializer: of the four w; default GlorotNormal. The four b start at 0.
        bias: whether there are the four b.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay.

    Parameters: w_q, w_k, w_v, w_o (E, E), where the keys' own size stands for the first E of w_k and w_v; b_q, b_k,
    b_v, b_o (E,).

    Called with x (N, T, E) for self-attention, or with query (N, T, E), key (N, S, *), value (N, S, *) (default: the
    key) and a mask (N, S), booleans or numbers, whose zeros no query attends to; returns (N, T, E).

    Raises:
        ShapeError: an input has not three axes with a known last size, heads does not divide E, or T is not known with
            `causal`.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.MultiHeadAttention(heads=2, causal=True)(np.zeros((1, 5, 8), np.float32)).shape
        ('N', 5, 8)
    """

    def __init__(
        self,
        heads: int,
        *,
        causal: bool = False,
        initializer: Initializer | None = None,
        bias: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.heads = heads
        self.causal = causal
        self.initializer = initializer
        self.bias = bias

    def forward(
        self,
        query: GraphElement,
        key: GraphElement | None = None,
        value: GraphElement | None = None,
        mask: GraphElement | None = None,
    ) -> GraphElement:
        """Return what the query attends to."""
        key = query if key is None else key
        value = key if value is None else value
        for x in (query, key, value):
            exact_axes(x, "MultiHeadAttention", 3, "(N, T, E)")
        size = known_sizes(query, [2], "MultiHeadAttention")[0]
        if size % self.heads:
            raise ShapeError(
                f"MultiHeadAttention: heads must divide E = {size}, got {self.heads} heads. {created_at(user_site())}"
            )
        q = self._heads(query, "q", size, [0, 2, 1, 3])
        k = self._heads(key, "k", size, [0, 2, 3, 1])
        v = self._heads(value, "v", size, [0, 2, 1, 3])
        scale = ConstantLeaf(np.array(1 / math.sqrt(size // self.heads), q.dtype)).output
        scores = apply("MatMul", apply("Mul", q, scale), k)
        if cast := cast_to_precision(scores):  # what is masked and exponentiated is not left in half precision
            scores = apply("Cast", scores, to=cast)
        lowest = np.finfo(scores.dtype).min / 2
        if mask is not None:
            exact_axes(mask, "MultiHeadAttention: mask", 2, "(N, S)")
            is_seen = apply("Unsqueeze", mask, integers([1, 2]), casts=[np.dtype(bool), None])
            scores = apply("Where", is_seen, scores, ConstantLeaf(np.array(lowest, scores.dtype)).output)
        if self.causal:
            rows, columns = (known_sizes(x, [1], "MultiHeadAttention")[0] for x in (query, key))
            hidden = np.triu(np.full((rows, columns), lowest, scores.dtype), 1)
            scores = apply("Add", scores, ConstantLeaf(hidden).output)
        found = apply("MatMul", apply("Softmax", scores, axis=-1), v)
        joined = apply("Reshape", apply("Transpose", found, perm=[0, 2, 1, 3]), integers([0, 0, size]))
        return self._projected(joined, "o", size)

    def _heads(self, x: GraphElement, name: str, size: int, perm: list[int]) -> GraphElement:
        y = apply("Reshape", self._projected(x, name, size), integers([0, 0, self.heads, size // self.heads]))
        return apply("Transpose", y, perm=perm)

    def _projected(self, x: GraphElement, name: str, size: int) -> GraphElement:
        own = known_sizes(x, [2], "MultiHeadAttention")[0]
        w = self.parameter(f"w_{name}", (own, size), self.initializer)
        y = apply("MatMul", x, w, casts=[cast_to_precision(x), None])
        return y + self.parameter(f"b_{name}", (size,), Constant(0)) if self.bias else y
