"""Random numbers in the graph: a pure function of (key, step, index of the sample), so that training can be resumed.

The index of the sample is its place in the whole batch: a device that is dealt a part of it is told where its part
begins (`FIRST_SAMPLE`), so that any number of devices draws what one device would.

onnxruntime's own generators can be neither saved nor restored, and differ between devices. This one is a 32-bit integer
hash of standard operators that CPU, CUDA and the browser compute alike: multiply, add and divide (for shifts), without
the bitwise operators that the CUDA provider lacks.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function
from renom_onnx.graph.node import Input, Mutable, Shape, Value

FIRST_SAMPLE = Mutable(np.array(0, np.int64), name="first_sample")
"""Place in the whole batch of the first sample that a session is fed: an input of a training step, 0 by default."""

_GOLDEN = 0x9E3779B9


def _mixed(op: Builder, x: Value) -> Value:
    """Return f(r(f(x))) with f(x) = x (2x + 1), RC6's quadratic bijection, and r a rotation by 16 bits."""
    x = _quadratic(op, x)
    return _quadratic(op, op.Add(op.Mul(x, 1 << 16), op.Div(x, 1 << 16)))


def _quadratic(op: Builder, x: Value) -> Value:
    value: Value = op.Mul(x, op.Add(op.Add(x, x), 1))
    return value


def hashed(op: Builder, x: Value, key: Value, step: Value, first: Value | None = None) -> Value:
    """Return a uint32 for every element of x, a function of key, step, its sample and its place in the sample.

    Args:
        op: builder.
        x: (N, ...); only its shape is read.
        key: uint32, of the layer.
        step: int64, counts the steps.
        first: int64, the index of the first sample; default 0.
    """
    shape = op.shape_of(x)
    rows = op.Squeeze(op.size_of(x, [0]), [0])
    sample = op.Cast(op.Range(op.constant(0, np.int64), rows, op.constant(1, np.int64)), to=np.uint32)
    if first is not None:
        sample = op.Add(sample, op.Cast(first, to=np.uint32))
    start = _mixed(op, op.Add(_mixed(op, op.Cast(step, to=np.uint32)), key))
    start = _mixed(op, op.Add(op.Mul(sample, _GOLDEN), start))
    sizes = x.shape[1:] if x.shape is not None else ()
    if x.shape is not None and all(isinstance(d, int) for d in sizes):
        n_features = int(np.prod(sizes))  # type: ignore[arg-type]
        places = op.constant(np.arange(n_features, dtype=np.uint32) * np.uint32(_GOLDEN))
    else:
        count = op.ReduceProd(op.Slice(shape, [1], [2**31]), keepdims=0)
        index = op.Range(op.constant(0, np.int64), count, op.constant(1, np.int64))
        places = op.Mul(op.Cast(index, to=np.uint32), _GOLDEN)
    numbers = _mixed(op, op.Add(op.Unsqueeze(start, [1]), op.Unsqueeze(places, [0])))
    value: Value = op.Reshape(numbers, shape)
    return value


@functools.lru_cache(maxsize=256)
def dropout_mask(dtype: np.dtype[Any], shape: Shape | None, rate: float, opset: int) -> Function:
    """Return the function (x, key, step, first) -> mask: 0 with probability ``rate``, else 1 / (1 - rate)."""
    op = Builder(opset)
    x = Input(dtype, shape, name="X").output
    key = Input(np.dtype(np.uint32), (), name="KEY").output
    step = Input(np.dtype(np.int64), (), name="STEP").output
    first = Input(np.dtype(np.int64), (), name="FIRST").output
    threshold = op.constant(min(round(rate * 2**32), 2**32 - 1), np.uint32)
    kept = op.Cast(op.GreaterOrEqual(hashed(op, x, key, step, first), threshold), to=dtype)
    mask = op.Mul(kept, op.constant(1 / (1 - rate), dtype))
    doc = f"0 with probability {rate:g}, else 1 / (1 - {rate:g}): a hash of key, step and place."
    return Function("DropoutMask", DOMAIN, opset, (x, key, step, first), (mask,), ("MASK",), (), doc)
