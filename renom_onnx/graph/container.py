"""Sequences of tensors as values that have gradients: sequences of as many tensors, of the same shapes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import Value, is_float


def holds_floats(value: Value) -> bool:
    """Whether a value has a gradient: a tensor of floats, or a sequence of such tensors."""
    return _holds_floats(value.dtype, schema.encoded_type(value.dtype))


@functools.lru_cache(maxsize=256)
def _holds_floats(dtype: np.dtype[Any], encoded: bytes | None) -> bool:
    """Types of containers are equal for NumPy, whatever they hold: what is encoded tells them apart."""
    item = None if encoded is None else schema.item_type(dtype)
    return is_float(dtype if item is None else item)


def zeros(op: Builder, like: Value) -> Value:
    """Return zeros of the shape of a tensor, or of those of the tensors in a sequence."""
    if not schema.is_container(like.dtype):
        return op.zeros_like(like)
    inside = Inside(op)
    body, _ = inside.body("zeros", [op.zeros_like(inside.item(like, "X"))])
    value: Value = op.SequenceMap(like, body=body)
    return value


def added(op: Builder, a: Value, b: Value) -> Value:
    """Return the sum of two tensors, or of the tensors of two sequences, one by one."""
    if not schema.is_container(a.dtype):
        total: Value = op.Add(a, b)
        return total
    inside = Inside(op)
    x, y = (inside.item(v, name) for v, name in ((a, "A"), (b, "B")))
    body, _ = inside.body("sum", [op.Add(x, y)])
    value: Value = op.SequenceMap(a, b, body=body)
    return value
