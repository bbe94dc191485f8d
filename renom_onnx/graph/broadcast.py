"""Undoing a broadcast: the one place where gradients are summed back to the shape of an operand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Dim, Value


def unbroadcast(op: Builder, g: Value, x: Value) -> Value:
    """Sum a gradient over the axes along which ``x`` was repeated.

    Args:
        op: builder.
        g: gradient of the broadcast shape.
        x: the operand whose shape the result has. Axes of size 1 and leading axes that x lacks are summed; where
            symbols do not tell, the sizes are compared at run time.
    """
    if schema.is_container(g.dtype):
        return g
    if g.shape is None or x.shape is None:
        return _at_run_time(op, g, x) if g is not x else g
    if g.shape == x.shape:
        return g
    extra = len(g.shape) - len(x.shape)
    axes = list(range(max(extra, 0)))
    for axis, (have, want) in enumerate(zip(g.shape[max(extra, 0) :], x.shape[max(-extra, 0) :], strict=True)):
        if _is_uncertain(have, want):
            return _at_run_time(op, g, x)
        if want == 1 and have != 1:
            axes.append(axis + max(extra, 0))
    if axes and _are_leading(g, axes):
        return _sum_of_rows(op, g, len(axes), x)
    if axes:
        g = op.ReduceSum(g, axes, keepdims=1)
    if extra > 0:
        g = op.Squeeze(g, list(range(extra)))
    elif extra < 0:  # the operator dropped leading axes of size 1
        g = op.Unsqueeze(g, list(range(-extra)))
    return g


def _is_uncertain(have: Dim, want: Dim) -> bool:
    return have != want and isinstance(want, str)


def _are_leading(g: Value, axes: list[int]) -> bool:
    """Whether these are the leading axes, and what is behind them makes rows of a matrix."""
    rest = (g.shape or ())[len(axes) :]
    is_matrix = len(rest) == 1 == len(axes)
    are_rows = bool(rest) and all(isinstance(d, int) and d > 0 for d in rest)
    return axes == list(range(len(axes))) and g.dtype in (np.float32, np.float64) and (is_matrix or are_rows)


def _sum_of_rows(op: Builder, g: Value, n_axes: int, x: Value) -> Value:
    """Sum over leading axes as a product with ones, which is several times faster on CPUs than ReduceSum.

    With several threads most of all: ReduceSum then goes through the matrix once for a few columns at a time.
    """
    rest: tuple[Any, ...] = (g.shape or ())[n_axes:]
    if g.rank != 2:
        g = op.Reshape(g, [-1, math.prod(rest)])
    ones = op.Expand(op.constant([[1]], g.dtype), op.Concat(op.constant([1], np.int64), op.size_of(g, [0]), axis=0))
    total: Value = op.MatMul(ones, g)
    rank = len(x.shape or ())
    if len(rest) > 1 or rank > 2:
        return op.reshape_like(total, x)
    row: Value = op.Squeeze(total, [0]) if rank == 1 else total
    return row


def _at_run_time(op: Builder, g: Value, x: Value) -> Value:
    """Sum over the axes where x has size 1 and g has not, compared by Shape."""
    if g.dtype.name == "bfloat16":  # for which onnxruntime's CPU provider has no ReduceSum
        narrow: Value = op.Cast(_at_run_time(op, op.Cast(g, to=np.float32), x), to=g.dtype)
        return narrow
    shape = op.Shape(x)
    lead = op.Expand(op.constant([1], np.int64), op.Sub(op.Shape(op.Shape(g)), op.Shape(shape)))
    padded = op.Concat(lead, shape, axis=0)
    differs = op.Not(op.Equal(padded, op.Shape(g)))
    axes = op.Squeeze(op.NonZero(differs), [0])
    summed = op.ReduceSum(g, axes, keepdims=1, noop_with_empty_axes=1)
    value: Value = op.Reshape(summed, shape)
    return value
