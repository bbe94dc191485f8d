"""Sizes that symbolic inference leaves open and numbers find."""

from __future__ import annotations

import numpy as np
import pytest

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Input, Shape, Value, ancestors
from renom_onnx.graph.resolution import Resolution

op = Builder(18)


def resolved(make: object, shape: Shape = ("N", "T", 12)) -> Shape | None:
    x = Input(np.dtype(np.float32), shape, name="x").output
    value: Value = make(x)  # type: ignore[operator]
    resolution = Resolution()
    for node in ancestors([value]):
        resolution.resolve(node)
    return value.shape


def rows(x: Value) -> Value:
    return op.Gather(op.Shape(x), np.array([0]), axis=0)


CASES = {
    "a reshape by a size that was read": (
        lambda x: op.Reshape(x, op.Concat(rows(x), np.array([-1]), np.array([4]), axis=0)), ("N", None, 4)
    ),
    "a reshape that keeps an axis": (lambda x: op.Reshape(x, [0, -1, 3, 4]), ("N", "T", 3, 4)),
    "a reshape with nothing left over": (lambda x: op.Reshape(x, [-1, 12]), (None, 12)),
    "a repetition by a shape that was read": (lambda x: op.Expand(op.zero(x), op.Shape(x)), ("N", "T", 12)),
    "a cut of one": (lambda x: op.Slice(x, [0], [1], [1]), ("N", 1, 12)),
    "a cut to a length that there need not be": (lambda x: op.Slice(x, [0], [512], [1]), ("N", None, 12)),
    "a cut of two, where there may be one": (lambda x: op.Slice(x, [0], [2], [1]), ("N", None, 12)),
    "arithmetic on sizes": (
        lambda x: op.Reshape(x, op.Concat(op.Mul(rows(x), np.array([2])), np.array([-1]), axis=0)), (None, None)
    ),
    "a size times one": (
        lambda x: op.Reshape(x, op.Concat(op.Mul(rows(x), np.array([1])), np.array([-1]), axis=0)), ("N", None)
    ),
    "the same, flattened in full": (
        lambda x: op.Reshape(op.Reshape(x, op.Concat(rows(x), np.array([-1]), axis=0)), [0, -1, 1]), ("N", None, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sizes_are_found(name: str):
    make, expected = CASES[name]
    found = resolved(make)
    assert found is not None
    assert tuple(None if str(d).startswith("?") else d for d in found) == expected


def test_a_maximum_with_what_nobody_knows_is_not_known():
    floor = Input(np.dtype(np.int64), (3,), name="floor").output
    found = resolved(lambda x: op.Expand(op.zero(x), op.Max(op.Shape(x), floor)), (2, 3, 4))
    assert found is not None
    assert all(str(d).startswith("?") for d in found)
