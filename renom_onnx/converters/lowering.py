"""`lower`: the training operators of the specification, in operators that every runtime has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from onnx import helper

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.gradient_operator import GradientLowering
from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.spec_optimizer import FORMULAS, optimizer_function, tensor_count
from renom_onnx.converters.structure import (
    TRAINING_DOMAIN,
    FunctionKey,
    called,
    domain_of,
    drop_unused,
    every_node,
    functions_of,
    inferred_types,
    key_of,
    label_of,
    named_values,
    opsets_of,
    parts,
    replace_all,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.surgery.opset import convert_opset
from renom_onnx.converters.training_info import concatenate
from renom_onnx.converters.writer import function_proto
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.function import DOMAIN, DOMAIN_VERSION


def lower(model: Any) -> onnx.ModelProto:
    """Return the model with the training operators of `ai.onnx.preview.training` in terms of standard operators.

    Every Gradient becomes gradient nodes, by the same rules as a backward pass of our own; where it asks for the
    gradient at other values than those that the graph computes, the part of the graph between them and y is repeated
    there. Of a y that is no single number it is the gradient of the sum. Momentum, Adam and Adagrad stay, as calls of
    functions of that very name that the file then defines, unless it does already. A stock onnxruntime, which has
    neither of them, runs the result. Opsets below 18 are upgraded to 18.

    Sessions do this by themselves with every file that they open.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.

    Raises:
        ConversionError: a node is not as the specification says, or the type of a value that it needs is unknown.
        GradientError: an operator between y and the values has no gradient rule.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Gradient.html.

    Example:
        >>> import onnx
        >>> text = '''<ir_version: 8, opset_import: ["": 18, "ai.onnx.preview.training": 1]>
        ... f (float[N] x) => (float[N] dx) {
        ...     y = Exp (x)
        ...     dx = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (x)
        ... }'''
        >>> [node.op_type for node in lower(onnx.parser.parse_model(text)).graph.node]
        ['Exp', 'Shape', 'Expand', 'ExpGrad']
    """
    return lowered(read_model(model))


def lowered(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return what `lower` does, of a model that was read already."""
    if not has_training_operators(proto):
        return proto
    functions = functions_of(proto)
    hiding = {key for key in functions if key[0] != TRAINING_DOMAIN and _calls_operators(key, functions)}
    result = inline_calls(proto, lambda key: key in hiding)
    if default_opset(result) < schema.DEFAULT_OPSET:
        result = convert_opset(result, schema.DEFAULT_OPSET)
    known = opsets_of(result)
    imports = {"": schema.DEFAULT_OPSET, DOMAIN: DOMAIN_VERSION}
    result.opset_import.extend(helper.make_opsetid(d, v) for d, v in imports.items() if d not in known)
    gradients = GradientLowering(result)
    gradients.lower(result.graph)
    for info in result.training_info:
        gradients.lower(info.algorithm, result.graph)
        gradients.lower(info.initialization)
    result.functions.extend(_optimizer_functions(result))
    _share_functions(result)
    result.ir_version = max(result.ir_version, schema.DEFAULT_IR_VERSION)
    drop_unused(result)
    return result


def has_training_operators(model: onnx.ModelProto) -> bool:
    """Whether a model has a Gradient, or an optimizer of the specification that it does not define itself."""
    functions = functions_of(model)
    nodes = [node for graph in parts(model) for node in every_node(graph.node)]
    nodes += [node for function in model.functions for node in every_node(function.node)]
    return any(_is_training_operator(node, functions) for node in nodes)


def _is_training_operator(node: onnx.NodeProto, functions: Mapping[FunctionKey, onnx.FunctionProto]) -> bool:
    return bool(named_values(node)) or (domain_of(node) == TRAINING_DOMAIN and key_of(node) not in functions)


def _calls_operators(key: FunctionKey, functions: dict[FunctionKey, onnx.FunctionProto]) -> bool:
    bodies = [functions[key], *(functions[inner] for inner in called(functions[key].node, functions))]
    return any(_is_training_operator(node, functions) for f in bodies for node in every_node(f.node))


def _optimizer_functions(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return functions for the optimizer nodes that have none, and let the nodes call them."""
    known = functions_of(model)
    found: dict[str, dict[str, tuple[onnx.FunctionProto, list[onnx.NodeProto]]]] = {}
    scopes = [(model.graph, model.graph)]
    for i, info in enumerate(model.training_info):
        scopes += [(info.algorithm, concatenate(model, i)), (info.initialization, info.initialization)]
    for graph, whole in scopes:
        nodes = [n for n in every_node(graph.node) if domain_of(n) == TRAINING_DOMAIN and key_of(n) not in known]
        types = inferred_types(model, whole) if nodes else {}
        for node in nodes:
            function = _optimizer_function(node, types, default_opset(model))
            digest = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()[:8]
            found.setdefault(node.op_type, {}).setdefault(digest, (function, []))[1].append(node)
    taken = {(domain, name) for domain, name, _ in known}
    functions = []
    for op_type, bodies in found.items():
        for digest, (function, callers) in bodies.items():
            if len(bodies) > 1 or (TRAINING_DOMAIN, op_type) in taken:
                function.overload = digest
                for node in callers:
                    node.overload = digest
            functions.append(function)
    return functions


def _optimizer_function(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], opset: int) -> onnx.FunctionProto:
    if node.op_type not in FORMULAS:
        raise ConversionError(
            f"lower: an operator of {TRAINING_DOMAIN} must be Gradient, {', '.join(sorted(FORMULAS))}, got "
            f"{node.op_type} in node {label_of(node)!r}."
        )
    n = tensor_count(node.op_type, len(node.input))
    if n is None or "" in node.input:
        letters = ["X", "G", *FORMULAS[node.op_type].state]
        groups = f"{', '.join(letters[:-1])} and {letters[-1]}"
        raise ConversionError(
            f"lower: {node.op_type} must have the inputs R and T, and then {groups} for every tensor, got "
            f"{len([name for name in node.input if name])} inputs in node {label_of(node)!r}."
        )
    known = [value_type(types[name]) if name in types else None for name in node.input]
    for name, found in zip(node.input, known, strict=True):
        if found is None or schema.encoded_type(found[0]) == b"":
            raise ConversionError(
                f"lower: the element type of every value must be known, got {name!r} without one, which "
                f"{node.op_type} reads in node {label_of(node)!r}. Give it a value_info."
            )
    attributes = {a.name: schema._plain(helper.get_attribute_value(a)) for a in node.attribute}
    operator = schema.operator(node.op_type, 1, TRAINING_DOMAIN)
    plain = schema.plain_attributes(operator, attributes)
    return function_proto(optimizer_function(node.op_type, plain, [t for t in known if t is not None], opset))


def _share_functions(model: onnx.ModelProto) -> None:
    """Let calls of two overloads with one and the same body call the first."""
    first: dict[bytes, FunctionKey] = {}
    same: dict[FunctionKey, str] = {}
    for function in model.functions:
        plain = onnx.FunctionProto()
        plain.CopyFrom(function)
        plain.ClearField("overload")
        key = first.setdefault(plain.SerializeToString(deterministic=True), key_of(function))
        if key != key_of(function):
            same[key_of(function)] = key[2]
    for graph in parts(model):
        _call_others(every_node(graph.node), same)
    replace_all(model.functions, [function for function in model.functions if key_of(function) not in same])


def _call_others(nodes: Iterable[onnx.NodeProto], overloads: Mapping[FunctionKey, str]) -> None:
    for node in nodes:
        overload = overloads.get(key_of(node))
        if overload is not None:
            node.overload = overload
            if not overload:
                node.ClearField("overload")
