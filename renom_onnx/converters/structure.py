"""The structure of a model: its graphs and the graphs in them, the names they declare, the functions they call."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import onnx
from onnx import helper, shape_inference

from renom_onnx.converters.names import Names
from renom_onnx.graph.body import WITH_BODIES

FunctionKey = tuple[str, str, str]
"""Domain, name and overload of a function, and of the nodes that call it."""
TRAINING_DOMAIN = "ai.onnx.preview.training"
"""The domain of the specification's own training operators: Gradient, Momentum, Adam, Adagrad."""
_GRAPH, _GRAPHS = onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS
LARGEST_SETTING = 1024
"""Elements of an initializer that can be axes, a shape or the like, which inference reads."""


def parts(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return every graph of a model that stands by itself: the graph, then initialization and algorithm of each entry.

    The algorithm reads names of the graph; the initialization reads none.
    """
    return [model.graph, *(g for info in model.training_info for g in (info.initialization, info.algorithm))]


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the bodies of control flow that a node carries."""
    found: list[onnx.GraphProto] = []
    if not node.domain and node.op_type not in WITH_BODIES:
        return found
    for attribute in node.attribute:
        kind = attribute.type
        if kind == _GRAPH:
            found.append(attribute.g)
        elif kind == _GRAPHS:
            found += attribute.graphs
    return found


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes, and those of the bodies in them."""
    stack = list(nodes)[::-1]
    while stack:
        node = stack.pop()
        yield node
        for graph in subgraphs(node):
            stack += graph.node[::-1]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model: of its graphs, its training steps and its functions."""
    for graph in parts(model):
        yield from every_node(graph.node)
    for function in model.functions:
        yield from every_node(function.node)


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Return every name of a value that a graph, or a body in it, declares or reads."""
    return _names_in([graph])[0]


def names_of(model: onnx.ModelProto) -> Names:
    """Return the names of all values and nodes of a model's graphs, taken."""
    values, nodes = _names_in(parts(model))
    names = Names(values)
    names.take_nodes(nodes)
    return names


def _names_in(graphs: Iterable[onnx.GraphProto]) -> tuple[set[str], set[str]]:
    """Return the names of all values and of all nodes of graphs and of the bodies in them."""
    values: set[str] = set()
    nodes: set[str] = set()
    stack = list(graphs)
    while stack:
        graph = stack.pop()
        values.update(value.name for value in [*graph.input, *graph.initializer, *graph.output])
        values.update(tensor.values.name for tensor in graph.sparse_initializer)
        for node in graph.node:
            values.update(node.input)
            values.update(node.output)
            nodes.add(node.name)
            stack += subgraphs(node)
    return values - {""}, nodes


def key_of(item: onnx.NodeProto | onnx.FunctionProto) -> FunctionKey:
    """Return what connects a call with its function."""
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return domain_of(item), name, item.overload


def domain_of(item: onnx.NodeProto | onnx.FunctionProto | onnx.OperatorSetIdProto) -> str:
    """Return the domain; the default one has two names."""
    return "" if item.domain == "ai.onnx" else item.domain


def label_of(node: onnx.NodeProto) -> str:
    """Return what an error calls a node: its name, else its first output."""
    return str(node.name or next((name for name in node.output if name), node.op_type))


def functions_of(model: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    """Return the functions of a model."""
    return {key_of(function): function for function in model.functions}


def opsets_of(item: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Return the version of every domain that a model or function imports."""
    return {domain_of(opset): int(opset.version) for opset in item.opset_import}


def called(nodes: Iterable[onnx.NodeProto], functions: Mapping[FunctionKey, onnx.FunctionProto]) -> set[FunctionKey]:
    """Return the functions that the nodes call, and those that these call."""
    return _reached(map(key_of, every_node(nodes)), functions)


def _reached(keys: Iterable[FunctionKey], functions: Mapping[FunctionKey, onnx.FunctionProto]) -> set[FunctionKey]:
    found: set[FunctionKey] = set()
    stack = list(keys)
    while stack:
        key = stack.pop()
        if key in functions and key not in found:
            found.add(key)
            stack += map(key_of, every_node(functions[key].node))
    return found


def replace_all(held: Any, items: Iterable[Any]) -> None:
    """Put other items into a repeated field."""
    kept = list(items)
    del held[:]
    held.extend(kept)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove the functions that nobody calls, and the imports of domains that nobody uses but the default one."""
    functions = functions_of(model)
    keys = {key_of(node) for graph in parts(model) for node in every_node(graph.node)}
    used = _reached(keys, functions)
    replace_all(model.functions, [function for function in model.functions if key_of(function) in used])
    inside = {key_of(node) for function in model.functions for node in every_node(function.node)}
    domains = {domain for domain, _, _ in keys | inside} | {""}
    replace_all(model.opset_import, [opset for opset in model.opset_import if domain_of(opset) in domains])


def rename_values(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    """Give every value of a graph, and of the bodies in it, another name; "" stays the absent one."""

    def new(name: str) -> str:
        return rename(name) if name else name

    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = new(value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = new(annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = new(entry.value)
    for node in graph.node:
        rename_in_node(node, new)


def rename_in_node(node: onnx.NodeProto, new: Callable[[str], str]) -> None:
    """Give the values that a node, and the bodies in it, read and write another name."""
    node.input[:] = [new(name) for name in node.input]
    node.output[:] = [new(name) for name in node.output]
    rename_in_attributes(node, new)
    for body in subgraphs(node):
        rename_values(body, new)


def names_in(attribute: onnx.AttributeProto | None) -> list[str]:
    """Return the text, or the texts, of an attribute."""
    if attribute is None:
        return []
    texts = [attribute.s] if attribute.type == onnx.AttributeProto.STRING else attribute.strings
    return [text.decode(errors="replace") for text in texts]


def rename_in_attributes(node: onnx.NodeProto, new: Callable[[str], str]) -> None:
    """Give the values that a Gradient names in its attributes another name."""
    for attribute in named_values(node):
        if attribute.type == onnx.AttributeProto.STRING:
            attribute.s = new(attribute.s.decode(errors="replace")).encode()
        else:
            attribute.strings[:] = [new(name.decode(errors="replace")).encode() for name in attribute.strings]


def named_values(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """Return the attributes whose text is the names of values: xs, zs and y of a Gradient."""
    if (node.domain, node.op_type) != (TRAINING_DOMAIN, "Gradient"):
        return []
    return [attribute for attribute in node.attribute if attribute.name in ("xs", "zs", "y")]


def bare_model(model: onnx.ModelProto, graph: onnx.GraphProto, wanted: Set[str] | None = None) -> onnx.ModelProto:
    """Return a model of a graph for inference of types: initializers that are no settings are inputs.

    Args:
        model: whose functions and imports the graph uses.
        graph: of the model, or the concatenation of graph and algorithm.
        wanted: names of the values to keep, with all that they are made by; default: everything.
    """

    def kept(values: Iterable[Any]) -> list[Any]:
        return [value for value in values if wanted is None or value.name in wanted]

    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.node.extend(n for n in graph.node if wanted is None or not wanted.isdisjoint(n.output))
    for field in ("input", "output", "value_info"):
        getattr(bare.graph, field).extend(kept(getattr(graph, field)))
    bare.graph.name = graph.name
    declared = {value.name for value in graph.input}
    for tensor in kept(graph.initializer):
        if math.prod(tensor.dims) <= LARGEST_SETTING:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return bare


def inferred_types(model: onnx.ModelProto, graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Return the types that inference finds for the values of a graph, which has the functions of a model.

    Args:
        model: whose functions and imports the graph uses.
        graph: of the model, or the concatenation of graph and algorithm.
    """
    bare = bare_model(model, graph)
    types = {t.name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for t in graph.initializer}
    with contextlib.suppress(Exception):  # a model that inference refuses keeps the types that it declares
        bare = shape_inference.infer_shapes(bare, data_prop=True)
    for value in [*bare.graph.value_info, *bare.graph.output, *bare.graph.input]:
        types.setdefault(value.name, value.type)
    return types
