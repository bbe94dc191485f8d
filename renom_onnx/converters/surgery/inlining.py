"""`inline`: functions written out, in the graph and in its training steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from renom_onnx.converters.importer import read_model
from renom_onnx.converters.names import Names
from renom_onnx.converters.structure import (
    FunctionKey,
    drop_unused,
    functions_of,
    key_of,
    label_of,
    named_values,
    names_of,
    opsets_of,
    parts,
    rename_in_attributes,
    replace_all,
    subgraphs,
)
from renom_onnx.converters.surgery.opset import converted_nodes, same_operators
from renom_onnx.converters.training_info import needed
from renom_onnx.errors import ConversionError


def inline(model: Any) -> onnx.ModelProto:
    """Return the model without functions: every call is replaced by the nodes of the function's body.

    The nodes of a call named ``dense1/GemmGrad`` are called ``dense1/GemmGrad/MatMul`` and so on, and so are their
    values. What only unwanted outputs of a call need is left out. Onnx's own inliner drops the functions and leaves
    ``training_info``, which calls them, untouched.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.

    Raises:
        ConversionError: functions call each other in a circle, or a body has no form at the model's opset.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.to_training_onnx(loss)
        >>> [node.op_type for node in model.training_info[0].algorithm.node]
        ['ReduceSum', 'Ones', 'GemmGrad', 'SGD', 'SGD']
        >>> inlined = rm.converters.inline(model)
        >>> len(inlined.functions), {node.domain for node in inlined.training_info[0].algorithm.node}
        (0, {''})
    """
    return inline_calls(read_model(model), lambda key: True)


def inline_calls(model: onnx.ModelProto, is_chosen: Callable[[FunctionKey], bool]) -> onnx.ModelProto:
    """Return the model with the calls of the chosen functions written out."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    functions = functions_of(model)
    chosen = {key: function for key, function in functions.items() if is_chosen(key)}
    if not chosen:
        return result
    inliner = _Inliner(chosen, opsets_of(model), names_of(model))
    for graph in parts(result):
        replace_all(graph.node, inliner.nodes(graph.node))
    for domain, version in inliner.imported.items():
        if domain not in opsets_of(result):
            result.opset_import.append(helper.make_opsetid(domain, version))
    drop_unused(result)
    return result


class _Inliner:
    """Writes calls out under one set of names.

    Attributes:
        imported: domains that the bodies use, with their versions.
    """

    def __init__(
        self, functions: Mapping[FunctionKey, onnx.FunctionProto], opsets: Mapping[str, int], names: Names
    ) -> None:
        self._functions = functions
        self._opsets = opsets
        self._names = names
        self._open: list[FunctionKey] = []
        self._at_our_opset: dict[FunctionKey, Sequence[onnx.NodeProto]] = {}
        self._parts: dict[tuple[FunctionKey, tuple[str, ...]], _Part] = {}
        self.imported: dict[str, int] = {}

    def nodes(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes with the calls among them, and in their bodies, written out."""
        written = []
        for node in nodes:
            for body in subgraphs(node):
                replace_all(body.node, self.nodes(body.node))
            key = key_of(node)
            if key in self._functions:
                written += self._call(key, node)
            else:
                written.append(node)
        return written

    def _call(self, key: FunctionKey, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if key in self._open:
            raise ConversionError(
                f"inline: functions must not call themselves, got {key[1]}, which does in node {label_of(node)!r}."
            )
        self._open.append(key)
        function = self._functions[key]
        outputs = dict(zip(function.output, node.output, strict=False))
        wanted = [formal for formal, actual in outputs.items() if actual]
        part = self._part(key, tuple(wanted))
        made = _Body(node, function, self._names).nodes(part.patterns, wanted)
        if not part.is_flat:
            made = self.nodes(made)
        self._open.pop()
        return made

    def _part(self, key: FunctionKey, wanted: tuple[str, ...]) -> _Part:
        """Return what a call needs of a body that wants these outputs; calls that are alike share it."""
        if (key, wanted) not in self._parts:
            if key not in self._at_our_opset:
                self._at_our_opset[key] = self._at_opset(self._functions[key])
            nodes = needed(self._at_our_opset[key], wanted)
            is_flat = not any(subgraphs(node) or key_of(node) in self._functions for node in nodes)
            self._parts[key, wanted] = _Part([_Pattern.of(node) for node in nodes], is_flat)
        return self._parts[key, wanted]

    def _at_opset(self, function: onnx.FunctionProto) -> Sequence[onnx.NodeProto]:
        """Return the body's nodes at the opset of the model."""
        for domain, version in opsets_of(function).items():
            ours = self._opsets.get(domain, self.imported.setdefault(domain, version))
            if ours == version or same_operators(function.node, domain, version, ours):
                continue
            if domain:
                raise ConversionError(
                    f"inline: a function must use the version {ours} of domain {domain} as the model does, got "
                    f"{function.name} with version {version}."
                )
            taken = {name for n in function.node for name in n.output} | set(function.input)
            return converted_nodes(function.node, version, ours, Names(taken))
        return list(function.node)


@dataclass(frozen=True)
class _Pattern:
    """A node of a body, taken apart once for all calls.

    Attributes:
        node: itself.
        bare: a copy without name and operands.
        base: what it is called after.
        inputs: names in the body.
        outputs: likewise.
        is_same: whether its attributes are the same in every call.
    """

    node: onnx.NodeProto
    bare: onnx.NodeProto
    base: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_same: bool

    @staticmethod
    def of(node: onnx.NodeProto) -> _Pattern:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        for field in ("name", "input", "output"):
            bare.ClearField(field)
        is_same = not (subgraphs(node) or named_values(node) or any(a.ref_attr_name for a in node.attribute))
        return _Pattern(node, bare, node.name or node.op_type, tuple(node.input), tuple(node.output), is_same)


@dataclass(frozen=True)
class _Part:
    """What of a body makes some of its outputs.

    Attributes:
        patterns: its nodes.
        is_flat: whether these call no function that is written out, and hold no bodies.
    """

    patterns: list[_Pattern]
    is_flat: bool


class _Body:
    """The body of one function at one call."""

    def __init__(self, call: onnx.NodeProto, function: onnx.FunctionProto, names: Names) -> None:
        self._names = names
        self._prefix = label_of(call)
        self._is_named = bool(call.name)
        self._call, self._function = call, function
        actual = [*call.input, *[""] * len(function.input)]
        self._values: dict[str, str] = dict(zip(function.input, actual, strict=False))
        self._inputs = set(function.input)
        self._outputs = dict(zip(function.output, call.output, strict=False))

    @functools.cached_property
    def _attributes(self) -> dict[str, onnx.AttributeProto]:
        return {a.name: a for a in [*self._function.attribute_proto, *self._call.attribute]}

    def nodes(self, body: Iterable[_Pattern], wanted: Iterable[str]) -> list[onnx.NodeProto]:
        """Return copies of the body's nodes with the names and attributes of the call."""
        passed_on = [formal for formal in wanted if formal in self._inputs]
        self._values.update((f, self._outputs[f]) for f in wanted if f not in self._inputs)
        made = [self._node(pattern) for pattern in body]
        for formal in passed_on:
            node = helper.make_node("Identity", [self._values[formal]], [self._outputs[formal]])
            self._name(node, node.op_type)
            made.append(node)
        return made

    def _node(self, pattern: _Pattern) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(pattern.bare)
        copy.input.extend([self._value(name) for name in pattern.inputs])
        copy.output.extend([self._value(name) for name in pattern.outputs])
        self._name(copy, pattern.base)
        if pattern.is_same:
            return copy
        del copy.attribute[:]
        for attribute in pattern.node.attribute:
            given = self._attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if given is None:
                continue  # neither given by the call nor by default: absent
            own = copy.attribute.add()
            own.CopyFrom(given)
            own.name = attribute.name
            if not attribute.ref_attr_name:
                for graph in [own.g] if own.type == onnx.AttributeProto.GRAPH else own.graphs:
                    self._graph(graph)
        rename_in_attributes(copy, self._value)
        return copy

    def _graph(self, graph: onnx.GraphProto) -> None:
        """Give the names of a body of control flow likewise."""
        for value in [*graph.input, *graph.initializer, *graph.value_info]:
            value.name = self._value(value.name)
        replace_all(graph.node, [self._node(_Pattern.of(node)) for node in graph.node])
        for value in graph.output:
            value.name = self._value(value.name)

    def _value(self, name: str) -> str:
        if not name:
            return name
        if name not in self._values:
            self._values[name] = self._names.fresh(f"{self._prefix}/{name}")
        return self._values[name]

    def _name(self, node: onnx.NodeProto, base: str) -> None:
        if self._is_named:
            node.name = self._names.fresh_node(f"{self._prefix}/{base}")
