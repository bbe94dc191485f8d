"""The operands of a call of a loaded model, met with what the file declares of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.unification import Symbols, fit
from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph import schema
from renom_onnx.graph.body import Type
from renom_onnx.graph.element import GraphElement, as_numbers
from renom_onnx.graph.node import Node, Static, Value, type_text
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
    return {name: _element(given[name], name, declared[name]) for name in names}


def _element(given: Any, name: str, declared: Type) -> GraphElement:
    """Return an operand as an element: an array as data, whose rows are N unless the file fixes their number."""
    if isinstance(given, GraphElement):
        return given
    dtype, shape = declared
    if isinstance(given, list | tuple) and schema.item_type(dtype) is not None:
        return _sequence(given, name, dtype)
    if schema.encoded_type(dtype) is not None:
        raise DTypeError(
            f"LoadedModel: input {name!r} must be a list of arrays, if it is a sequence, or an element, got "
            f"{type(given).__name__}. {created_at(user_site())}"
        )
    is_text = dtype.kind == "O"
    array = np.asarray(given, object) if is_text else as_numbers(given, f"LoadedModel: input {name!r}")
    leaf = Static(array, is_batch=True)
    leaf.name = leaf.output.name = name
    if shape is not None and (not shape or isinstance(shape[0], int)):
        leaf.output.shape = array.shape
    return GraphElement(leaf.output)


def _sequence(given: Sequence[Any], name: str, dtype: np.dtype[Any]) -> GraphElement:
    """Return a list of arrays as a sequence."""
    leaves = [Static(as_numbers(item, f"LoadedModel: input {name!r}"), is_batch=False).output for item in given]
    if not leaves:
        attributes = {"dtype": schema.element_type(schema.item_type(dtype) or np.dtype(np.float32))}
        node = Node("SequenceEmpty", [], [(dtype, None)], opset=schema.DEFAULT_OPSET, attributes=attributes)
    else:
        node = Node("SequenceConstruct", leaves, [(dtype, None)], opset=schema.DEFAULT_OPSET)
    return GraphElement(node.output)


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
        if actual.dtype != dtype or schema.encoded_type(actual.dtype) != schema.encoded_type(dtype):
            if "O" in (actual.dtype.kind, dtype.kind) or not np.can_cast(actual.dtype, dtype, "same_kind"):
                raise DTypeError(
                    f"LoadedModel: input {name!r} must be {type_text(dtype, shape)}, got {actual}. Convert it with "
                    f".astype({dtype.name!r}). {created_at(user_site())}"
                )
            casts[name] = dtype
        values[name] = actual
    return Operands(values, casts, symbols)
