"""Reading: an ONNX graph becomes nodes and values with the file's own names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import inliner, shape_inference, version_converter

from renom_onnx.converters.encoding import array_of, constant_array, graph_shell, note_of, plain_attribute
from renom_onnx.converters.external_data import load_training_data
from renom_onnx.errors import ConversionError, RenomError, first_line
from renom_onnx.graph import schema
from renom_onnx.graph.body import WITH_BODIES, Body, Type, attribute_bodies, formal_types, output_types
from renom_onnx.graph.function import Function
from renom_onnx.graph.node import Constant, Fixed, Input, Leaf, Node, Shape, Value, known_array, unknown_dim
from renom_onnx.graph.site import Site

MakeLeaf = Callable[[str, np.ndarray[Any, Any]], Leaf]

NO_TENSOR: Type = (np.dtype(object), None)
"""The type of what is a sequence or optional, or of what no type is known."""


@dataclass
class ImportedGraph:
    """A graph as nodes.

    Attributes:
        opset: version of the default domain.
        inputs: by name; initializers are not among them.
        initializers: leaves by name.
        outputs: by name.
        nodes: in the file's order, each with the protobuf that it came from.
        values: all values by name.
    """

    opset: int
    inputs: dict[str, Value] = field(default_factory=dict)
    initializers: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    nodes: list[tuple[Node, onnx.NodeProto]] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)


def read_model(model: onnx.ModelProto | str | os.PathLike[str] | bytes) -> onnx.ModelProto:
    """Return the model of a path, bytes or protobuf.

    Raises:
        ConversionError: it cannot be read as an ONNX model.
        OSError: there is no such file.
    """
    if not isinstance(model, onnx.ModelProto | str | os.PathLike | bytes):
        raise ConversionError(f"load: the model must be a path, bytes or a ModelProto, got {type(model).__name__}.")
    what = "the bytes" if isinstance(model, bytes) else str(model)
    if isinstance(model, onnx.ModelProto):
        proto, what = model, "a ModelProto"
    else:
        proto = _parsed(model, what)
    graphs = [proto.graph, *(info.algorithm for info in proto.training_info)]
    for tensor in (tensor for graph in graphs for tensor in graph.initializer):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ConversionError(
                f"load: a model must hold the data of its tensors or be given as a path beside their file, got {what}, "
                f"where {tensor.name!r} is elsewhere."
            )
    return proto


def _parsed(model: str | os.PathLike[str] | bytes, what: str) -> onnx.ModelProto:
    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load(model)
            load_training_data(proto, os.path.dirname(model))  # noqa: PTH120  (a path of any kind)
    except OSError:
        raise
    except Exception as e:  # protobuf, unicode and external-data errors have no common base
        raise ConversionError(f"load: the model must be a complete ONNX file, got {what}: {first_line(e)}.") from e
    if not proto.HasField("graph"):
        raise ConversionError(f"load: the model must be a complete ONNX file, got {what}, which holds no graph.")
    return proto


def default_opset(model: onnx.ModelProto) -> int:
    """Return the version of the default domain that the model imports."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            return int(opset.version)
    return schema.DEFAULT_OPSET


def at_least_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model, upgraded with onnx's version converter if its opset is older.

    Raises:
        ConversionError: the version converter cannot upgrade it.
    """
    if default_opset(model) >= opset:
        return model
    try:
        if model.functions:  # the version converter would drop them
            model = inliner.inline_local_functions(model)
        return version_converter.convert_version(model, opset)
    except Exception as e:
        raise ConversionError(
            f"load: a model of opset {default_opset(model)} must be upgraded to {opset}, got from onnx's version "
            f"converter: {first_line(e)}. Convert it by hand, or export it again at opset {opset}."
        ) from e


def import_graph(
    model: onnx.ModelProto, make_leaf: MakeLeaf | None = None, leaves: Mapping[str, Node] | None = None
) -> ImportedGraph:
    """Return the model's graph as nodes.

    Args:
        model: a model; its functions are instantiated at each call with the types found there.
        make_leaf: makes the leaf of an initializer; by default small int64 arrays are constants, others static.
        leaves: by name, of initializers that exist as leaves already.

    Raises:
        ConversionError: a value has no tensor type that can be inferred, or a node reads a value that nobody writes.
    """
    opset = default_opset(model)
    graph = ImportedGraph(opset)
    types = _inferred_types(model)
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    for tensor in model.graph.initializer:
        leaf = (leaves or {}).get(tensor.name)
        if leaf is None:
            array = array_of(tensor)
            leaf = make_leaf(tensor.name, array) if make_leaf is not None else static_leaf(array)
            leaf.output.name = tensor.name
        graph.values[tensor.name] = graph.initializers[tensor.name] = leaf.output
    for info in model.graph.input:
        if info.name not in graph.values:
            dtype, shape = value_type(info.type)
            graph.values[info.name] = graph.inputs[info.name] = Input(dtype, shape, name=info.name).output
    reader = _Reader(opset, functions, types, graph.values, graph.nodes)
    reader.read(model.graph.node)
    for info in model.graph.output:
        if info.name not in graph.values:
            raise ConversionError(f"load: every output must be written by a node, got {info.name}, which none writes.")
        graph.outputs[info.name] = graph.values[info.name]
    return graph


def static_leaf(array: np.ndarray[Any, Any]) -> Leaf:
    """Return a constant for what can be axes, a shape or a setting, else an array that stays."""
    return Constant(array) if array.size <= 1024 or array.dtype.kind not in "biuf" else Fixed(array)


def _inferred_types(model: onnx.ModelProto) -> dict[str, tuple[np.dtype[Any], Shape | None]]:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.ClearField("training_info")
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # inference of the whole model is a help; types come from node by node inference too
        inferred = bare
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    return {
        info.name: value_type(info.type)
        for info in infos
        if info.type.HasField("tensor_type") and info.type.tensor_type.elem_type
    }


def value_type(proto: onnx.TypeProto) -> tuple[np.dtype[Any], Shape | None]:
    """Return element type and shape; what is no tensor is an object of unknown shape, which no gradient passes."""
    if not proto.HasField("tensor_type"):
        return NO_TENSOR
    tensor = proto.tensor_type
    dtype = schema.dtype_of(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or unknown_dim()) for d in tensor.shape.dim
    )


class _Reader:
    """Reads nodes of a graph or function body into values by name."""

    def __init__(
        self,
        opset: int,
        functions: Mapping[tuple[str, str, str], onnx.FunctionProto],
        types: Mapping[str, tuple[np.dtype[Any], Shape | None]],
        values: dict[str, Value],
        nodes: list[tuple[Node, onnx.NodeProto]],
        attributes: Mapping[str, onnx.AttributeProto] | None = None,
        domains: Mapping[str, int] | None = None,
        outer: _Reader | None = None,
    ) -> None:
        self._opset = opset
        self._functions = functions
        self._types = types
        self._values = values
        self._nodes = nodes
        self._attributes = attributes
        self._domains = domains or {}
        self._outer = outer  # of a body: the reader of what is around it
        self._captured: dict[Value, Value] = {}  # of a body: what stands inside for what is outside

    def read(self, protos: Sequence[onnx.NodeProto]) -> None:
        for proto in protos:
            node = self._node(proto)
            self._nodes.append((node, proto))
            for name, value in zip(proto.output, node.outputs, strict=False):
                if name:
                    value.name = name
                    self._values[name] = value

    def _node(self, proto: onnx.NodeProto) -> Node:
        site: Site = (proto.name or next((name for name in proto.output if name), proto.op_type), 0)
        inputs = [self._value(name, proto) if name else None for name in proto.input]
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attributes = self._plain(proto)
        inputs += self._read_bodies(proto, inputs, attributes)
        note = note_of(proto, self._domains.get(proto.domain, 1))
        function = self._functions.get((proto.domain, proto.op_type, proto.overload))
        if function is not None:
            body = self._instantiate(function, proto, inputs)
            types = [(v.dtype, v.shape) for v in body.outputs]
            return Node(
                proto.op_type,
                inputs,
                types,
                opset=self._opset,
                domain=domain,
                attributes=attributes,
                function=body,
                site=site,
                note=note,
            )
        if domain == "" and proto.op_type == "Constant" and (array := constant_array(attributes)) is not None:
            return Constant(array, site=site, note=note)
        types = self._output_types(proto, domain, inputs, attributes, site)
        return Node(
            proto.op_type,
            inputs,
            types,
            opset=self._opset,
            domain=domain,
            attributes=attributes,
            site=site,
            note=note,
        )

    def _value(self, name: str, proto: onnx.NodeProto) -> Value:
        value = self._find(name)
        if value is None:
            node = proto.name or proto.op_type
            raise ConversionError(
                f"load: every input must be written before it is read, got {name} read by node {node}."
            )
        return value

    def _find(self, name: str) -> Value | None:
        """Return the value of a name; in a body, one from outside gets a leaf that stands for it."""
        value = self._values.get(name)
        if value is None and self._outer is not None and (outside := self._outer._find(name)) is not None:
            value = Input(outside.dtype, outside.shape, name=name, known=known_array(outside)).output
            self._values[name] = value
            self._captured[value] = outside
        return value

    def _read_bodies(
        self, proto: onnx.NodeProto, inputs: Sequence[Value | None], attributes: dict[str, Any]
    ) -> list[Value]:
        """Read the graphs among the attributes and return what they capture."""
        types = [None if v is None else (v.dtype, v.shape) for v in inputs]
        formals = formal_types(proto.op_type, attributes, types)
        outside: dict[Body, tuple[Value, ...]] = {}

        def read(graph: onnx.GraphProto) -> Body:
            body, captured = self._body(graph, formals, proto)
            outside[body] = captured
            return body

        for name, value in attributes.items():
            if isinstance(value, onnx.GraphProto):
                attributes[name] = read(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], onnx.GraphProto):
                attributes[name] = tuple(map(read, value))
        return [value for _, body in attribute_bodies(attributes) for value in outside[body]]

    def _body(
        self, graph: onnx.GraphProto, types: Sequence[Type | None], proto: onnx.NodeProto
    ) -> tuple[Body, tuple[Value, ...]]:
        """Return a graph in an attribute, and the values that it captures."""
        declared = {info.name: value_type(info.type) for info in [*graph.input, *graph.value_info, *graph.output]}
        values, formals = {}, []
        for i, info in enumerate(graph.input):
            dtype, shape = declared[info.name]
            known = types[i] if i < len(types) else None
            if known is not None and shape is None:
                dtype, shape = known[0] if (dtype, shape) == NO_TENSOR else dtype, known[1]
            values[info.name] = Input(dtype, shape, name=info.name).output
            formals.append(values[info.name])
        initializers: list[Node] = []
        for tensor in graph.initializer:
            leaf = Constant(array_of(tensor))
            leaf.output.name = tensor.name
            values[tensor.name] = leaf.output
            initializers.append(leaf)
        reader = _Reader(
            self._opset,
            self._functions,
            {name: t for name, t in declared.items() if t != NO_TENSOR},
            values,
            [],
            self._attributes,
            self._domains,
            self,
        )
        reader.read(graph.node)
        outputs = tuple(reader._value(info.name, proto) for info in graph.output)
        nodes = (*initializers, *(node for node, _ in reader._nodes))
        note = graph_shell(graph).SerializeToString(deterministic=True)
        body = Body(graph.name, tuple(formals), tuple(reader._captured), outputs, nodes, note)
        return body, tuple(reader._captured.values())

    def _plain(self, proto: onnx.NodeProto) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for attribute in proto.attribute:
            name = attribute.name
            if attribute.ref_attr_name:
                given = (self._attributes or {}).get(attribute.ref_attr_name)
                if given is None:
                    continue
                attribute = given
            if not isinstance(name, str) or attribute.type == onnx.AttributeProto.UNDEFINED or name in plain:
                raise ConversionError(
                    f"load: an attribute must have a name of its own and a value, got {name!r} of node {proto.name!r}."
                )
            plain[name] = plain_attribute(attribute)
        if schema.has_operator(proto.op_type, self._opset, proto.domain):
            known = schema.operator(proto.op_type, self._opset, proto.domain).attributes
            for name in plain.keys() - known.keys():
                raise ConversionError(
                    f"load: an attribute of {proto.op_type} must be one of {', '.join(known) or 'none'}, got {name} of "
                    f"node {proto.name!r}."
                )
        return plain

    def _output_types(
        self, proto: onnx.NodeProto, domain: str, inputs: list[Value | None], attributes: dict[str, Any], site: Site
    ) -> list[tuple[np.dtype[Any], Shape | None]]:
        known = [self._types.get(name) for name in proto.output]
        if all(t is not None and t[1] is not None for t, name in zip(known, proto.output, strict=True) if name):
            return [t if t is not None else NO_TENSOR for t in known]
        operands = [None if v is None else (v.dtype, v.shape) for v in inputs]
        try:
            if domain == "" and proto.op_type in WITH_BODIES:
                inferred = output_types(proto.op_type, attributes, operands)
            else:
                version = self._opset if domain == "" else self._domains.get(domain, 1)
                op = schema.operator(proto.op_type, version, domain)
                data = {i: a for i, v in enumerate(inputs) if (a := known_array(v)) is not None and a.size <= 1024}
                inferred = schema.infer(op, self._opset, attributes, operands, data, len(proto.output), site)
        except (RenomError, TypeError, ValueError):
            inferred = [NO_TENSOR] * len(proto.output)
        return [
            a if a is not None and (a[1] is not None or b[1] is None) else b
            for a, b in zip(known, inferred, strict=True)
        ]

    def _instantiate(self, function: onnx.FunctionProto, proto: onnx.NodeProto, inputs: list[Value | None]) -> Function:
        formals, values = [], {}
        for name, value in zip(function.input, [*inputs, *[None] * len(function.input)], strict=False):
            like = value if value is not None else Input(np.dtype(np.float32), (), name=name).output
            formal = Input(like.dtype, like.shape, name=name, known=known_array(value)).output
            formals.append(formal)
            values[name] = formal
        given = {a.name: a for a in [*function.attribute_proto, *proto.attribute]}
        domains = {o.domain: o.version for o in function.opset_import}
        reader = _Reader(domains.get("", self._opset), self._functions, {}, values, [], given, domains)
        reader.read(function.node)
        return Function(
            function.name,
            function.domain,
            domains.get("", self._opset),
            tuple(formals),
            tuple(values[name] for name in function.output),
            tuple(function.output),
            (*function.attribute, *(a.name for a in function.attribute_proto)),
            function.doc_string,
        )


def captured(proto: onnx.NodeProto) -> list[str]:
    """Return the names that the node's subgraphs read from outside, in order."""
    names: dict[str, None] = {}
    for attribute in proto.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            for node in graph.node:
                for name in [*node.input, *captured(node)]:
                    if name and name not in own:
                        names[name] = None
                own.update(node.output)
            names.update(dict.fromkeys(o.name for o in graph.output if o.name not in own))
    return list(names)
