"""The encoding of a file: arrays, attributes and what a file says of a node or graph beside what it computes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.writer import attribute_proto
from renom_onnx.errors import ConversionError, first_line
from renom_onnx.graph import schema
from renom_onnx.graph.body import Type
from renom_onnx.graph.node import Dim, unknown_dim
from renom_onnx.graph.note import Note, Opaque

LONGEST_NOTE = 1 << 16
"""Bytes of an attribute up to which its own encoding is kept; longer tensors are written anew."""


NO_TENSOR: Type = (schema.no_tensor(), None)
"""The type of what no type is known."""
LARGEST_DENSE_BYTES = 1 << 28
"""Bytes up to which a sparse tensor is made a dense one."""


def value_type(proto: onnx.TypeProto) -> Type:
    """Return element type and shape; what is no tensor is an object of unknown shape, which no gradient passes."""
    if not proto.HasField("tensor_type"):
        return schema.no_tensor(proto.SerializeToString(deterministic=True)), None
    tensor = proto.tensor_type
    if not tensor.elem_type:
        return NO_TENSOR
    dtype = schema.dtype_of(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(_dim(d) for d in tensor.shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """Return a size; a negative one, which some exporters write, is not known."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else unknown_dim()
    return dim.dim_param or unknown_dim()


def array_of(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Return the array of a tensor.

    Raises:
        ConversionError: it does not hold what its type and sizes say.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:  # what was read from a path has its data by now
        raise ConversionError(
            f"load: a model must hold the data of its tensors or be given as a path beside their file, got "
            f"{tensor.name!r}, which is elsewhere."
        )
    try:
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"a size of {min(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as e:  # of any type, from wherever a broken tensor leads
        raise ConversionError(
            f"load: a tensor must hold what its type and sizes say, got {tensor.name!r}: {first_line(e)}."
        ) from e


def clear_data(tensor: onnx.TensorProto) -> None:
    """Take the values from a tensor."""
    for field in ("float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data"):
        tensor.ClearField(field)


def write_data(tensor: onnx.TensorProto, array: np.ndarray[Any, Any]) -> None:
    """Give a tensor the values of an array of its type and sizes, whatever it held before."""
    clear_data(tensor)
    if array.dtype.kind in "biufc" and array.dtype.isnative and sys.byteorder == "little":
        tensor.raw_data = array.tobytes()  # as numpy_helper does, with a copy less
    else:
        tensor.MergeFrom(numpy_helper.from_array(array))
        del tensor.dims[: len(array.shape)]


def dense_array(sparse: onnx.SparseTensorProto) -> np.ndarray[Any, Any]:
    """Return the array of a sparse tensor.

    Raises:
        ConversionError: its indices are not of its sizes, or it is too large to be written out.
    """
    name, dims = sparse.values.name, [int(size) for size in sparse.dims]
    values, indices = array_of(sparse.values), array_of(sparse.indices)
    count = math.prod(dims)
    if min(dims, default=0) < 0 or count * values.dtype.itemsize > LARGEST_DENSE_BYTES:
        raise ConversionError(
            f"load: a sparse tensor must have at most {LARGEST_DENSE_BYTES} bytes when written out, got {name!r} of "
            f"sizes {dims}."
        )
    dense = np.zeros(dims, values.dtype)
    try:
        places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)
        if places.size and (places.min() < 0 or values.shape != places.shape):
            raise ValueError(f"{values.size} values at {places.size} places")
        dense.reshape(-1)[places] = values
    except (IndexError, ValueError, TypeError) as e:
        raise ConversionError(
            f"load: a sparse tensor must have a value for each of its places, got {name!r}: {first_line(e)}."
        ) from e
    return dense


_OPAQUE = {
    getattr(onnx.AttributeProto, f"{kind}{plural}") for kind in ("TYPE_PROTO", "SPARSE_TENSOR") for plural in ("", "S")
}


_GRAPHS = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}


def plain_attribute(attribute: onnx.AttributeProto) -> Any:
    """Return the value of an attribute in plain types; what has none is carried as it is, graphs are left to others."""
    if attribute.type in _GRAPHS:
        return attribute.g if attribute.type == onnx.AttributeProto.GRAPH else tuple(attribute.graphs)
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
        if attribute.ref_attr_name or attribute.type in _GRAPHS:
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
    data = rest.SerializeToString(deterministic=True)
    return Note(proto.name, data, attributes, version, proto.overload, len(proto.output))


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


def graph_shell(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return the graph without its nodes and without the data of its initializers."""
    shell = onnx.GraphProto()
    for entry, value in graph.ListFields():
        if entry.name not in ("node", "initializer"):
            copy_field(shell, entry.name, value)
    shell.initializer.extend(map(tensor_shell, graph.initializer))
    return shell


def tensor_shell(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return the tensor without its data, which are not copied either."""
    shell = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    shell.metadata_props.extend(tensor.metadata_props)
    if tensor.HasField("doc_string"):
        shell.doc_string = tensor.doc_string
    return shell


def copy_field(target: object, name: str, value: object) -> None:
    """Set a field of a protobuf message to a value of its kind."""
    if isinstance(value, str | int | bytes):
        setattr(target, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)
