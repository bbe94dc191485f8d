"""Reading: an ONNX graph becomes nodes and values with the file's own names."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.encoding import array_of, dense_array, value_type
from renom_onnx.converters.external_data import load_training_data
from renom_onnx.converters.library import Library
from renom_onnx.converters.reader import GraphReader, declared_types, domain_versions
from renom_onnx.converters.structure import subgraphs
from renom_onnx.converters.text import require_text
from renom_onnx.converters.unification import Symbols
from renom_onnx.errors import ConversionError, first_line
from renom_onnx.graph import schema
from renom_onnx.graph.node import Constant, Fixed, Input, Leaf, Node, Value

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
    if isinstance(model, onnx.ModelProto):
        proto, what = model, "a ModelProto"
    else:
        what = "the bytes" if isinstance(model, bytes) else str(model)
        proto = _parsed(model, what)
    require_text(proto)
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
    """Return the model, upgraded if its opset is older; see `convert_opset`.

    Raises:
        ConversionError: an operator has no form at the newer opset.
    """
    if default_opset(model) >= opset:
        return model
    from renom_onnx.converters.surgery.opset import convert_opset  # which reads models with this

    return convert_opset(model, opset)


def import_graph(
    model: onnx.ModelProto,
    make_leaf: MakeLeaf | None = None,
    leaves: Mapping[str, Value] | None = None,
    call: Call | None = None,
) -> ImportedGraph:
    """Return the model's graph as nodes.

    Args:
        model: a model; its functions are made for each call with the types found there.
        make_leaf: makes the leaf of an initializer; by default one that no training changes.
        leaves: by name, of initializers that exist as leaves already.
        call: operands instead of placeholders.

    Raises:
        ConversionError: a node reads a value that nobody writes, a name is given twice, a tensor or attribute is
            broken.
    """
    domains = domain_versions(model.opset_import, schema.DEFAULT_OPSET)
    graph = ImportedGraph(domains[""])
    types = declared_types([*model.graph.value_info, *model.graph.output])
    values: dict[str, Value | None] = {}
    for name, array in initializers_of(model.graph):
        value = (leaves or {}).get(name)
        if value is None:
            loaded = array()
            leaf = make_leaf(name, loaded) if make_leaf is not None else static_leaf(loaded)
            value = leaf.output
            value.name = name
        if name in values:
            raise ConversionError(f"load: an initializer must have a name of its own, got {name!r} twice.")
        values[name] = graph.initializers[name] = value
    for info in model.graph.input:
        if info.name in graph.inputs:
            raise ConversionError(f"load: an input must have a name of its own, got {info.name!r} twice.")
        if info.name not in values:
            value = None if call is None else call.operands[info.name]
            if value is None:
                value = Input(*value_type(info.type), name=info.name).output
            values[info.name] = graph.inputs[info.name] = value
    if call is not None:
        types = {name: (dtype, call.symbols.replaced(shape)) for name, (dtype, shape) in types.items()}
    reader = GraphReader(
        Library(model),
        domains,
        values,
        types,
        casts=call.casts if call is not None else None,
        layers=call.layers if call is not None else (),
        kept=call.kept if call is not None else None,
    )
    try:
        reader.read(model.graph.node)
    except RecursionError as e:
        raise ConversionError("load: graphs and functions must be nested a few hundred deep at most, got more.") from e
    graph.nodes = reader.nodes
    graph.values = {name: value for name, value in values.items() if value is not None}
    for info in model.graph.output:
        graph.outputs[info.name] = reader.output(info.name)
    return graph


@dataclass
class Call:
    """What a graph is read over instead of placeholders.

    Attributes:
        operands: by input.
        casts: by name, of operands that are converted where they are read.
        symbols: what the sizes of the file stand for.
        layers: in which the nodes are made.
        kept: names that are asked for themselves, where conversions of operands are folded; None folds none.
    """

    operands: Mapping[str, Value]
    casts: Mapping[str, np.dtype[Any]]
    symbols: Symbols
    layers: tuple[Any, ...] = ()
    kept: Container[str] | None = None


def initializers_of(graph: onnx.GraphProto) -> Iterator[tuple[str, Callable[[], np.ndarray[Any, Any]]]]:
    """Yield the name of every initializer and what returns its array, dense ones first."""
    for tensor in graph.initializer:
        yield tensor.name, functools.partial(array_of, tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, functools.partial(dense_array, sparse)


def static_leaf(array: np.ndarray[Any, Any]) -> Leaf:
    """Return a constant for what can be axes, a shape or a setting, else an array that stays."""
    return Constant(array) if array.size <= 1024 or array.dtype.kind not in "biuf" else Fixed(array)


def captured(proto: onnx.NodeProto) -> list[str]:
    """Return the names that the node's subgraphs read from outside, in order."""
    names: dict[str, None] = {}
    for graph in subgraphs(proto):
        own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        for node in graph.node:
            for name in [*node.input, *captured(node)]:
                if name and name not in own:
                    names[name] = None
            own.update(node.output)
        names.update(dict.fromkeys(o.name for o in graph.output if o.name not in own))
    return list(names)
