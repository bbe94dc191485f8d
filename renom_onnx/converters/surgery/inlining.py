"""`inline`: functions written out, in the graph and in its training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
        body = _Body(node, function, self._names)
        made = self.nodes(body.nodes(needed(self._at_opset(function), wanted), wanted))
        self._open.pop()
        return made

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


class _Body:
    """The body of one function at one call."""

    def __init__(self, call: onnx.NodeProto, function: onnx.FunctionProto, names: Names) -> None:
        self._names = names
        self._prefix = label_of(call)
        self._is_named = bool(call.name)
        self._attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
        actual = [*call.input, *[""] * len(function.input)]
        self._values: dict[str, str] = dict(zip(function.input, actual, strict=False))
        self._inputs = set(function.input)
        self._outputs = dict(zip(function.output, call.output, strict=False))

    def nodes(self, body: Iterable[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
        """Return copies of the body's nodes with the names and attributes of the call."""
        passed_on = [formal for formal in wanted if formal in self._inputs]
        self._values.update((f, self._outputs[f]) for f in wanted if f not in self._inputs)
        made = [self._node(node) for node in body]
        for formal in passed_on:
            node = helper.make_node("Identity", [self._values[formal]], [self._outputs[formal]])
            self._name(node)
            made.append(node)
        return made

    def _node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._value(name) for name in node.input]
        copy.output[:] = [self._value(name) for name in node.output]
        self._name(copy)
        del copy.attribute[:]
        for attribute in node.attribute:
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
        replace_all(graph.node, [self._node(node) for node in graph.node])
        for value in graph.output:
            value.name = self._value(value.name)

    def _value(self, name: str) -> str:
        if not name:
            return name
        if name not in self._values:
            self._values[name] = self._names.fresh(f"{self._prefix}/{name}")
        return self._values[name]

    def _name(self, node: onnx.NodeProto) -> None:
        base = node.name or node.op_type
        node.ClearField("name")
        if self._is_named:
            node.name = self._names.fresh_node(f"{self._prefix}/{base}")
