"""``element[index]``."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.node import Constant, Value
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site

_FIRST, _LAST = -(2**63) + 1, 2**63 - 1


def get_item(x: GraphElement, index: Any) -> GraphElement:
    """Return ``x[index]``: slices, integers, None for a new axis, an Ellipsis, and one array of integers.

    Slices become one Slice, an integer or an array of them a Gather, None an Unsqueeze.

    Raises:
        ShapeError: more indices than axes, an integer that is out of range, or a second array.
        DTypeError: an index of another kind, such as a mask.

    Source: https://onnx.ai/onnx/operators/onnx__Slice.html, https://onnx.ai/onnx/operators/onnx__Gather.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> a = rm.graph.StaticVariable(np.arange(6).reshape(2, 3))
        >>> print(a[1, ::-1])
        [5 4 3]
    """
    parts = _expanded(x, index if isinstance(index, tuple) else (index,))
    slices: list[tuple[int, int, int, int]] = []
    gathers: list[tuple[int, Value]] = []
    new_axes: list[int] = []
    axis = kept = 0
    for part in parts:
        if part is None:
            new_axes.append(kept)
            kept += 1
            continue
        if isinstance(part, slice):
            if part != slice(None):
                slices.append((axis, *_bounds(part)))
            kept += 1
        else:
            where = _positions(x, part, axis)
            if where.shape != () and any(v.shape != () for _, v in gathers):
                raise ShapeError(
                    f"GetItem: an index must hold one array at most, got a second on axis {axis} of {x.output}. "
                    f"Index in two steps. {created_at(user_site())}"
                )
            gathers.append((axis, where))
            kept += len(where.shape or ())
        axis += 1
    if slices:
        axes, *bounds = (list(column) for column in zip(*slices, strict=True))
        starts, ends, steps = bounds
        x = apply("Slice", x, integers(starts), integers(ends), integers(axes), integers(steps))
    for axis, where in reversed(gathers):
        x = apply("Gather", x, where, axis=axis)
    return apply("Unsqueeze", x, integers(new_axes)) if new_axes else x


def _expanded(x: GraphElement, parts: tuple[Any, ...]) -> list[Any]:
    """Return one part for each axis that is indexed, with the Ellipsis written out."""
    count = sum(1 for part in parts if part is not None and part is not Ellipsis)
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    rank = x.output.rank
    if rank is None or count > rank or len(ellipses) > 1:
        raise ShapeError(
            f"GetItem: an index must have at most one part per axis and one Ellipsis, got {count} parts and "
            f"{len(ellipses)} Ellipses for {x.output}. {created_at(user_site())}"
        )
    if not ellipses:
        return list(parts)
    at = ellipses[0]
    return [*parts[:at], *[slice(None)] * (rank - count), *parts[at + 1 :]]


def _bounds(part: slice) -> tuple[int, int, int]:
    step = 1 if part.step is None else operator.index(part.step)
    if step == 0:
        raise ShapeError(f"GetItem: the step of a slice must not be 0, got {part}. {created_at(user_site())}")
    first, last = (0, _LAST) if step > 0 else (_LAST, _FIRST)
    start = first if part.start is None else operator.index(part.start)
    end = last if part.stop is None else operator.index(part.stop)
    return start, end, step


def _positions(x: GraphElement, part: Any, axis: int) -> Value:
    assert x.shape is not None
    if isinstance(part, GraphElement) and part.dtype.kind in "iu":
        return apply("Cast", part, to=np.dtype(np.int64)).output if part.dtype != np.int64 else part.output
    array = np.asarray(part) if isinstance(part, int | np.integer | list | np.ndarray) else None
    if array is None or array.dtype.kind not in "iu":
        got = f"{part.output}" if isinstance(part, GraphElement) else type(part).__name__
        got = f"an array of {array.dtype}" if array is not None else got
        raise DTypeError(
            f"GetItem: an index must be made of integers, slices, None, Ellipsis and arrays of integers, got {got} on "
            f"axis {axis} of {x.output}. {created_at(user_site())}"
        )
    size = x.shape[axis]
    if isinstance(size, int) and array.size and not (-size <= array.min() and array.max() < size):
        raise ShapeError(
            f"GetItem: an index must be -{size} to {size - 1} on axis {axis}, got {part} for {x.output}. "
            f"{created_at(user_site())}"
        )
    return Constant(array.astype(np.int64)).output
