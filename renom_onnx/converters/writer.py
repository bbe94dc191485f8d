"""Writing nodes as protobuf: the one place where elements become ONNX nodes, initializers and functions."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.names import BodyNames, CallNames, Names
from renom_onnx.graph import schema
from renom_onnx.graph.body import Body, attribute_bodies, captures, operand_count
from renom_onnx.graph.function import DOMAIN_VERSION, Function
from renom_onnx.graph.node import UNKNOWN_DIM, Constant, Node, Shape, Value, ancestors
from renom_onnx.graph.note import Opaque


def read_values(nodes: Iterable[Node], wanted: Iterable[Value]) -> set[Value]:
    """Return the values that a node reads or that are wanted themselves."""
    return {value for node in nodes for value in node.inputs if value is not None} | set(wanted)


class FunctionTable:
    """The functions of one model, with an overload where one name needs several bodies.

    A call is of a body that computes what is read and nothing else: onnxruntime (1.32) does not remove the nodes behind
    an output that a call leaves out.

    Args:
        nodes: of the model.
        read: what is read of them, as `read_values` returns it.
        reserved: domains and names of functions that the model has already.
    """

    def __init__(self, nodes: Iterable[Node], read: set[Value], reserved: Iterable[tuple[str, str]] = ()) -> None:
        self._called: dict[Node, Function] = {}
        parts = [(nodes, read)]
        for inner, read_there in parts:
            for node in inner:
                if node.function is not None:
                    self._called[node] = node.function.restricted(tuple(v in read_there for v in node.outputs))
                for _, body in attribute_bodies(node.attributes):
                    parts.append((body.nodes, read_values(body.nodes, body.outputs)))
        self._functions = list(dict.fromkeys(self._called.values()))
        digests: dict[tuple[str, str], set[str]] = {key: {"reserved"} for key in reserved}
        for function in self._functions:
            digests.setdefault((function.domain, function.name), set()).add(digest(function))
        self._several = {key for key, found in digests.items() if len(found) > 1}

    def called(self, node: Node) -> Function:
        """Return the function that a node calls."""
        return self._called[node]

    def overload(self, function: Function) -> str:
        """Return the overload under which the function stands in the model."""
        return digest(function) if (function.domain, function.name) in self._several else ""

    def protos(self, opset: int | None = None) -> list[onnx.FunctionProto]:
        """Return the functions, equal bodies once, at the opset of the model that holds them, as its nodes are."""
        written: dict[tuple[str, str, str], onnx.FunctionProto] = {}
        for function in self._functions:
            overload = self.overload(function)
            key = (function.domain, function.name, overload)
            if key not in written:
                written[key] = proto = function_proto(function, overload)
                for entry in proto.opset_import:
                    if opset is not None and entry.domain == "":
                        entry.version = opset
        return list(written.values())


_digests: weakref.WeakKeyDictionary[Function, str] = weakref.WeakKeyDictionary()


def digest(function: Function) -> str:
    """Return the first 8 hex digits of the SHA-256 of the body."""
    found = _digests.get(function)
    if found is None:
        proto = function_proto(function)
        found = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:8]
        _digests[function] = found
    return found


def function_proto(function: Function, overload: str = "") -> onnx.FunctionProto:
    """Return the function as protobuf.

    Its body calls no function but is written out: onnxruntime (1.32) finds no overload that a body calls.
    """
    names = Names()
    inputs = [names.give(value, str(value.name)) for value in function.inputs]
    for value, name in zip(function.outputs, function.output_names, strict=True):
        names.give(value, name)
    writer = Writer(names, inline=True, in_function=True)
    body = function.body()
    writer.write(body, read_values(body, function.outputs))
    imports = [helper.make_opsetid("", function.opset), *domain_imports(body, inline=True)]
    return helper.make_function(
        function.domain,
        function.name,
        inputs,
        [names.of(value) for value in function.outputs],
        writer.nodes,
        imports,
        attributes=list(function.attribute_names),
        doc_string=function.doc or None,
        overload=overload or None,
    )


def domain_imports(nodes: Iterable[Node], *, inline: bool) -> list[onnx.OperatorSetIdProto]:
    """Return the imports of the domains, the default one apart, of nodes and of the nodes in their bodies.

    Args:
        nodes: what is written.
        inline: whether calls are written out.
    """
    versions: dict[str, int] = {}
    stack, seen = [iter(nodes)], set()
    while stack:
        for node in stack.pop():
            if inline and node.function is not None:
                if node.function not in seen:
                    seen.add(node.function)
                    stack.append(iter(node.function.body()))
            elif node.domain:
                version = node.note.version if node.note is not None and node.function is None else DOMAIN_VERSION
                versions[node.domain] = max(version, versions.get(node.domain, 0))
            stack += [iter(body.nodes) for _, body in attribute_bodies(node.attributes)]
    return [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]


class Writer:
    """Writes nodes in order; after `write`, `nodes` and `initializers` hold the protobuf."""

    def __init__(
        self,
        names: Names,
        *,
        functions: FunctionTable | None = None,
        inline: bool = False,
        in_function: bool = False,
        node_names: Mapping[Node, str] | None = None,
        fed_types: Mapping[Value, np.dtype[Any]] | None = None,
    ) -> None:
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._functions = functions
        self._inline = inline
        self._in_function = in_function
        self._node_names = node_names or {}
        self._fed_types = fed_types or {}

    def write(self, nodes: Sequence[Node], read: set[Value]) -> None:
        """Write the nodes; outputs of calls that are not among ``read`` are left out."""
        readers: dict[Value, Node] = {}  # of constants: the first, which names them
        for node in nodes:
            if node.function is None:
                for value in node.inputs:
                    if value is not None and isinstance(value.node, Constant):
                        readers.setdefault(value, node)
        for node in nodes:
            if isinstance(node, Constant):
                self._constant(node, readers.get(node.output))
            elif not node.is_leaf:
                self._node(node, read)

    def _constant(self, node: Constant, reader: Node | None) -> None:
        if node.output in self.names:
            name = self.names.of(node.output)
        else:
            name = self.names.give(node.output, self._constant_name(node, reader))
        if node.note is not None:
            node_name = node.note.name if self._in_function else self.names.fresh_node(node.note.name or name)
            self.nodes.append(constant_proto(node, name, node_name or None))
        else:
            self._tensor(node.array, name)

    def _constant_name(self, constant: Constant, reader: Node | None) -> str:
        if self._in_function or constant.output.name:
            return constant.output.name or "Constant"
        if reader is None:
            return "constant"
        if not schema.has_operator(reader.op_type, reader.opset, reader.domain):
            return f"{self._node_names.get(reader, reader.op_type)}.constant"
        operator = schema.operator(reader.op_type, reader.opset, reader.domain)
        formal = operator.input(reader.inputs.index(constant.output))
        return f"{self._node_names.get(reader, reader.op_type)}.{formal.name.lower()}"

    def _tensor(self, array: np.ndarray[Any, Any], name: str) -> None:
        if self._in_function:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))

    def _node(self, node: Node, read: set[Value]) -> None:
        node_name = self._node_names.get(node) or node.op_type
        if not self._in_function:
            node_name = self.names.fresh_node(node_name)
        inputs = [self._operand(v, cast, node_name) for v, cast in zip(node.inputs, node.casts, strict=True)]
        outputs = self._outputs(node, node_name, read)
        if self._inline and node.function is not None:
            self._write_out(node.function, node_name, inputs, outputs)
            return
        overload = None
        if node.function is not None:
            assert self._functions is not None
            function = self._functions.called(node)
            overload = self._functions.overload(function)
            outputs = outputs if function is node.function else [name for name in outputs if name]
            inputs = [
                "" if v is not None and v.dtype.name.startswith("float8") and not function.reads(i) else name
                for i, (v, name) in enumerate(zip(node.inputs, inputs, strict=True))
            ]  # onnxruntime (1.32) takes a float of 8 bits only where the body says that it is one
        name = None if self._in_function else node_name
        graphs = [self._graph(body, outside, node_name) for body, outside in captures(node)]
        self.nodes.append(node_proto(node, inputs[: operand_count(node)], outputs, name, overload, graphs))

    def _graph(self, body: Body, outside: Sequence[Value | None], node_name: str) -> onnx.GraphProto:
        """Return a body of a node, which reads values from outside by their names."""
        names = BodyNames(self.names)
        for formal, value in zip(body.captures, outside, strict=True):
            assert value is not None
            names.see(formal, self.names.of(value))
        for value in [*body.inputs, *(v for node in body.nodes for v in node.outputs)]:
            if value.name:
                names.give(value, value.name)
        node_names = {n: (n.note.name if n.note else "") or f"{node_name}/{n.op_type}" for n in body.nodes}
        writer = Writer(
            names,
            functions=self._functions,
            inline=self._inline,
            in_function=self._in_function,
            node_names={} if self._in_function else node_names,
        )
        writer.write(body.nodes, read_values(body.nodes, body.outputs))
        inputs, outputs = ([_inner_info(names.of(v), v) for v in values] for values in (body.inputs, body.outputs))
        return helper.make_graph(writer.nodes, body.name, inputs, outputs, writer.initializers)

    def _outputs(self, node: Node, node_name: str, read: set[Value]) -> list[str]:
        several = len(node.outputs) > 1
        outputs = []
        for i, value in enumerate(node.outputs):
            if value in self.names:
                outputs.append(self.names.of(value))
            elif value not in read and self._may_be_absent(node, i):
                outputs.append("")
            elif several and node.function is not None:
                outputs.append(self.names.give(value, f"{node_name}.{node.function.output_names[i]}"))
            else:
                name = value.name if node.note is not None and value.name else node_name
                outputs.append(self.names.give(value, f"{node_name}:{i}" if several and i and not value.name else name))
        if node.function is None:
            while outputs and not outputs[-1]:
                outputs.pop()
        return outputs

    def _may_be_absent(self, node: Node, index: int) -> bool:
        """Whether the output may go unnamed: every one of a call, the optional ones of a standard operator."""
        if node.function is not None or not schema.has_operator(node.op_type, node.opset, node.domain):
            return True
        return schema.operator(node.op_type, node.opset, node.domain).output(index).is_optional

    def _operand(self, value: Value | None, cast: np.dtype[Any] | None, node_name: str) -> str:
        if value is None:
            return ""
        name = self.names.of(value)
        if cast is None or (value in self._fed_types and self._fed_types[value] == cast):
            return name
        converted = self.names.fresh(f"{name}.{np.dtype(cast).name}")
        to = schema.element_type(np.dtype(cast))
        cast_name = None if self._in_function else self.names.fresh_node(f"{node_name}/Cast")
        self.nodes.append(helper.make_node("Cast", [name], [converted], name=cast_name, to=to))
        return converted

    def _write_out(self, function: Function, prefix: str, inputs: list[str], outputs: list[str]) -> None:
        """Write the body instead of the call; what only unwanted outputs need is left out."""
        named = [name for name in outputs if name]
        wanted = list(zip(function.restricted(tuple(map(bool, outputs))).outputs, named, strict=False))
        formals = {value.node for value in function.inputs}
        body = [node for node in ancestors([v for v, _ in wanted], formals) if node not in formals]
        inner = CallNames(self.names, prefix)
        for value, name in zip(function.inputs, [*inputs, *[""] * len(function.inputs)], strict=False):
            inner.fix(value, name)
        for value, name in wanted:
            inner.fix(value, name)
        node_names = {n: f"{prefix}/{n.op_type}" for n in body}
        writer = Writer(inner, inline=True, in_function=self._in_function, node_names=node_names)
        writer.write(body, read_values(body, [v for v, _ in wanted]))
        self.nodes += writer.nodes
        self.initializers += writer.initializers


def node_proto(
    node: Node,
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str | None,
    overload: str | None = None,
    graphs: Iterable[onnx.GraphProto] = (),
) -> onnx.NodeProto:
    """Return a node as protobuf; one that was read from a file with all that the file says of it.

    Args:
        node: the node.
        inputs: names of the operands.
        outputs: names of the outputs.
        name: of the node.
        overload: of the function that it calls.
        graphs: the node's bodies, in the order of `captures`.
    """
    domain = node.domain or (None if node.note is not None else "")
    proto = helper.make_node(node.op_type, inputs, outputs, name=name, domain=domain, overload=overload)
    attributes = node.attributes.items() if node.note is not None else sorted(node.attributes.items())
    left = iter(graphs)
    written = {key: _written(value, left) for key, value in sorted(node.attributes.items())}
    for key, _ in attributes:
        if node.note is not None and key in node.note.attributes:
            proto.attribute.add().MergeFromString(node.note.attributes[key])
        else:
            proto.attribute.append(attribute_proto(key, written[key]))
    if node.note is not None:
        proto.MergeFromString(node.note.rest)
    return proto


def _written(value: Any, graphs: Iterator[onnx.GraphProto]) -> Any:
    """Return the value of an attribute with the next graphs in the place of its bodies."""
    if isinstance(value, tuple):
        return tuple(_written(v, graphs) for v in value)
    return next(graphs) if isinstance(value, Body) else value


def _inner_info(name: str, value: Value) -> onnx.ValueInfoProto:
    """Return name and type of a body's input or output, the name alone of what is no tensor."""
    if schema.encoded_type(value.dtype) == b"":
        return onnx.ValueInfoProto(name=name)
    return value_info(name, value.dtype, value.shape)


def constant_proto(node: Constant, output: str, name: str | None) -> onnx.NodeProto:
    """Return a constant that was read from a file as the Constant node that it was."""
    assert node.note is not None
    proto = helper.make_node("Constant", [], [output], name=name)
    if node.note.attributes:
        for data in node.note.attributes.values():
            proto.attribute.add().MergeFromString(data)
    else:
        proto.attribute.append(attribute_proto("value", node.array))
    proto.MergeFromString(node.note.rest)
    return proto


def attribute_proto(name: str, value: Any) -> onnx.AttributeProto:
    """Return an attribute as protobuf; the Python type tells its kind, as `schema.plain_attributes` made it."""
    if isinstance(value, Opaque):
        opaque: onnx.AttributeProto = onnx.AttributeProto.FromString(value.data)
        return opaque
    if isinstance(value, np.ndarray):
        value = numpy_helper.from_array(value)
    if isinstance(value, tuple) and not value:
        return helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS)
    return helper.make_attribute(name, value)


def value_info(name: str, dtype: np.dtype[Any], shape: Shape | None) -> onnx.ValueInfoProto:
    """Return name, element type and shape as protobuf; sizes that only the run will know have no name."""
    if shape is not None:
        shape = tuple(None if str(d).startswith(UNKNOWN_DIM) else d for d in shape)  # type: ignore[misc]
    return onnx.ValueInfoProto(name=name, type=schema.type_proto(dtype, shape))
