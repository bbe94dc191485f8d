"""Reading: an ONNX graph becomes nodes and values with the file's own names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference, version_converter

from renom_onnx.converters.writer import attribute_proto
from renom_onnx.errors import ConversionError, RenomError, first_line
from renom_onnx.graph import schema
from renom_onnx.graph.function import Function
from renom_onnx.graph.node import Constant, Fixed, Input, Leaf, Node, Shape, Value, known_array, unknown_dim
from renom_onnx.graph.note import Note, Opaque
from renom_onnx.graph.site import Site

LONGEST_NOTE = 1 << 16
"""Bytes of an attribute up to which its own encoding is kept; longer tensors are written anew."""

MakeLeaf = Callable[[str, np.ndarray[Any, Any]], Leaf]


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
        proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    except OSError:
        raise
    except Exception as e:  # protobuf, unicode and external-data errors have no common base
        raise ConversionError(f"load: the model must be a complete ONNX file, got {what}: {first_line(e)}.") from e
    if not proto.HasField("graph"):
        raise ConversionError(f"load: the model must be a complete ONNX file, got {what}, which holds no graph.")
    return proto


def array_of(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Return the array of a tensor.

    Raises:
        ConversionError: it does not hold what its type and sizes say.
    """
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as e:  # of any type, from wherever a broken tensor leads
        raise ConversionError(
            f"load: a tensor must hold what its type and sizes say, got {tensor.name!r}: {first_line(e)}."
        ) from e


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
        return np.dtype(object), None
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
    ) -> None:
        self._opset = opset
        self._functions = functions
        self._types = types
        self._values = values
        self._nodes = nodes
        self._attributes = attributes
        self._domains = domains or {}

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
        inputs += [self._values[name] for name in captured(proto) if name in self._values]
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attributes = self._plain(proto)
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
        if name not in self._values:
            node = proto.name or proto.op_type
            raise ConversionError(
                f"load: every input must be written before it is read, got {name} read by node {node}."
            )
        return self._values[name]

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
            return [t if t is not None else (np.dtype(object), None) for t in known]
        try:
            op = schema.operator(proto.op_type, self._opset if domain == "" else self._domains.get(domain, 1), domain)
            data = {i: a for i, v in enumerate(inputs) if (a := known_array(v)) is not None and a.size <= 1024}
            operands = [None if v is None else (v.dtype, v.shape) for v in inputs]
            inferred = schema.infer(op, self._opset, attributes, operands, data, len(proto.output), site)
        except (RenomError, TypeError, ValueError):
            inferred = [(np.dtype(object), None)] * len(proto.output)
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


_OPAQUE = {
    getattr(onnx.AttributeProto, f"{kind}{plural}")
    for kind in ("GRAPH", "TYPE_PROTO", "SPARSE_TENSOR")
    for plural in ("", "S")
}


def plain_attribute(attribute: onnx.AttributeProto) -> Any:
    """Return the value of an attribute in plain types; what has none is carried as it is."""
    if attribute.type in _OPAQUE:
        return Opaque(attribute.SerializeToString(deterministic=True))
    if attribute.type == onnx.AttributeProto.TENSOR:
        return array_of(attribute.t)
    if attribute.type == onnx.AttributeProto.TENSORS:
        return tuple(array_of(tensor) for tensor in attribute.tensors)
    try:
        return schema._plain(helper.get_attribute_value(attribute))
    except (UnicodeDecodeError, ValueError):
        return Opaque(attribute.SerializeToString(deterministic=True))


def note_of(proto: onnx.NodeProto, version: int) -> Note:
    """Return what the file says of a node beside operator, operands and attributes.

    Args:
        proto: the node.
        version: of its domain.
    """
    attributes = {}
    for attribute in proto.attribute:
        if attribute.ref_attr_name:
            continue
        value = plain_attribute(attribute)
        if isinstance(value, Opaque):
            continue
        data = attribute.SerializeToString(deterministic=True)
        is_number = proto.op_type == "Constant" and attribute.name != "value"
        if is_number or (len(data) <= LONGEST_NOTE and _differs(data, attribute.name, value)):
            attributes[attribute.name] = data
    rest = onnx.NodeProto()
    rest.CopyFrom(proto)
    for name in ("input", "output", "op_type", "attribute"):
        rest.ClearField(name)
    for name in ("name", "domain", "overload"):
        if getattr(proto, name) not in ("", "ai.onnx"):  # an empty one, written down, is kept
            rest.ClearField(name)
    version = version if proto.domain not in ("", "ai.onnx") else 0
    return Note(proto.name, rest.SerializeToString(deterministic=True), attributes, version, proto.overload)


def _differs(data: bytes, name: str, value: Any) -> bool:
    """Whether the attribute would be written otherwise than the file has it."""
    return bool(attribute_proto(name, value).SerializeToString(deterministic=True) != data)


def constant_array(attributes: Mapping[str, Any]) -> np.ndarray[Any, Any] | None:
    """Return the array of a Constant node, None for one that is carried as it is."""
    if len(attributes) != 1:
        return None
    ((name, value),) = attributes.items()
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if name == "value" and isinstance(value, np.ndarray):
        return value
    if name in types and not isinstance(value, Opaque):
        return np.array(value, types[name])
    if name in ("value_string", "value_strings") and not isinstance(value, Opaque):
        return np.array(value, object)
    return None


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
