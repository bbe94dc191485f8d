"""The operands of a call of a loaded model, met with what the file declares of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.unification import Symbols, fit
from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.body import Type
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.node import Shape, Value, type_text
from renom_onnx.graph.site import created_at, user_site


@dataclass(frozen=True)
class Operands:
    """What a graph is read over.

    Attributes:
        values: by input.
        casts: the types to which values of another type are converted, by input.
        symbols: what the sizes of the file stand for.
    """

    values: dict[str, Value]
    casts: dict[str, np.dtype[Any]]
    symbols: Symbols


def elements_of(
    declared: Mapping[str, Type], inputs: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, GraphElement]:
    """Return the operand of every input, by position or by name; arrays become static variables.

    Raises:
        ShapeError: an input has no operand or two, or a name is none of an input.
    """
    names = list(declared)
    given = dict(zip(names, inputs, strict=False))
    is_wrong = len(inputs) > len(names) or named.keys() & given.keys() or {*given, *named} != {*names}
    if is_wrong:
        got = [*(f"{len(inputs)} by position" for _ in inputs[:1]), *named]
        raise ShapeError(
            f"LoadedModel: a call must give each of the inputs {', '.join(names) or 'none'} once, got "
            f"{', '.join(got) or 'nothing'}. {created_at(user_site())}"
        )
    given |= named
    return {name: _element(given[name], name, declared[name][1]) for name in names}


def _element(given: Any, name: str, shape: Shape | None) -> GraphElement:
    """Return an array as an element; N stands for its rows unless the file fixes their number."""
    if isinstance(given, GraphElement):
        return given
    element = static(given, is_batch=shape is None or (bool(shape) and not isinstance(shape[0], int)))
    element.output.node.name = name  # type: ignore[attr-defined]
    return element


def meet(declared: Mapping[str, Type], elements: Sequence[GraphElement]) -> Operands:
    """Return the operands of a call.

    Args:
        declared: what the file says of its inputs, by name.
        elements: the operands, in the same order.

    Raises:
        ShapeError: one has other sizes than the file says, or than another operand.
        DTypeError: one is of a type that cannot be converted.
    """
    symbols = Symbols()
    values: dict[str, Value] = {}
    casts: dict[str, np.dtype[Any]] = {}
    for (name, (dtype, shape)), element in zip(declared.items(), elements, strict=True):
        actual = element.output
        if problem := fit(symbols, shape, actual.shape):
            raise ShapeError(
                f"LoadedModel: input {name!r} must be {type_text(dtype, shape)}, {problem}, got {actual}. To free a "
                f'size that the file fixes, load it with inputs={{"{name}": (...)}}. {created_at(user_site())}'
            )
        if actual.dtype != dtype:
            if object in (actual.dtype, dtype) or not np.can_cast(actual.dtype, dtype, "same_kind"):
                raise DTypeError(
                    f"LoadedModel: input {name!r} must be {type_text(dtype, shape)}, got {actual}. Convert it with "
                    f".astype({dtype.name!r}). {created_at(user_site())}"
                )
            casts[name] = dtype
        values[name] = actual
    return Operands(values, casts, symbols)
