"""Reading nodes: the nodes of a graph, a body or a function become nodes of ours, over values by name."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from renom_onnx.converters.encoding import (
    NO_TENSOR,
    array_of,
    constant_array,
    graph_shell,
    note_of,
    plain_attribute,
    value_type,
)
from renom_onnx.converters.unification import merged
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.body import WITH_BODIES, Body, Type, attribute_bodies, formal_types, output_types
from renom_onnx.graph.node import Constant, Input, Node, Value, known_array
from renom_onnx.graph.resolution import Resolution
from renom_onnx.graph.site import Site

if TYPE_CHECKING:
    from renom_onnx.converters.library import Library


class GraphReader:
    """Reads nodes, inputs before readers, into `nodes` and into values by name.

    Args:
        library: the functions that nodes may call.
        domains: versions by domain; the default domain is "".
        values: what is there already, by name; None for an absent operand of a function.
        types: what the file says of values, by name.
        attributes: of the call, for a function's body.
        casts: by name, of values that are converted where they are read.
        layers: the layers in which the nodes are made.
        kept: where conversions of operands are folded, as an export wrote them: names that are asked for themselves.
    """

    def __init__(
        self,
        library: Library,
        domains: Mapping[str, int],
        values: dict[str, Value | None],
        types: Mapping[str, Type],
        *,
        attributes: Mapping[str, onnx.AttributeProto] | None = None,
        casts: Mapping[str, np.dtype[Any]] | None = None,
        layers: tuple[Any, ...] = (),
        kept: Container[str] | None = None,
        outer: GraphReader | None = None,
    ) -> None:
        self.values = values
        self.nodes: list[tuple[Node, onnx.NodeProto]] = []
        self._library = library
        self._domains = domains
        self._types = types
        self._attributes = attributes or {}
        self._casts = dict(casts or {})
        self._kept = kept
        self._layers = layers
        self._outer = outer  # of a body: the reader of what is around it
        self._captured: dict[Value, Value] = {}  # of a body: what stands inside for what is outside
        self._resolution = Resolution()

    def read(self, protos: Sequence[onnx.NodeProto]) -> None:
        """Read the nodes.

        Raises:
            ConversionError: a node reads a value that nobody wrote before, or is broken in itself.
        """
        for proto in protos:
            if self._kept is not None and self._folds(proto):
                continue
            node = self._node(proto)
            self._resolution.resolve(node)
            self.nodes.append((node, proto))
            for name, value in zip(proto.output, node.outputs, strict=False):
                if not name:
                    continue
                if name in self.values and not self._is_seen_from_inside(name):
                    raise ConversionError(
                        f"load: a name must be given to one value, got {name!r} of node {site_of(proto)[0]!r} again."
                    )
                value.name = name
                self.values[name] = value

    def _folds(self, proto: onnx.NodeProto) -> bool:
        """Take a Cast that an export wrote for an operand as the conversion that it was there, if it is one."""
        if proto.op_type != "Cast" or "/Cast" not in proto.name or len(proto.input) != 1 or len(proto.output) != 1:
            return False
        (source,), (name,) = proto.input, proto.output
        dtype = schema.dtype_of(proto.attribute[0].i) if len(proto.attribute) == 1 else None
        if dtype is None or not name.startswith(f"{source}.{dtype.name}") or name in (self._kept or ()):
            return False
        if source in self._casts:
            return False
        self.values[name], self._casts[name] = self._value(source, proto), dtype
        return True

    def _is_seen_from_inside(self, name: str) -> bool:
        """Whether the name is one of a value outside, which a body may give to a value of its own."""
        return self.values[name] in self._captured

    def output(self, name: str) -> Value:
        """Return the value that is an output of what was read.

        Raises:
            ConversionError: nobody writes it.
        """
        value = self._find(name)
        if value is None:
            raise ConversionError(f"load: every output must be written by a node, got {name}, which none writes.")
        return value

    def _node(self, proto: onnx.NodeProto) -> Node:
        site = site_of(proto)
        inputs = [self._value(name, proto) if name else None for name in proto.input]
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attributes = self._plain(proto, domain)
        captured = self._read_bodies(proto, inputs, attributes)
        inputs += [value for _, value in captured]
        casts = [self._casts.get(name) for name in [*proto.input, *(name for name, _ in captured)]]
        operands = [
            None if v is None else (v.dtype if c is None else c, v.shape) for v, c in zip(inputs, casts, strict=True)
        ]
        note = note_of(proto, self._domains.get(proto.domain, 1))
        called = self._library.find(proto)
        if domain == "" and proto.op_type == "Constant" and (array := constant_array(attributes)) is not None:
            return Constant(array, site=site, note=note)
        function = None
        if called is not None:
            given = {a.name: self._resolved(a) for a in proto.attribute}
            given = {name: a for name, a in given.items() if a is not None}
            function = self._library.instantiate(called, operands, inputs, given, self._domains[""])  # type: ignore[arg-type]
            types = self._call_types(function, operands)
        else:
            types = self._output_types(proto, domain, inputs, operands, attributes, site)
        if domain == "" and proto.op_type == "Dropout" and len(types) == 1 and inputs[2:]:
            types.append((np.dtype(np.bool_), types[0][1]))  # what training kept, which the gradient asks for
        return Node(
            proto.op_type,
            inputs,
            types,
            opset=self._domains[""],
            domain=domain,
            attributes=attributes,
            casts=casts,
            function=function,
            site=site,
            layers=self._layers,
            note=note,
        )

    def _call_types(self, function: Any, operands: Sequence[Type | None]) -> list[Type]:
        from renom_onnx.converters.library import result_types  # a library reads bodies with this

        return result_types(function, operands)

    def _value(self, name: str, proto: onnx.NodeProto) -> Value | None:
        if name in self.values:
            return self.values[name]
        value = self._find(name)
        if value is None:
            raise ConversionError(
                f"load: every input must be written before it is read, got {name} read by node "
                f"{proto.name or proto.op_type}."
            )
        return value

    def _find(self, name: str) -> Value | None:
        """Return the value of a name; in a body, one from outside gets a leaf that stands for it."""
        value = self.values.get(name)
        if value is None and self._outer is not None and (outside := self._outer._find(name)) is not None:
            dtype = self._outer._casts.get(name, outside.dtype)
            value = Input(dtype, outside.shape, name=name, known=known_array(outside)).output
            self.values[name] = value
            self._captured[value] = outside
        return value

    def _read_bodies(
        self, proto: onnx.NodeProto, inputs: Sequence[Value | None], attributes: dict[str, Any]
    ) -> list[tuple[str, Value]]:
        """Read the graphs among the attributes and return what they capture, with the names."""
        types = [None if v is None else (v.dtype, v.shape) for v in inputs]
        formals = formal_types(proto.op_type, attributes, types)
        outside: dict[Body, list[tuple[str, Value]]] = {}

        def read(graph: onnx.GraphProto) -> Body:
            body, captured = self._body(graph, formals)
            outside[body] = captured
            return body

        for name, value in attributes.items():
            if isinstance(value, onnx.GraphProto):
                attributes[name] = read(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], onnx.GraphProto):
                attributes[name] = tuple(map(read, value))
        return [value for _, body in attribute_bodies(attributes) for value in outside[body]]

    def _body(self, graph: onnx.GraphProto, types: Sequence[Type | None]) -> tuple[Body, list[tuple[str, Value]]]:
        """Return a graph in an attribute, and the values that it captures, with their names."""
        declared = declared_types([*graph.input, *graph.value_info, *graph.output])
        values: dict[str, Value | None] = {}
        formals: list[Value] = []
        for i, info in enumerate(graph.input):
            dtype, shape = declared.get(info.name, NO_TENSOR)
            known = types[i] if i < len(types) else None
            if known is not None and shape is None:
                dtype, shape = known[0] if schema.encoded_type(dtype) == b"" else dtype, known[1]
            formals.append(Input(dtype, shape, name=info.name).output)
            values[info.name] = formals[-1]
        initializers: list[Node] = []
        for tensor in graph.initializer:
            leaf = Constant(array_of(tensor))
            leaf.output.name = tensor.name
            values[tensor.name] = leaf.output
            initializers.append(leaf)
        inner = GraphReader(
            self._library, self._domains, values, declared, attributes=self._attributes, layers=self._layers, outer=self
        )
        inner.read(graph.node)
        outputs = tuple(inner.output(info.name) for info in graph.output)
        nodes = (*initializers, *(node for node, _ in inner.nodes))
        note = graph_shell(graph).SerializeToString(deterministic=True)
        body = Body(graph.name, tuple(formals), tuple(inner._captured), outputs, nodes, note)
        return body, [(str(inside.name), value) for inside, value in inner._captured.items()]

    def _resolved(self, attribute: onnx.AttributeProto) -> onnx.AttributeProto | None:
        """Return an attribute, that of the call where it refers to one."""
        if not attribute.ref_attr_name:
            return attribute
        given = self._attributes.get(attribute.ref_attr_name)
        if given is None or given.name == attribute.name:
            return given
        renamed = onnx.AttributeProto()
        renamed.CopyFrom(given)
        renamed.name = attribute.name
        return renamed

    def _plain(self, proto: onnx.NodeProto, domain: str) -> dict[str, Any]:
        """Return the attributes in plain types, checked against the operator's schema."""
        version = self._domains.get(domain, 1)
        is_known = self._library.find(proto) is None and schema.has_operator(proto.op_type, version, domain)
        known = schema.operator(proto.op_type, version, domain).attributes if is_known else {}
        plain: dict[str, Any] = {}
        for written in proto.attribute:
            attribute, name = self._resolved(written), written.name
            if attribute is None:
                continue
            kind = onnx.AttributeProto.AttributeType.Name(attribute.type).lower()
            if not isinstance(name, str) or kind == "undefined" or name in plain:
                raise ConversionError(
                    f"load: an attribute must have a name of its own and a value, got {name!r} of node {proto.name!r}."
                )
            if is_known and name not in known:
                raise ConversionError(
                    f"load: an attribute of {proto.op_type} must be one of {', '.join(known) or 'none'}, got {name} of "
                    f"node {proto.name!r}."
                )
            if is_known and known[name].kind != kind:
                raise ConversionError(
                    f"load: the attribute {name} of {proto.op_type} must be of type {known[name].kind}, got {kind} in "
                    f"node {proto.name!r}."
                )
            plain[name] = plain_attribute(attribute)
        return plain

    def _output_types(
        self,
        proto: onnx.NodeProto,
        domain: str,
        inputs: Sequence[Value | None],
        operands: Sequence[Type | None],
        attributes: dict[str, Any],
        site: Site,
    ) -> list[Type]:
        """Return what inference finds, and what the file says where that is more."""
        declared = [self._types.get(name, NO_TENSOR) for name in proto.output]
        try:
            if domain == "" and proto.op_type in WITH_BODIES:
                inferred = output_types(proto.op_type, attributes, operands)
            else:
                version = self._domains.get(domain, 1)
                op = schema.operator(proto.op_type, version, domain)
                data = {i: a for i, v in enumerate(inputs) if (a := known_array(v)) is not None and a.size <= 1024}
                inferred = schema.infer(op, version, attributes, operands, data, len(proto.output), site)
        except Exception:  # of any type: inference of a broken or unknown node tells nothing
            return declared
        inferred += [NO_TENSOR] * (len(declared) - len(inferred))
        return [merged(a, b) for a, b in zip(inferred, declared, strict=False)]


def site_of(proto: onnx.NodeProto) -> Site:
    """Return the name of a node in a file, or what stands for it."""
    return proto.name or next((name for name in proto.output if name), proto.op_type), 0


def declared_types(infos: Iterable[onnx.ValueInfoProto]) -> dict[str, Type]:
    """Return the types of tensors that a file states, by name."""
    return {info.name: value_type(info.type) for info in infos if info.type.WhichOneof("value")}


def domain_versions(imports: Iterable[onnx.OperatorSetIdProto], opset: int) -> dict[str, int]:
    """Return versions by domain; the default domain is "" and has the given version unless the imports say more."""
    return {"": opset, **{"" if o.domain == "ai.onnx" else o.domain: int(o.version) for o in imports}}
