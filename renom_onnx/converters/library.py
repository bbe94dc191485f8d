"""The functions of a file, made for the operands of each call; calls alike share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters import encoding, reader
from renom_onnx.errors import ConversionError
from renom_onnx.graph.body import Type
from renom_onnx.graph.function import Function
from renom_onnx.graph.node import UNKNOWN_DIM, Input, Shape, Value, known_array, unknown_dim

LONGEST_EXPANSION = 1_000_000
"""Nodes that a call may stand for, once the calls in its body are written out."""

Key = tuple[str, str, str]
"""Domain, name and overload."""


class Library:
    """The functions of a model.

    Args:
        model: whose functions these are.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._protos: dict[Key, onnx.FunctionProto] = {}
        for function in model.functions:
            key = (function.domain, function.name, function.overload)
            if key in self._protos:
                raise ConversionError(
                    f"load: a function must be defined once, got {function.domain}.{function.name} twice."
                )
            self._protos[key] = function
        self._made: dict[Any, Function] = {}
        self._lengths: dict[Function, int] = {}
        self._open: list[Key] = []

    def find(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """Return the function that a node calls."""
        return self._protos.get((node.domain, node.op_type, node.overload))

    def length(self, function: Function) -> int:
        """Return how many nodes a function stands for."""
        return self._lengths.get(function, 1)

    def instantiate(
        self,
        proto: onnx.FunctionProto,
        types: Sequence[Type | None],
        inputs: Sequence[Value | None],
        given: Mapping[str, onnx.AttributeProto],
        opset: int,
    ) -> Function:
        """Return a function for operands of these types; None stands for an absent one.

        Args:
            proto: the function.
            types: of the operands.
            inputs: the operands, whose values the body may be read with if they are small constants.
            given: the attributes of the call.
            opset: of the default domain, where the function does not say.

        Raises:
            ConversionError: the function calls itself, or stands for more nodes than anybody needs.
        """
        key = (proto.domain, proto.name, proto.overload)
        if key in self._open:
            raise ConversionError(f"load: a function must not call itself, got {proto.domain}.{proto.name}.")
        numbered = _numbered(types)
        known = [known_array(value) for value in inputs]
        arrays = tuple(None if a is None else (a.dtype.str, a.shape, a.tobytes()) for a in known)
        written = tuple((name, a.SerializeToString(deterministic=True)) for name, a in sorted(given.items()))
        call = (key, tuple(numbered), arrays, written, opset)
        if call not in self._made:
            self._open.append(key)
            try:
                self._made[call] = self._read(proto, numbered, known, given, opset)
            finally:
                self._open.pop()
        return self._made[call]

    def _read(
        self,
        proto: onnx.FunctionProto,
        types: Sequence[Type | None],
        known: Sequence[np.ndarray[Any, Any] | None],
        given: Mapping[str, onnx.AttributeProto],
        opset: int,
    ) -> Function:
        formals: list[Value] = []
        values: dict[str, Value | None] = {}
        for i, name in enumerate(proto.input):
            found = types[i] if i < len(types) else None
            dtype, shape = found if found is not None else (np.dtype(np.float32), ())
            formals.append(Input(dtype, shape, name=name, known=known[i] if i < len(known) else None).output)
            values[name] = formals[-1] if found is not None else None
        domains = reader.domain_versions(proto.opset_import, opset)
        attributes = {**{a.name: a for a in proto.attribute_proto}, **given}
        inner = reader.GraphReader(self, domains, values, {}, attributes=attributes)
        inner.read(proto.node)
        outputs = tuple(inner.output(name) for name in proto.output)
        function = Function(
            proto.name,
            proto.domain,
            domains[""],
            tuple(formals),
            outputs,
            tuple(proto.output),
            (*proto.attribute, *(a.name for a in proto.attribute_proto)),
            proto.doc_string,
            {a.name: encoding.plain_attribute(a) for a in proto.attribute_proto},
        )
        length = sum(1 if n.function is None else self._lengths[n.function] for n, _ in inner.nodes)
        if length > LONGEST_EXPANSION:
            raise ConversionError(
                f"load: a function must stand for {LONGEST_EXPANSION} nodes at most, got {proto.domain}.{proto.name} "
                f"of {length}."
            )
        self._lengths[function] = length
        return function


def _numbered(types: Sequence[Type | None]) -> list[Type | None]:
    """Return the types with one name for each size that only the run will know, the same at every call."""
    numbers: dict[str, str] = {}

    def shape_of(shape: Shape | None) -> Shape | None:
        if shape is None:
            return None
        return tuple(
            numbers.setdefault(d, f"{UNKNOWN_DIM}.{len(numbers)}")
            if isinstance(d, str) and d.startswith(UNKNOWN_DIM)
            else d
            for d in shape
        )

    return [None if t is None else (t[0], shape_of(t[1])) for t in types]


def result_types(function: Function, types: Sequence[Type | None]) -> list[Type]:
    """Return the types of a call's outputs: unknown sizes are those of the operands, or the call's own."""
    names: dict[str, str] = {}
    for formal, actual in zip(_numbered(types), types, strict=True):
        if formal is not None and actual is not None and formal[1] is not None and actual[1] is not None:
            pairs = zip(formal[1], actual[1], strict=True)
            names.update({f: a for f, a in pairs if isinstance(f, str) and isinstance(a, str)})

    def outside(shape: Shape | None) -> Shape | None:
        if shape is None:
            return None
        return tuple(
            names.setdefault(d, unknown_dim()) if isinstance(d, str) and d.startswith(UNKNOWN_DIM) else d for d in shape
        )

    return [(v.dtype, outside(v.shape)) for v in function.outputs]
