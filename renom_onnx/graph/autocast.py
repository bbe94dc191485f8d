"""Mixed precision: matrix products and convolutions in a half-precision type, everything delicate in float32.

    with rm.graph.autocast("float16"):
        loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    loss.get_training_executor(rm.graph.Sgd(0.1, loss_scale="dynamic"))

Parameters stay float32 (master weights); the conversions belong to the operators that need them, and gradients come
back in float32. Losses are computed in float32. bfloat16 has the range of float32 and needs no loss scale.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from renom_onnx.errors import ConversionError, DTypeError
from renom_onnx.graph import schema
from renom_onnx.graph.node import Value
from renom_onnx.graph.site import created_at, user_site

_MOVES = {
    "Concat",
    "Dropout",
    "Flatten",
    "Gather",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_HALF = {"float16": {"MatMul", "Gemm", "Conv", "ConvTranspose"}, "bfloat16": {"MatMul", "Gemm", "Conv"}}
"""Operators that are computed in the half-precision type."""
_KEEP = {
    "float16": _MOVES | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "Pad"},
    "bfloat16": _MOVES,
}
"""Operators that keep the type of what they are given. onnxruntime has no kernels of the others for bfloat16."""
_ARITHMETIC = {"Add", "Cast", "Identity", "Mul", "Neg", "Shape", "Sub"}
"""Operators whose operands are left as they are. All that is not named here is computed in float32."""


class _Mode(NamedTuple):
    dtype: np.dtype[Any] | None
    opset: int


_active = threading.local()


@contextlib.contextmanager
def autocast(dtype: Any = "float16", opset: int | None = None) -> Iterator[None]:
    """Build elements in mixed precision.

    Args:
        dtype: "float16", or "bfloat16", which onnxruntime computes on CUDA only; None for full precision inside an
            outer `autocast`.
        opset: of the elements, and so of an export, at least; default 18. Convolutions take bfloat16 from opset 22 on,
            where onnxruntime's CUDA provider lacks MaxPool and others, which then run on the CPU.

    Raises:
        DTypeError: another type.
        ConversionError: an opset below 18, or one that the installed onnx does not know.

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
    before = _mode()
    if opset is not None and not schema.DEFAULT_OPSET <= opset <= schema.NEWEST_OPSET:
        raise ConversionError(
            f"autocast: opset must be {schema.DEFAULT_OPSET} to {schema.NEWEST_OPSET}, got {opset}. "
            f"{created_at(user_site())}"
        )
    _active.mode = _Mode(None if dtype is None else schema.dtype_named(dtype), opset or before.opset)
    try:
        yield
    finally:
        _active.mode = before


def _mode() -> _Mode:
    found: _Mode = getattr(_active, "mode", _Mode(None, schema.DEFAULT_OPSET))
    return found


def least_opset() -> int:
    """Return the opset that new elements have at least."""
    return _mode().opset


def operand_casts(
    op_type: str, values: Sequence[Value | None], casts: Sequence[np.dtype[Any] | None], opset: int
) -> list[np.dtype[Any] | None]:
    """Return the conversions of an operator's operands: those that its layer asks for, or mixed precision's.

    Raises:
        DTypeError: the operator is to be computed in a type that it takes from a newer opset on.
    """
    half = _mode().dtype
    kept = list(casts)
    if half is None or op_type in _ARITHMETIC:
        return kept
    if op_type not in _HALF[half.name] | _KEEP[half.name]:
        return [
            np.dtype(np.float32) if cast is None and value is not None and value.dtype == half else cast
            for value, cast in zip(values, casts, strict=True)
        ]
    floats = [
        i
        for i, (value, cast) in enumerate(zip(values, casts, strict=True))
        if value is not None and (value.dtype if cast is None else cast) == np.float32
    ]
    if op_type in _KEEP[half.name] and not all(values[i].dtype == half for i in floats):  # type: ignore[union-attr]
        return kept
    if floats and f"tensor({half.name})" not in schema.operator(op_type, opset).input(floats[0]).types:
        least = schema.first_opset(op_type, half)
        raise DTypeError(
            f"{op_type}: {half.name} must have opset {least} or newer, got opset {opset}. "
            f'Write autocast("{half.name}", opset={least}), or use "float16". {created_at(user_site())}'
        )
    for i in floats:
        value = values[i]
        kept[i] = None if value is not None and value.dtype == half else half
    return kept
