"""Types of arithmetic: NumPy decides them, and this says how onnxruntime computes those that it has no kernels for.

Such a type is computed in a wider one and converted back, which is exact: what overflows wraps around in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError
from renom_onnx.graph.site import created_at, user_site

Type = np.dtype[Any]

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


def _each(names: str, kernel: Type) -> dict[Type, Type]:
    return {np.dtype(name): kernel for name in names.split()}


_BOOL = _each("bool", _INT32)
_EXTREMES = {**_each("bool", np.dtype(np.uint8)), **_each("int16 uint16", _INT32), **_each("uint32", _INT64)}
_WIDER: dict[str, dict[Type, Type]] = {
    "Clip": _each("int16 uint16", _INT32),
    "Greater": _BOOL,
    "GreaterOrEqual": _BOOL,
    "Less": _BOOL,
    "LessOrEqual": _BOOL,
    "MatMul": _each("bool int8 int16 uint8 uint16", _INT32),
    "Pow": _each("int8 int16 uint8 uint16 uint32 uint64", _INT64),
    "ReduceMax": _EXTREMES,
    "ReduceMin": _EXTREMES,
    "ReduceSum": _each("bool int8 int16 int32 uint8 uint16 uint32 uint64", _INT64),
}

LOGICAL = {"Add": "Or", "Mul": "And"}
"""The operators that NumPy's arithmetic of booleans is."""


def wider(op_type: str, dtype: Type) -> Type:
    """Return the type in which an operator over this type is computed.

    Example:
        >>> import numpy as np
        >>> wider("MatMul", np.dtype(np.int8)), wider("MatMul", np.dtype(np.float32))
        (dtype('int32'), dtype('float32'))
    """
    return _WIDER.get(op_type, {}).get(dtype, dtype)


def sum_type(dtype: Type) -> Type:
    """Return the type of a sum: as NumPy has it, integers are summed in 64 bits.

    Example:
        >>> import numpy as np
        >>> sum_type(np.dtype(np.uint8))
        dtype('uint64')
    """
    if dtype.kind not in "biu":
        return dtype
    return np.dtype(np.uint64) if dtype.kind == "u" else _INT64


def resolved(op_type: str, ufunc: str, *operands: Any) -> tuple[Type, ...]:
    """Return the types in which NumPy would compute: those of the operands, then that of the result.

    Args:
        op_type: ONNX's name, for errors.
        ufunc: NumPy's.
        operands: dtypes, or the types of Python's numbers.

    Raises:
        DTypeError: NumPy does not compute with these.
    """
    half = next((t for t in operands if t not in (int, float) and t.name == "bfloat16"), None)
    if half is not None:  # beside which NumPy takes a Python number for float32
        operands = tuple(half if t in (int, float) else t for t in operands)
    try:
        found: tuple[Type, ...] = getattr(np, ufunc).resolve_dtypes((*operands, None))
    except TypeError as e:
        names = ", ".join(getattr(t, "name", None) or t.__name__ for t in operands)
        rule = str(e).split("\n")[0].rstrip(".")
        raise DTypeError(f"{op_type}: {rule}, got {names}. {created_at(user_site())}") from e
    return found


def with_numbers(dtype: Type, *numbers: float) -> Type:
    """Return the type of an array among Python's numbers.

    Example:
        >>> import numpy as np
        >>> with_numbers(np.dtype(np.int8), 1), with_numbers(np.dtype(np.int8), 0.5)
        (dtype('int8'), dtype('float64'))
    """
    return dtype if dtype.name == "bfloat16" else np.result_type(dtype, *numbers)
