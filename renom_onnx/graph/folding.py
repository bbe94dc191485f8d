"""Arithmetic of shapes: what small operators give when their small integer operands are known.

A graph that reshapes by what `Shape` found, after a few integer operators, has shapes that inference node by node does
not see. This computes such numbers, and nothing larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LARGEST = 1024
"""Elements of the largest array that is computed: shapes, axes and pads are small."""


def _slice(x: Array, starts: Array, ends: Array, axes: Array | None, steps: Array | None) -> Array:
    cut = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        step = 1 if steps is None else int(steps[i])
        stop = None if step < 0 and end < -x.shape[i if axes is None else int(axes[i])] else end
        cut[i if axes is None else int(axes[i])] = slice(start, stop, step)
    return x[tuple(cut)]


def _constant(attributes: Any) -> Array | None:
    for name, dtype in (("value", None), ("value_int", np.int64), ("value_ints", np.int64)):
        if name in attributes:
            return np.asarray(attributes[name], dtype)
    return None


def _divide(a: Array, b: Array) -> Array:
    """ONNX's Div of integers, which rounds towards zero."""
    quotient = np.abs(a) // np.abs(b)
    return (quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _reshape(x: Array, shape: Array) -> Array:
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape.tolist())])


def _fill(shape: Array, attributes: Any) -> Array | None:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32)))
    return np.full(shape.tolist(), value.reshape(-1)[0], value.dtype) if _is_small(shape) else None


def _is_small(shape: Array) -> bool:
    return bool(shape.ndim == 1 and np.all(shape >= 0) and np.prod(shape.astype(np.float64)) <= LARGEST)


def _range(start: Array, limit: Array, delta: Array) -> Array | None:
    n = -(-(int(limit) - int(start)) // int(delta))
    return np.array(range(int(start), int(limit), int(delta)), start.dtype) if n <= LARGEST else None


_FOLDS: dict[str, Callable[[Sequence[Any], Any], Array | None]] = {
    "Abs": lambda x, a: np.abs(x[0]),
    "Add": lambda x, a: x[0] + x[1],
    "Concat": lambda x, a: np.concatenate(x, a["axis"]),
    "Constant": lambda x, a: _constant(a),
    "ConstantOfShape": lambda x, a: _fill(x[0], a),
    "Div": lambda x, a: _divide(x[0], x[1]),
    "Equal": lambda x, a: x[0] == x[1],
    "Expand": lambda x, a: x[0] * np.ones(x[1].tolist(), x[0].dtype) if _is_small(x[1]) else None,
    "Gather": lambda x, a: np.take(x[0], x[1], a.get("axis", 0)),
    "Greater": lambda x, a: x[0] > x[1],
    "Identity": lambda x, a: x[0],
    "Less": lambda x, a: x[0] < x[1],
    "Max": lambda x, a: np.maximum.reduce(np.broadcast_arrays(*x)),
    "Min": lambda x, a: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Mod": lambda x, a: np.mod(x[0], x[1]) if not a.get("fmod") else np.fmod(x[0], x[1]),
    "Mul": lambda x, a: x[0] * x[1],
    "Neg": lambda x, a: -x[0],
    "Range": lambda x, a: _range(x[0], x[1], x[2]),
    "Reshape": lambda x, a: _reshape(x[0], x[1]),
    "Slice": lambda x, a: _slice(x[0], x[1], x[2], *[*x[3:], None, None][:2]),
    "Squeeze": lambda x, a: np.squeeze(x[0], tuple(x[1].tolist()) if len(x) > 1 else None),
    "Sub": lambda x, a: x[0] - x[1],
    "Transpose": lambda x, a: np.transpose(x[0], a.get("perm")),
    "Unsqueeze": lambda x, a: np.expand_dims(x[0], tuple(x[1].tolist())),
    "Where": lambda x, a: np.where(x[0], x[1], x[2]),
}


def fold(op_type: str, operands: Sequence[Array | None], attributes: Any, dtype: np.dtype[Any]) -> Array | None:
    """Return the output of an operator whose operands are known, None where it is not computed.

    Args:
        op_type: of ONNX's own domain.
        operands: arrays of integers or booleans; None for one that is absent or not known.
        attributes: as the node has them.
        dtype: of the output.

    Example:
        >>> fold("Concat", [np.array([2]), np.array([3, 4])], {"axis": 0}, np.dtype("int64"))
        array([2, 3, 4])
    """
    while operands and operands[-1] is None:
        operands = operands[:-1]
    known = [array for array in operands if array is not None]
    gaps_are_fine = op_type == "Slice" and len(operands) == 5 and operands[3] is None
    if (len(known) < len(operands) and not gaps_are_fine) or any(a.dtype.kind not in "iub" for a in known):
        return None
    compute = _FOLDS.get(op_type) if op_type != "Cast" else lambda x, a: x[0]
    if compute is None or dtype.kind not in "iub":
        return None
    try:
        with np.errstate(all="raise"):
            result = compute(list(operands), attributes)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, np.exceptions.AxisError):
        return None  # a broken graph: the sizes stay unknown
    return None if result is None or result.size > LARGEST else np.asarray(result, dtype)
