"""Sizes that layers ask of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar, cast

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.node import Shape
from renom_onnx.graph.site import created_at, user_site

Sizes = int | Sequence[int]
Padding = int | Sequence[int | tuple[int, int]]
Number = TypeVar("Number", int, float)


def per_axis(value: Number | Sequence[Number], n_axes: int, layer: str, name: str) -> list[Number]:
    """Return one number per spatial axis.

    Raises:
        ShapeError: a sequence has another length.
    """
    sizes = [value] * n_axes if isinstance(value, Real) else list(cast(Sequence[Number], value))
    if len(sizes) != n_axes:
        raise ShapeError(
            f"{layer}: {name} must be one number or {n_axes}, one per spatial axis, got {sizes}. "
            f"{created_at(user_site())}"
        )
    return [_plain(size) for size in sizes]


def both_ends(padding: Padding, n_axes: int, layer: str) -> list[int]:
    """Return the padding of every axis at its begin, then at its end.

    Raises:
        ShapeError: it is not one number, or one or two per spatial axis.
    """
    given = [padding] * n_axes if isinstance(padding, Integral) else list(cast(Sequence[Any], padding))
    pairs = [(p, p) if isinstance(p, Integral) else tuple(p) for p in given]
    if len(pairs) != n_axes or any(len(pair) != 2 for pair in pairs):
        raise ShapeError(
            f"{layer}: padding must be one number or {n_axes}, one or a pair per spatial axis, got {given}. "
            f"{created_at(user_site())}"
        )
    return [int(pair[end]) for end in (0, 1) for pair in pairs]


def _plain(number: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return number.item() if isinstance(number, np.generic) else number


def axes_of(x: GraphElement, layer: str, least: int, form: str) -> Shape:
    """Return the shape of x.

    Raises:
        ShapeError: x has fewer axes than ``least``; ``form`` names those it should have.
    """
    if x.shape is None or len(x.shape) < least:
        count = {1: "one axis", 2: "two axes", 3: "three axes", 4: "four axes"}[least]
        raise ShapeError(
            f"{layer}: x must have {count} or more, {form}, got x is {x.output}. Reshape it first. "
            f"{created_at(user_site())}"
        )
    return x.shape


def exact_axes(x: GraphElement, layer: str, rank: int, form: str) -> Shape:
    """Return the shape of x.

    Raises:
        ShapeError: x has another number of axes than ``rank``; ``form`` names those it should have.
    """
    if x.shape is None or len(x.shape) != rank:
        raise ShapeError(
            f"{layer}: x must have {rank} axes, {form}, got x is {x.output}. Reshape it first. "
            f"{created_at(user_site())}"
        )
    return x.shape


def known_sizes(x: GraphElement, axes: Sequence[int], layer: str) -> list[int]:
    """Return the sizes of axes that are known before a run.

    Raises:
        ShapeError: one is not.
    """
    assert x.shape is not None
    sizes = [x.shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise ShapeError(
            f"{layer}: the sizes of axes {[a % len(x.shape) for a in axes]} of x must be known, got x is {x.output}. "
            f"Give the input fixed sizes there. {created_at(user_site())}"
        )
    return [size for size in sizes if isinstance(size, int)]


def in_groups(groups: int, x: GraphElement, channels_out: int | None, layer: str) -> int:
    """Return C, the channels of x.

    Raises:
        ShapeError: C is not known, or groups do not divide the channels of x and of y.
    """
    c = known_sizes(x, [1], layer)[0]
    if groups < 1 or c % groups or (channels_out or 0) % groups:
        of_y = f" and {channels_out} of y" if channels_out is not None else ""
        both = " and y" if channels_out is not None else ""
        raise ShapeError(
            f"{layer}: groups must divide the channels of x{both}, got groups {groups}, {c} channels of x{of_y}. "
            f"{created_at(user_site())}"
        )
    return c
