"""ONNX's operator schemas and shape inference: the registry of operators.

Everything that ONNX knows about an operator is read from `onnx.defs` and `onnx.shape_inference`; nothing is written by
hand but the few checks that inference leaves out. No protobuf object leaves this file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from renom_onnx.errors import ConversionError, DTypeError, ShapeError
from renom_onnx.graph import guard
from renom_onnx.graph.formal import Attribute, Formal, Operator, OperatorBody, Step
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Shape, unknown_dim
from renom_onnx.graph.note import Opaque
from renom_onnx.graph.site import Site, created_at

DEFAULT_OPSET = 18
NEWEST_OPSET = int(defs.onnx_opset_version())
DEFAULT_IR_VERSION = 10

TypeAndShape = tuple[np.dtype[Any], Shape | None]

_KINDS = {kind: name.lower() for name, kind in vars(defs.OpSchema.AttrType).items() if name.isupper()}


def has_operator(op_type: str, opset: int, domain: str = "") -> bool:
    """Whether the installed onnx defines the operator at this opset."""
    try:
        return bool(defs.has(op_type, domain=domain, max_inclusive_version=opset))
    except TypeError:  # a broken file: a name that is no text, a version that is no int32
        return False


@functools.cache
def operator(op_type: str, opset: int, domain: str = "") -> Operator:
    """Return the operator's schema.

    Raises:
        ConversionError: ONNX has no such operator at this opset.
    """
    if not has_operator(op_type, opset, domain):
        where = domain or "ai.onnx"
        raise ConversionError(
            f"{op_type}: the operator must be one of domain {where} at opset {opset}, got none of that name."
        )
    schema = defs.get_schema(op_type, opset, domain)

    def formals(parameters: Any) -> tuple[Formal, ...]:
        option = defs.OpSchema.FormalParameterOption
        return tuple(
            Formal(p.name, p.type_str, frozenset(p.types), p.option == option.Optional, p.option == option.Variadic)
            for p in parameters
        )

    def default(attribute: Any) -> Any:
        proto = attribute.default_value
        return _plain(helper.get_attribute_value(proto)) if proto.type else None

    attributes = {
        name: Attribute(name, _KINDS[a.type], a.required, default(a)) for name, a in sorted(schema.attributes.items())
    }
    return Operator(
        op_type,
        domain,
        schema.since_version,
        formals(schema.inputs),
        formals(schema.outputs),
        attributes,
        schema.min_output,
        schema.doc or "",
    )


def first_opset(op_type: str, dtype: np.dtype[Any]) -> int:
    """Return the first opset at which an operator of the default domain takes the element type."""
    versions = sorted(
        s.since_version for s in defs.get_all_schemas_with_history() if s.domain == "" and s.name == op_type
    )
    return next(v for v in versions if f"tensor({dtype.name})" in operator(op_type, v).input(0).types)


def operator_names(opset: int, domain: str = "") -> list[str]:
    """Return the names of all operators of the domain that exist at the opset, sorted."""
    names = {s.name for s in defs.get_all_schemas_with_history() if s.domain == domain and s.since_version <= opset}
    return sorted(name for name in names if not defs.get_schema(name, opset, domain).deprecated)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(v) for v in value)
    return value


def element_type(dtype: np.dtype[Any]) -> int:
    """Return ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def no_tensor(data: bytes = b"") -> np.dtype[Any]:
    """Return the type of a value that is a sequence, an optional or a map, encoded; nothing for one of unknown type.

    It is an object to NumPy, as strings are.
    """
    return np.dtype(object, metadata={"onnx": data})


def encoded_type(dtype: np.dtype[Any]) -> bytes | None:
    """Return what `no_tensor` was given, None for a tensor's element type."""
    return None if dtype.metadata is None else dtype.metadata.get("onnx")


def is_container(dtype: np.dtype[Any]) -> bool:
    """Whether it is the type of a sequence, an optional or a map, or an unknown one."""
    return encoded_type(dtype) is not None


def sequence_of(dtype: np.dtype[Any], shape: Shape | None) -> np.dtype[Any]:
    """Return the type of a sequence of tensors of this type and shape."""
    sizes = None if shape is None else [None if str(d).startswith(UNKNOWN_DIM) else d for d in shape]
    proto = helper.make_sequence_type_proto(helper.make_tensor_type_proto(element_type(dtype), sizes))
    return no_tensor(proto.SerializeToString(deterministic=True))


def item(dtype: np.dtype[Any]) -> TypeAndShape | None:
    """Return type and shape of the tensors in a sequence; None for what is no sequence of tensors."""
    tensor = onnx.TypeProto.FromString(encoded_type(dtype) or b"").sequence_type.elem_type.tensor_type
    shape = _shape_of(tensor)
    known = None if shape is None else tuple(unknown_dim() if d is None else d for d in shape)
    return (dtype_of(tensor.elem_type), known) if tensor.elem_type else None


def item_type(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the element type of the tensors in a sequence; None for what is no sequence of tensors."""
    found = item(dtype)
    return None if found is None else found[0]


def type_proto(dtype: np.dtype[Any], shape: Shape | None) -> Any:
    """Return the type of a value as protobuf, for the border to files."""
    data = encoded_type(dtype)
    if data is not None:
        return onnx.TypeProto.FromString(data)
    return helper.make_tensor_type_proto(element_type(dtype), shape)


def has_element_type(dtype: np.dtype[Any]) -> bool:
    """Whether ONNX has tensors of this element type."""
    try:
        element_type(dtype)
    except (KeyError, ValueError):
        return False
    return True


def tensor_type_name(dtype: np.dtype[Any]) -> str | None:
    """Return what ONNX calls an element type, such as "float" for float32; None for what is no tensor of known type."""
    is_known = dtype.kind != "O" and has_element_type(dtype)
    return str(onnx.TensorProto.DataType.Name(element_type(dtype))).lower() if is_known else None


def dtype_named(name: str) -> np.dtype[Any]:
    """Return the NumPy type of a name such as "float32" or "bfloat16"."""
    return dtype_of(onnx.TensorProto.DataType.Value(name.upper())) if name == "bfloat16" else np.dtype(name)


def dtype_of(element: int) -> np.dtype[Any]:
    """Return the NumPy type of ONNX's number of an element type.

    Raises:
        ConversionError: ONNX has no element type of this number.
    """
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element))
    except KeyError as e:
        raise ConversionError(f"load: an element type must be one of ONNX's numbers, got {element}.") from e


_COERCE: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "string": str,
    "tensor": np.asarray,
    "ints": lambda value: tuple(int(v) for v in value),
    "floats": lambda value: tuple(float(v) for v in value),
    "strings": lambda value: tuple(str(v) for v in value),
}


def plain_attributes(op: Operator, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes in the types that the schema asks for; None means absent, a dtype is its ONNX number.

    Raises:
        ConversionError: the operator has no such attribute, or a required one is absent.
    """
    plain = {}
    for name, given in sorted(attributes.items()):
        if given is None:
            continue
        if name not in op.attributes:
            known = ", ".join(op.attributes) or "none"
            raise ConversionError(f"{op.name}: the attribute must be one of {known}, got {name}.")
        kind = op.attributes[name].kind
        value = element_type(np.dtype(given)) if kind == "int" and isinstance(given, np.dtype | type) else given
        plain[name] = _COERCE.get(kind, lambda v: v)(value)
    for name, attribute in op.attributes.items():
        if attribute.is_required and name not in plain:
            raise ConversionError(f"{op.name}: the attribute {name} must be given, got {', '.join(plain) or 'none'}.")
    return plain


def attributes_with_defaults(op: Operator, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return every attribute of the schema: the given value, else the schema's default, else None."""
    return {name: attributes.get(name, attribute.default) for name, attribute in op.attributes.items()}


def hashable(attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the attributes as a key for comparing structures."""

    def key(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, value.tobytes()
        return value if getattr(value, "__hash__", None) else id(value)

    return tuple((name, key(value)) for name, value in sorted(attributes.items()))


_inferred: dict[Any, list[tuple[np.dtype[Any], tuple[Dim | None, ...] | None]]] = {}


def infer(
    op: Operator,
    opset: int,
    attributes: Mapping[str, Any],
    types: Sequence[TypeAndShape | None],
    data: Mapping[int, np.ndarray[Any, Any]],
    n_outputs: int,
    site: Site,
) -> list[TypeAndShape]:
    """Return element type and shape of every output.

    Args:
        op: the operator.
        opset: opset of the domain.
        attributes: as `plain_attributes` returns them.
        types: of the inputs; None for an absent one.
        data: values of the inputs that are known now, by position (axes, shapes).
        n_outputs: how many outputs the node has.
        site: the user's line, for errors.

    Raises:
        ShapeError: the shapes do not fit the operator.
        DTypeError: the element types do not fit it.
    """
    known = tuple((i, array.tobytes()) for i, array in data.items())
    containers = tuple(None if t is None else encoded_type(t[0]) for t in types)
    key = (op.name, op.domain, opset, hashable(attributes), tuple(types), containers, n_outputs, known)
    found = _inferred.get(key)
    if found is None:
        found = _infer(op, opset, attributes, types, data, n_outputs, site)
        if len(_inferred) > 20_000:
            _inferred.clear()
        _inferred[key] = found
    return [
        (dtype, None if shape is None else tuple(unknown_dim() if d is None else d for d in shape))
        for dtype, shape in found
    ]


def _infer(
    op: Operator,
    opset: int,
    attributes: Mapping[str, Any],
    types: Sequence[TypeAndShape | None],
    data: Mapping[int, np.ndarray[Any, Any]],
    n_outputs: int,
    site: Site,
) -> list[tuple[np.dtype[Any], tuple[Dim | None, ...] | None]]:
    guard.refuse(op, attributes, types, site)
    node, input_types = _node_proto(op, attributes, types, n_outputs)
    names = list(node.input)
    input_data = {names[i]: numpy_helper.from_array(array, names[i]) for i, array in data.items()}
    version = _shape_opset(op, opset, attributes)
    try:
        inferred = shape_inference.infer_node_outputs(
            defs.get_schema(op.name, version, op.domain),
            node,
            input_types,
            input_data,
            opset_imports=[helper.make_opsetid(op.domain, version)],
            ir_version=DEFAULT_IR_VERSION,
        )
    except (onnx.checker.ValidationError, ValueError) as e:  # ValueError: of a broken file, a value without a type
        raise DTypeError(guard.message(op, str(e), types, site)) from e
    except (shape_inference.InferenceError, RuntimeError) as e:
        raise ShapeError(guard.message(op, str(e), types, site)) from e
    if op.domain == "" and op.name in _LIKE_X and types[0] is not None:
        return [types[0]]
    return [_type_of(op, inferred.get(name), types, site) for name in node.output]


_LIKE_X = ("GroupNormalization", "MeanVarianceNormalization")  # whose y has the shape of x, which ONNX does not infer


def _node_proto(
    op: Operator, attributes: Mapping[str, Any], types: Sequence[TypeAndShape | None], n_outputs: int
) -> tuple[Any, dict[str, Any]]:
    """Return a node of the operator, and the types of its inputs by name."""
    names = ["" if t is None else f"i{k}" for k, t in enumerate(types)]
    node = helper.make_node(op.name, names, [f"o{k}" for k in range(n_outputs)], domain=op.domain)
    for name, value in attributes.items():
        if isinstance(value, Opaque):
            node.attribute.append(onnx.AttributeProto.FromString(value.data))
            continue
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(value)
        attribute_type = getattr(onnx.AttributeProto, op.attributes[name].kind.upper())
        node.attribute.append(helper.make_attribute(name, value, attr_type=attribute_type))
    input_types = {name: type_proto(*t) for name, t in zip(names, types, strict=True) if t is not None}
    return node, input_types


def has_body(op_type: str, opset: int, domain: str = "") -> bool:
    """Whether the operator is defined by simpler ones, for some types at least."""
    if not has_operator(op_type, opset, domain):
        return False
    schema: Any = defs.get_schema(op_type, opset, domain)
    return bool(schema.has_function or schema.has_context_dependent_function)


def operator_body(
    op: Operator,
    opset: int,
    attributes: Mapping[str, Any],
    types: Sequence[TypeAndShape | None],
    n_outputs: int,
) -> OperatorBody | None:
    """Return the body that the schema gives for operands of these types, None where it gives none.

    Args:
        op: the operator.
        opset: of the body's operators.
        attributes: as `plain_attributes` returns them.
        types: of the inputs; None for an absent one.
        n_outputs: how many outputs the node has.
    """
    schema: Any = defs.get_schema(op.name, opset, op.domain)
    written, static = schema.context_dependent_function_opset_versions, schema.function_opset_versions
    versions = [version for version in [*written, *static] if version <= opset]
    if not versions:
        return None
    version = max(versions)
    node, by_name = _node_proto(op, attributes, types, n_outputs)
    function = onnx.FunctionProto()
    if version in written:
        operands = [by_name.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        function.ParseFromString(
            schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), operands)
        )
    else:
        function.ParseFromString(schema.get_function_with_opset_version(version))
    given = attributes_with_defaults(op, attributes)
    if not function.node:
        return None
    steps = tuple(_step(proto, given) for proto in function.node)
    return OperatorBody(tuple(function.input), tuple(function.output), steps)


def _step(proto: Any, given: Mapping[str, Any]) -> Step:
    attributes = {}
    for attribute in proto.attribute:
        value = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else None
        if attribute.type == onnx.AttributeProto.GRAPH:
            graph, steps = attribute.g, tuple(_step(inner, given) for inner in attribute.g.node)
            value = OperatorBody(tuple(i.name for i in graph.input), tuple(o.name for o in graph.output), steps)
        elif not attribute.ref_attr_name:
            value = _plain(helper.get_attribute_value(attribute))
        if value is not None:
            attributes[attribute.name] = value
    return Step(proto.op_type, tuple(proto.input), tuple(proto.output), attributes)


def _shape_opset(op: Operator, opset: int, attributes: Mapping[str, Any]) -> int:
    """Return the opset whose inference tells the shape of the output.

    With ceil_mode, pooling has no window that would start in the padding at the end. Runtimes always did it so, ONNX's
    inference does from opset 22 on. Of the GroupNormalization before opset 21, which ONNX has withdrawn, it tells none.
    """
    if op.domain == "" and op.name == "GroupNormalization":
        return max(opset, 21)
    return max(opset, 22) if op.domain == "" and attributes.get("ceil_mode") else opset


def _type_of(op: Operator, proto: Any, types: Any, site: Site) -> tuple[np.dtype[Any], tuple[Dim | None, ...] | None]:
    if proto is not None and proto.WhichOneof("value") not in (None, "tensor_type", "sparse_tensor_type"):
        return no_tensor(proto.SerializeToString(deterministic=True)), None
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
        raise _no_tensor_error(op, types, site)
    tensor = proto.tensor_type
    shape = _shape_of(tensor)
    if shape is not None and any(isinstance(d, int) and d < 0 for d in shape):
        raise ShapeError(guard.message(op, "every size must be 0 or more", types, site))
    return dtype_of(tensor.elem_type), shape


def _shape_of(tensor: Any) -> tuple[Dim | None, ...] | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)


def require_tensors(
    op: Operator, outputs: Sequence[TypeAndShape], types: Sequence[TypeAndShape | None], site: Site
) -> None:
    """Refuse sequences, optionals and maps, of which no element is made.

    Raises:
        ConversionError: an output is one.
    """
    if any(encoded_type(dtype) is not None for dtype, _ in outputs):
        raise _no_tensor_error(op, types, site)


def _no_tensor_error(op: Operator, types: Sequence[TypeAndShape | None], site: Site) -> ConversionError:
    return ConversionError(
        f"{op.name}: every output must be a tensor of known type, got {guard.got(op, types)}. {created_at(site)}"
    )
