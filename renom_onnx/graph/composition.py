"""Operators that the opset lacks, or that are written out for training: bodies of standard operators under one name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np

from renom_onnx.graph import autocast, layer, schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Input, Node, Shape, Value, unknown_dim
from renom_onnx.graph.operators import apply
from renom_onnx.graph.site import user_site

Body = Callable[..., Any]
"""Called as ``body(op, x, …, **attributes)``; returns the value, or a tuple of values, that the operator computes."""
Type = tuple[np.dtype[Any], Shape | None]


def composed(
    name: str,
    body: Body,
    *inputs: GraphElement,
    casts: Sequence[np.dtype[Any] | None] | None = None,
    since: int = 0,
    **attributes: Any,
) -> GraphElement:
    """Return the operator of that name where the opset has it, else a call of a function with the given body.

    Args:
        name: ONNX's name for the operator.
        body: its definition, in operators of opset 18; the first line of its docstring goes into the file.
        inputs: its operands.
        casts: the conversion of each operand, or None.
        since: the opset from which on the operator means this.
        attributes: keyword arguments of the body, and of the node.
    """
    values = [x.output for x in inputs]
    opset = max([autocast.least_opset(), *(v.node.opset for v in values)])
    if opset >= since and schema.has_operator(name, opset):
        return apply(name, *inputs, casts=casts, **attributes)
    casts = tuple(casts) if casts is not None else (None,) * len(values)
    types = [(v.dtype if c is None else c, v.shape) for v, c in zip(values, casts, strict=True)]
    function = function_of(name, body, types, attributes, opset)
    node = call(
        function,
        values,
        attributes,
        output_types(function),
        casts=casts,
        layers=layer.current_layers(),
        site=user_site(),
    )
    return GraphElement(node.output)


def written_out(
    name: str, body: Body, node: Node, **attributes: Any
) -> Callable[[Builder, Sequence[Value | None]], Node]:
    """Return what calls, in place of a node in training, the function of that name and body.

    Args:
        name: the operator name of the calls.
        body: what the node computes, in operators that have gradient rules.
        node: the element in inference.
        attributes: keyword arguments of the body, and of the call.
    """

    def build(op: Builder, inputs: Sequence[Value | None]) -> Node:
        values, casts = list(inputs), node.casts[: len(inputs)]
        types = [None if v is None else (c or v.dtype, v.shape) for v, c in zip(values, casts, strict=True)]
        function = function_of(name, body, types, attributes, op.opset)
        return call(
            function,
            values,
            attributes,
            output_types(function),
            casts=casts,
            layers=node.layers,
            site=node.site,
            origin=node,
        )

    return build


def function_of(
    name: str, body: Body, types: Sequence[Type | None], attributes: dict[str, Any], opset: int
) -> Function:
    """Return the function of a body for operands of these types; None stands for an absent one.

    Sizes that only the run will know are the same to all calls, so that a program that rebuilds its graph makes one
    function.
    """
    numbers: dict[str, str] = {}

    def numbered(shape: Shape | None) -> Shape | None:
        if shape is None:
            return None
        return tuple(numbers.setdefault(d, f"{UNKNOWN_DIM}.{len(numbers)}") if _is_unknown(d) else d for d in shape)

    known = tuple(None if t is None else (t[0], numbered(t[1])) for t in types)
    return _function(name, body, known, tuple(sorted(attributes.items())), opset)


def _is_unknown(dim: Dim) -> TypeGuard[str]:
    return isinstance(dim, str) and dim.startswith(UNKNOWN_DIM)


@functools.lru_cache(maxsize=1024)
def _function(
    name: str, body: Body, types: tuple[Type | None, ...], attributes: tuple[tuple[str, Any], ...], opset: int
) -> Function:
    op = Builder(opset)
    formal_names = list(inspect.signature(body).parameters)[1 : len(types) + 1]
    formals = [
        Input(*(t or (np.dtype(np.float32), ())), name=n.upper()).output
        for n, t in zip(formal_names, types, strict=True)
    ]
    operands = [None if t is None else formal for formal, t in zip(formals, types, strict=True)]
    made = body(op, *operands, **dict(attributes))
    outputs = made if isinstance(made, tuple) else (made,)
    names = ("Y", *(f"Y{i}" for i in range(2, len(outputs) + 1)))
    doc = (inspect.getdoc(body) or "").split("\n")[0]
    return Function(name, DOMAIN, opset, tuple(formals), outputs, names, tuple(key for key, _ in attributes), doc)


def output_types(function: Function) -> list[Type]:
    """Return types and shapes of a function's outputs, with new symbols for sizes that only the run will know."""
    shapes = [
        None if v.shape is None else tuple(unknown_dim() if _is_unknown(d) else d for d in v.shape)
        for v in function.outputs
    ]
    return [(v.dtype, shape) for v, shape in zip(function.outputs, shapes, strict=True)]
