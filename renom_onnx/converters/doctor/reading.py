"""Reading a file for examination: its structure, without the data of its tensors that lie elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from renom_onnx.converters.importer import ImportedGraph, import_graph
from renom_onnx.converters.initializer import Kind
from renom_onnx.converters.structure import subgraphs
from renom_onnx.errors import ConversionError, first_line

LARGEST_PROTOBUF = 2**31 - 1
SMALL = 1024
"""Elements of the largest initializer whose values matter for shapes or rules; weights are known by their sizes."""


@dataclass(frozen=True)
class Opened:
    """A model and where it came from; its external data were not read.

    Attributes:
        proto: the model.
        name: what reports call it.
        folder: where its external data must lie, None for a model that was given as bytes or protobuf.
        n_bytes: of the file without its external data.
    """

    proto: onnx.ModelProto
    name: str
    folder: Path | None
    n_bytes: int


def open_model(model: onnx.ModelProto | str | os.PathLike[str] | bytes, caller: str) -> Opened:
    """Return a model of a path, bytes or protobuf; no file but the one named is touched.

    Raises:
        ConversionError: it is no ONNX model.
        OSError: there is no such file.
    """
    if isinstance(model, onnx.ModelProto):
        return Opened(model, "a ModelProto", None, model.ByteSize())
    if not isinstance(model, str | os.PathLike | bytes):
        raise ConversionError(f"{caller}: the model must be a path, bytes or a ModelProto, got {type(model).__name__}.")
    if isinstance(model, bytes):
        name, folder, data = "the bytes", None, model
    else:
        path = Path(model)
        name, folder = str(path), path.absolute().parent
        if path.stat().st_size > LARGEST_PROTOBUF:
            raise ConversionError(
                f"{caller}: a model must be smaller than 2 GiB, its external data apart, got {name} of "
                f"{path.stat().st_size} bytes. Export it with external data."
            )
        data = path.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as e:  # DecodeError, UnicodeDecodeError and more, without a common base
        raise ConversionError(f"{caller}: the model must be a complete ONNX file, got {name}: {first_line(e)}.") from e
    if not proto.HasField("graph"):
        raise ConversionError(f"{caller}: the model must be a complete ONNX file, got {name}, which holds no graph.")
    _require_text(proto, name, caller)
    return Opened(proto, name, folder, len(data))


def _require_text(proto: onnx.ModelProto, what: str, caller: str) -> None:
    """Refuse names that are no UTF-8; protobuf gives them as bytes."""
    names: list[object] = [proto.producer_name, proto.producer_version]
    names += [opset.domain for opset in proto.opset_import]
    names += [name for f in proto.functions for name in (f.name, f.domain, f.overload, *f.input, *f.output)]
    nodes = [node for f in proto.functions for node in f.node]
    for _, graph in all_graphs(proto):
        nodes += graph.node
        names += [value.name for value in [*graph.input, *graph.output, *graph.value_info]]
    for node in nodes:
        names += [node.name, node.op_type, node.domain, node.overload, *node.input, *node.output]
    names += [tensor.name for _, tensor in all_tensors(proto)]
    for info in proto.training_info:
        bindings = [*info.update_binding, *info.initialization_binding]
        names += [name for binding in bindings for name in (binding.key, binding.value)]
    for name in names:
        if not isinstance(name, str):
            raise ConversionError(f"{caller}: every name must be UTF-8 text, got {name!r} in {what}.")


def skeleton(
    proto: onnx.ModelProto,
    graph: onnx.GraphProto,
    kinds: Mapping[str, Kind],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """Return a model of the graph whose weights are inputs: its structure without their data.

    Small arrays that are no weights stay, because shapes and rules depend on their values.

    Args:
        proto: the model that the graph belongs to.
        graph: its graph, or graph and training step together.
        kinds: of the initializers that are tensors.
        constants: what nodes make that is a weight: an input too, in the place of its node.
    """
    bare = onnx.ModelProto(ir_version=max(proto.ir_version, 4))  # before 4, initializers had to be inputs
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    bare.graph.name = graph.name
    made = {tensor.name for tensor in constants}
    bare.graph.node.extend(node for node in graph.node if not made.intersection(node.output))
    bare.graph.output.extend(graph.output)
    bare.graph.value_info.extend(graph.value_info)
    given = {}
    for tensor in graph.initializer:
        if kinds.get(tensor.name) is Kind.FIXED and is_small(tensor):
            bare.graph.initializer.append(tensor)
        given[tensor.name] = tensor.data_type, list(tensor.dims)
    given.update((tensor.name, (tensor.data_type, list(tensor.dims))) for tensor in constants)
    given.update((s.values.name, (s.values.data_type, list(s.dims))) for s in graph.sparse_initializer)
    kept = {tensor.name for tensor in bare.graph.initializer}
    for name, (element, dims) in given.items():
        if name not in kept:
            bare.graph.input.add(name=name).type.CopyFrom(onnx.helper.make_tensor_type_proto(element, dims))
    bare.graph.input.extend(value for value in graph.input if value.name not in given)
    return bare


def is_small(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor holds its own few numbers."""
    return tensor.data_location != onnx.TensorProto.EXTERNAL and 0 <= n_elements(tensor) <= SMALL


def n_elements(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> int:
    """Return how many elements a tensor says to have; -1 for a negative size."""
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            return -1
        count *= dim
    return count


def structure(proto: onnx.ModelProto, graph: onnx.GraphProto, kinds: Mapping[str, Kind]) -> ImportedGraph:
    """Return the graph as nodes; weights are among its inputs.

    Raises:
        ConversionError: a size is negative, a node reads what nobody writes, or a type is broken.
    """
    for tensor in graph.initializer:
        if n_elements(tensor) < 0:  # onnx's inference may end the process on it
            raise ConversionError(
                f"doctor: every size must be 0 or more, got {tensor.name!r} with sizes {list(tensor.dims)}."
            )
    for value in [*graph.input, *graph.output, *graph.value_info]:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(d < 0 for d in dims):
            raise ConversionError(f"doctor: every size must be 0 or more, got {value.name!r} with sizes {dims}.")
    return import_graph(skeleton(proto, graph, kinds))


def all_graphs(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield every graph of the model, those in attributes of nodes too, with where it is."""
    stack = [("graph", proto.graph)]
    for i, info in enumerate(proto.training_info):
        stack += [
            (f"training_info[{i}].algorithm", info.algorithm),
            (f"training_info[{i}].initialization", info.initialization),
        ]
    while stack:
        where, graph = stack.pop(0)
        yield where, graph
        stack += [(f"a subgraph of node {n.name!r}", g) for n in graph.node for g in subgraphs(n)]
    for function in proto.functions:
        inner = [(f"function {function.name}", g) for n in function.node for g in subgraphs(n)]
        while inner:
            where, graph = inner.pop(0)
            yield where, graph
            inner += [(where, g) for n in graph.node for g in subgraphs(n)]


def all_tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield every tensor of the model with where it is."""
    nodes = [(f"function {f.name}", node) for f in proto.functions for node in f.node]
    for where, graph in all_graphs(proto):
        yield from ((where, tensor) for tensor in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield where, sparse.values
            yield where, sparse.indices
        nodes += [(where, node) for node in graph.node]
    for where, node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield where, attribute.t
            yield from ((where, tensor) for tensor in attribute.tensors)
