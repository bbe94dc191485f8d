"""Attention."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.dropout import Dropout
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.node import Constant as ConstantLeaf, Value
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
        dropout_rate: of what each query attends to, in training; see `Dropout`.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w_q, w_k, w_v, w_o (E, E), where the keys' own size stands for the first E of w_k and w_v; b_q, b_k,
    b_v, b_o (E,).

    Called with x (N, T, E) for self-attention, or with query (N, T, E), key (N, S, *), value (N, S, *), default: the
    key, and a mask of booleans or numbers: (N, S), whose zeros no query attends to, or (N, T, S) for each query of its
    own. Returns (N, T, E). T and S may be known only at run time.

    Raises:
        ShapeError: an input has not three axes with a known last size, heads does not divide E, the mask has neither
            two nor three axes, or the rate is out of range.

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
        dropout_rate: float = 0.0,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.heads = heads
        self.causal = causal
        self.initializer = initializer
        self.bias = bias
        self.dropout = Dropout(dropout_rate) if dropout_rate else None

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
            is_seen = apply("Unsqueeze", mask, integers(_new_axes(mask)), casts=[np.dtype(bool), None])
            scores = apply("Where", is_seen, scores, ConstantLeaf(np.array(lowest, scores.dtype)).output)
        if self.causal:
            scores = apply("Add", scores, _hidden(scores, lowest))
        shares = apply("Softmax", scores, axis=-1)
        found = apply("MatMul", shares if self.dropout is None else self.dropout(shares), v)
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


def _new_axes(mask: GraphElement) -> list[int]:
    """Return where a mask lacks the axes of heads and, if it is the same for all, of queries."""
    rank = len(mask.shape or ())
    if rank not in (2, 3):
        raise ShapeError(
            f"MultiHeadAttention: mask must have 2 axes, (N, S), or 3, (N, T, S), got mask is {mask.output}. "
            f"{created_at(user_site())}"
        )
    return [1, 2] if rank == 2 else [1]


def _hidden(scores: GraphElement, lowest: float) -> GraphElement | Value:
    """Return (T, S), 0 up to the diagonal and the lowest number above it, to be added to the scores."""
    assert scores.shape is not None
    rows, columns = scores.shape[2:]
    if isinstance(rows, int) and isinstance(columns, int):
        return ConstantLeaf(np.triu(np.full((rows, columns), lowest, scores.dtype), 1)).output
    number, first = ConstantLeaf(np.array(lowest, scores.dtype)).output, ConstantLeaf(np.array(1, np.int64)).output
    hidden = apply("Trilu", apply("Expand", number, apply("Shape", scores, start=2, end=4)), first, upper=1)
    hidden.output.shape = (rows, columns)
    return hidden
