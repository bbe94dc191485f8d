"""`lint`: what is wrong with a file's training step, which onnx.checker does not look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import onnx
from onnx import shape_inference

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.importer import captured, read_model
from renom_onnx.converters.lowering import lowered
from renom_onnx.converters.structure import (
    FunctionKey,
    domain_of,
    every_node,
    functions_of,
    key_of,
    label_of,
    named_values,
    names_in,
    opsets_of,
    value_names,
)
from renom_onnx.converters.surgery.opset import same_operators
from renom_onnx.converters.training_info import concatenate, joined, with_graph
from renom_onnx.errors import RenomError, first_line
from renom_onnx.graph import schema
from renom_onnx.graph.node import type_text


def lint(model: Any) -> list[str]:
    """Return the problems of a model and of its training steps, a sentence each; none is an empty list.

    Checked are: the inference reading by onnx.checker; bindings whose key is no initializer, whose value is no output,
    that are given twice or change type or shape; operators that neither ONNX nor the file defines, and function bodies
    that mean something else at the model's opset; names that the algorithm declares again or reads without anybody
    writing them, also in the attributes of Gradient; the concatenation of graph and algorithm by onnx.checker, and the
    initialization, which must stand by itself.

    Args:
        model: a ModelProto, path or bytes.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> from renom_onnx.converters import lint
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.to_training_onnx(loss)
        >>> lint(model)
        []
        >>> model.training_info[0].update_binding[0].key = "nobody"
        >>> lint(model)[0]
        "training_info[0]: update_binding: the key must name an initializer, got 'nobody', which is none."
    """
    proto = read_model(model)
    known = set(functions_of(proto))
    problems = [f"graph: {p}" for p in _unknown_operators(known, opsets_of(proto), proto.graph.node)]
    problems += [f"functions: {p}" for function in proto.functions for p in _function_problems(proto, known, function)]
    problems += [f"graph: {p}" for p in _gradient_problems(proto.graph)]
    own = [list(_structure_problems(proto, info)) for info in proto.training_info]
    lowered, reason = _checkable(proto) if not problems and not any(own) else (proto, [])
    problems += reason
    if not problems:
        problems = _checked(with_graph(lowered, lowered.graph), "graph")
    is_sound = not problems
    for i, info in enumerate(proto.training_info):
        checked = _checked_step(lowered, i) if is_sound and not own[i] else []
        found = [*own[i], *_binding_problems(proto, i, info), *checked]
        problems += [f"training_info[{i}]: {problem}" for problem in found]
    problems += _bound_twice("update_binding", [b for info in proto.training_info for b in info.update_binding])
    return problems


def _checkable(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return what can be checked of a model: onnx's inference does not know the types of a Gradient."""
    try:
        return lowered(model), []
    except RenomError as e:
        return model, [str(e)]


def _structure_problems(model: onnx.ModelProto, info: onnx.TrainingInfoProto) -> Iterable[str]:
    """Yield what is wrong with names and operators of a training step."""
    graph = joined(model.graph, info.algorithm)
    known, opsets = set(functions_of(model)), opsets_of(model)
    yield from _redeclared(model.graph, info.algorithm)
    yield from _unknown_operators(known, opsets, info.algorithm.node)
    yield from _unwritten(graph)
    yield from _gradient_problems(graph)
    yield from _initialization_problems(known, opsets, info.initialization)


def _binding_problems(model: onnx.ModelProto, index: int, info: onnx.TrainingInfoProto) -> Iterable[str]:
    graph = concatenate(model, index)
    initializers = {t.name: t for t in graph.initializer}
    outputs = {o.name: o for o in graph.output}
    initial = {o.name: o for o in info.initialization.output}
    for kind, bindings, values in (
        ("update_binding", info.update_binding, outputs),
        ("initialization_binding", info.initialization_binding, initial),
    ):
        for binding in bindings:
            if binding.key not in initializers:
                yield f"{kind}: the key must name an initializer, got {binding.key!r}, which is none."
            elif binding.value not in values:
                yield f"{kind}: the value of {binding.key!r} must name an output, got {binding.value!r}, which is none."
            else:
                yield from _type_problem(kind, binding, initializers[binding.key], values[binding.value])
    yield from _bound_twice("initialization_binding", info.initialization_binding)


def _checked_step(model: onnx.ModelProto, index: int) -> list[str]:
    """Return what onnx.checker says of a training step and of what starts it."""
    problems = _checked(with_graph(model, concatenate(model, index)), "the concatenation with the graph")
    initialization = model.training_info[index].initialization
    if initialization.node or initialization.output:
        problems += _checked(with_graph(model, initialization), "the initialization")
    return problems


def _type_problem(kind: str, binding: Any, tensor: onnx.TensorProto, output: onnx.ValueInfoProto) -> Iterable[str]:
    dtype, shape = value_type(output.type)
    got = type_text(dtype, shape)
    wanted = type_text(value_type(_tensor_type(tensor))[0], tuple(tensor.dims))
    sizes_differ = shape is not None and (
        len(shape) != len(tensor.dims)
        or any(isinstance(d, int) and d != n for d, n in zip(shape, tensor.dims, strict=True))
    )
    if output.type.tensor_type.elem_type != tensor.data_type or sizes_differ:
        yield f"{kind}: {binding.value!r} must be {wanted} like {binding.key!r}, got {got}."


def _tensor_type(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _redeclared(graph: onnx.GraphProto, algorithm: onnx.GraphProto) -> Iterable[str]:
    own = {name for node in graph.node for name in node.output if name}
    own |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
    again = [i.name for i in algorithm.input] + [t.name for t in algorithm.initializer]
    again += [name for node in algorithm.node for name in node.output if name]
    for name in dict.fromkeys(name for name in again if name in own):
        yield f"the algorithm must not declare a name of the graph again, got {name!r}."


def _unknown_operators(
    functions: Collection[FunctionKey], opsets: Mapping[str, int], nodes: Iterable[onnx.NodeProto]
) -> Iterable[str]:
    for node in every_node(nodes):
        domain = domain_of(node)
        if key_of(node) in functions:
            continue
        if domain not in opsets or not schema.has_operator(node.op_type, opsets[domain], domain):
            got = f"{f'{domain}.' if domain else ''}{node.op_type} in node {node.name!r}"
            yield f"every operator must be defined by ONNX or by a function of the file, got {got}."


def _function_problems(
    model: onnx.ModelProto, functions: Collection[FunctionKey], function: onnx.FunctionProto
) -> Iterable[str]:
    own = opsets_of(function)
    broken = list(_unknown_operators(functions, own, function.node))
    yield from broken
    for domain, version in opsets_of(model).items():
        if not broken and not same_operators(function.node, domain, own.get(domain, version), version):
            yield (
                f"a body must mean the same at the model's opset {version}, got {function.name}, written at opset "
                f"{own[domain]}."
            )


def _gradient_problems(graph: onnx.GraphProto) -> Iterable[str]:
    written = value_names(graph)
    for node in every_node(graph.node):
        attributes = {attribute.name: attribute for attribute in named_values(node)}
        for name in [*names_in(attributes.get("xs")), *names_in(attributes.get("zs")), *names_in(attributes.get("y"))]:
            if name not in written:
                yield f"Gradient must name values in xs, zs and y, got {name!r} in node {label_of(node)!r}."
        n_named = len(names_in(attributes.get("xs"))) + len(names_in(attributes.get("zs")))
        if attributes and n_named != len(node.input):
            yield (
                f"Gradient must have an input for every name in xs and zs, got {len(node.input)} inputs and {n_named} "
                f"names in node {label_of(node)!r}."
            )


def _initialization_problems(
    functions: Collection[FunctionKey], opsets: Mapping[str, int], graph: onnx.GraphProto
) -> Iterable[str]:
    yield from _unknown_operators(functions, opsets, graph.node)
    for value in graph.input:
        yield f"the initialization must have no inputs, got {value.name!r}."
    for problem in _unwritten(graph):
        yield f"the initialization: {problem}"


def _bound_twice(kind: str, bindings: Iterable[onnx.StringStringEntryProto]) -> list[str]:
    keys = Counter(binding.key for binding in bindings)
    return [f"{kind}: a key must be bound once, got {key!r} {n} times." for key, n in keys.items() if n > 1]


def _unwritten(graph: onnx.GraphProto) -> Iterable[str]:
    written = {""} | {i.name for i in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        for name in [*node.input, *captured(node)]:
            if name not in written:
                yield f"every input must be written before it is read, got {name!r} read by node {node.name!r}."
        written.update(node.output)


def _checked(model: onnx.ModelProto, what: str) -> list[str]:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError) as e:
        return [f"{what} must pass onnx.checker, got: {first_line(e)}."]
    return []
