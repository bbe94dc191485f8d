"""Mixed precision: matrix products and convolutions in a half-precision type, everything delicate in float32.

    with rm.graph.autocast("float16"):
        loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    loss.get_training_executor(rm.graph.Sgd(0.1, loss_scale="dynamic"))

Parameters stay float32 (master weights); the conversions belong to the operators that need them, and gradients come
back in float32. Losses are computed in float32.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError
from renom_onnx.graph import schema
from renom_onnx.graph.node import Value
from renom_onnx.graph.site import created_at, user_site

_HALF = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
"""Operators that are computed in the half-precision type."""
_KEEP = {
    "AveragePool", "Concat", "Dropout", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu",
    "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that keep the type of what they are given."""

_active = threading.local()


@contextlib.contextmanager
def autocast(dtype: Any = "float16") -> Iterator[None]:
    """Build elements in mixed precision.

    Args:
        dtype: "float16", or "bfloat16" for CUDA; None for full precision inside an outer `autocast`.

    Raises:
        DTypeError: another type.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> with rm.graph.autocast("float16"):
        ...     y = rm.graph.Dense(2)(np.ones((1, 3), np.float32))
        >>> y.dtype
        dtype('float16')
    """
    if dtype not in (None, "float16", "bfloat16"):
        raise DTypeError(
            f'autocast: dtype must be "float16", "bfloat16" or None, got {dtype!r}. {created_at(user_site())}'
        )
    before = _dtype()
    _active.dtype = None if dtype is None else schema.dtype_named(dtype)
    try:
        yield
    finally:
        _active.dtype = before


def _dtype() -> np.dtype[Any] | None:
    return getattr(_active, "dtype", None)


def operand_casts(
    op_type: str, values: Sequence[Value | None], casts: Sequence[np.dtype[Any] | None]
) -> list[np.dtype[Any] | None]:
    """Return the conversions of an operator's operands: those that its layer asks for, or mixed precision's."""
    half = _dtype()
    kept = list(casts)
    if half is None or op_type not in _HALF | _KEEP:
        return kept
    floats = [
        i
        for i, (value, cast) in enumerate(zip(values, casts, strict=True))
        if value is not None and (value.dtype if cast is None else cast) == np.float32
    ]
    if op_type in _KEEP and not all(values[i].dtype == half for i in floats):  # type: ignore[union-attr]
        return kept
    for i in floats:
        value = values[i]
        kept[i] = None if value is not None and value.dtype == half else half
    return kept
