"""Feeds: what a session is given, checked against what its file asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.node import Dim, type_text
from renom_onnx.graph.rows import Picked

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FeedSpec:
    """Name, element type and sizes of an input; None where the rank is unknown."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...] | None


MAX_SIGNATURES = 16
"""Signatures of feeds that a session remembers to have checked."""

Signature = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


def signature_of(feeds: Mapping[str, Any]) -> Signature | None:
    """Return names, types and sizes, on which alone it depends whether feeds fit; None where one is no array.

    Example:
        >>> signature_of({"x": np.zeros((2, 3))})
        (('x', dtype('float64'), (2, 3)),)
    """
    found = []
    for name, array in feeds.items():
        if type(array) is not np.ndarray and type(array) is not Picked:
            return None
        found.append((name, array.dtype, array.shape))
    return tuple(found)


def check_feeds(
    caller: str, specs: Sequence[FeedSpec], feeds: Mapping[str, Any], optional: Sequence[str] = ()
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the feeds as arrays, and the size of every symbol.

    Raises:
        ShapeError: a feed is missing or unknown, its shape is another, or a symbol has two sizes.
        DTypeError: its element type is another.
    """
    for name in feeds:
        if not any(spec.name == name for spec in specs):
            known = {spec.name for spec in specs}
            raise ShapeError(f"{caller}: a feed must be one of {', '.join(sorted(known)) or 'none'}, got {name!r}.")
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in feeds:
            if spec.name in optional:
                continue
            given = ", ".join(repr(name) for name in feeds) or "none"
            raise ShapeError(f"{caller}: every input must be fed, got {given}, but {spec.name!r} is missing.")
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            array = np.asarray(array, dtype=spec.dtype if isinstance(array, int | float) else None)
        _check(caller, spec, array, sizes)
        arrays[spec.name] = array
    return arrays, sizes


def _check(caller: str, spec: FeedSpec, array: Array, sizes: dict[str, int]) -> None:
    fits = spec.shape is None or len(spec.shape) == array.ndim
    if spec.shape is not None and fits:
        for dim, size in zip(spec.shape, array.shape, strict=True):
            if dim == size:
                continue
            if not isinstance(dim, str):
                fits = False
            elif sizes.setdefault(dim, size) != size:
                rule = f"{_rule(caller, spec)} with {dim} = {sizes[dim]} as in the feeds before it"
                raise ShapeError(f"{rule}, got {type_text(array.dtype, array.shape)}.")
    if array.dtype != spec.dtype:
        got = type_text(array.dtype, array.shape)
        raise DTypeError(f'{_rule(caller, spec)}, got {got}. Convert with {spec.name}.astype("{spec.dtype.name}").')
    if not fits:
        raise ShapeError(f"{_rule(caller, spec)}, got {type_text(array.dtype, array.shape)}.")


def _rule(caller: str, spec: FeedSpec) -> str:
    return f"{caller}: feed {spec.name!r} must be {type_text(spec.dtype, spec.shape)}"
