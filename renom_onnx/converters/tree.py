"""A tree as one ONNX graph: names, inputs, initializers and nodes of the values asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.names import Names
from renom_onnx.converters.writer import FunctionTable, Writer, domain_imports, read_values, value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import parameter, schema
from renom_onnx.graph.distributor import Stream
from renom_onnx.graph.naming import TreeNames, mutable_name
from renom_onnx.graph.node import FORWARD, Constant, Input, Leaf, Mutable, Node, Static, Value
from renom_onnx.graph.site import created_at

PRODUCER = "renom_onnx"
BATCH_NAMES = ("x", "y")
"""Names of the inputs that arrays become which were given to layers as data."""
EXPORT_OPSETS = range(18, 22)


class TreeWriter:
    """Writes parts of one tree under one set of names.

    Args:
        nodes: of the whole tree, inputs before readers.
        wanted: what the graphs give out.
        opset: of the default domain.
        inline: write function calls out.
        outputs: values and their names; default: none.
        exact: whether the outputs must have these very names; else a taken one gets a number.
        feed_all: arrays and parameters are inputs too, as the cached sessions of eager evaluation want them.
        first: leaves that are named before others, so that a number falls to the others.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        wanted: Iterable[Value],
        *,
        opset: int,
        inline: bool = False,
        outputs: Iterable[tuple[Value, str]] = (),
        exact: bool = False,
        feed_all: bool = False,
        first: Sequence[Mutable] = (),
    ) -> None:
        self._nodes = nodes
        self.tree_names = TreeNames(nodes)
        self.names = Names()
        self.opset = opset
        self._inline = inline
        self._feed_all = feed_all
        self._read = read_values(nodes, wanted)
        self.table = FunctionTable(nodes, self._read)
        self._fed_types = {} if feed_all else fed_types(nodes)
        fed = {self.names.give(leaf.output, name) for leaf, name in data_names(nodes).items()}
        for node in [*(leaf for leaf in first if leaf in set(nodes)), *nodes]:
            if isinstance(node, Mutable):
                name = mutable_name(self.tree_names, node)
                if self.names.give(node.output, name) != name and name in fed and not feed_all:
                    raise ConversionError(
                        f"export: an input must have a name of its own, got {name!r}, which a parameter, a state or "
                        f"the learning rate has. Rename it."
                    )
        for value, name in outputs:
            if self.names.give(value, name) != name and exact:
                raise ConversionError(
                    f"export: an output must have a name of its own, got {name!r}, which an input or parameter has. "
                    f"{created_at(value.node.site)}"
                )

    def graph(self, name: str, nodes: Sequence[Node], outputs: Sequence[Value]) -> onnx.GraphProto:
        """Return a graph of the nodes; leaves become inputs and initializers."""
        writer = Writer(
            self.names,
            functions=self.table,
            inline=self._inline,
            node_names=self.tree_names.nodes,
            fed_types=self._fed_types,
        )
        inputs, initializers = [], []
        for node in nodes:
            if not isinstance(node, Leaf) or isinstance(node, Constant):
                continue
            value = node.output
            self.names.give(value, "static1" if isinstance(node, Static) else str(node.name))
            if isinstance(node, Static | Mutable) and not is_data(node) and not self._feed_all:
                initializers.append(numpy_helper.from_array(node.array, self.names.of(value)))
            else:
                inputs.append(value_info(self.names.of(value), self._fed_types.get(value, value.dtype), value.shape))
        writer.write(nodes, self._read)
        infos = [value_info(self.names.of(v), v.dtype, v.shape) for v in outputs]
        return helper.make_graph(writer.nodes, name, inputs, infos, [*initializers, *writer.initializers])

    def model(self, graph: onnx.GraphProto, ir_version: int = schema.DEFAULT_IR_VERSION) -> onnx.ModelProto:
        """Return a model of the graph with the functions that the tree calls."""
        functions = [] if self._inline else self.table.protos(self.opset)
        imports = [helper.make_opsetid("", self.opset), *domain_imports(self._nodes, inline=self._inline)]
        from renom_onnx import __version__

        return helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=ir_version,
            functions=functions,
            producer_name=PRODUCER,
            producer_version=__version__,
        )


def is_data(node: Node) -> bool:
    """Whether the node is a leaf that data are fed to."""
    return isinstance(node, Stream | Input) or (isinstance(node, Static) and node.is_batch)


def data_names(nodes: Sequence[Node]) -> dict[Leaf, str]:
    """Return the names of the inputs: those of a distributor, placeholder or file, and x, y, input3, … of arrays."""
    names = Names()
    leaves = [node for node in nodes if isinstance(node, Leaf) and is_data(node)]
    found = {leaf: names.fresh(leaf.name) for leaf in leaves if leaf.name}
    for i, leaf in enumerate(leaf for leaf in leaves if isinstance(leaf, Static)):
        if leaf not in found:
            found[leaf] = names.fresh(BATCH_NAMES[i] if i < len(BATCH_NAMES) else f"input{i + 1}")
    return found


def fed_types(nodes: Sequence[Node]) -> dict[Value, np.dtype[Any]]:
    """Return the type in which data are fed where every reader converts them to one and the same.

    An exported file then asks for float32 images and int64 labels, whatever the program's arrays were. It does not ask
    for the half precision of `autocast`, to which operators convert.
    """
    wanted: dict[Value, set[Any]] = {}
    for node in nodes:
        for value, cast in zip(node.inputs, node.casts, strict=True):
            if value is not None and node.tag == FORWARD and is_data(value.node) and not isinstance(value.node, Input):
                wanted.setdefault(value, set()).add(_whole(cast))
    return {
        value: casts.pop() for value, casts in wanted.items() if len(casts) == 1 and all(c is not None for c in casts)
    }


def _whole(cast: np.dtype[Any] | None) -> np.dtype[Any] | None:
    return np.dtype(parameter.precision) if cast is not None and cast.name in {"float16", "bfloat16"} else cast


def tree_opset(nodes: Iterable[Node], asked: int | None) -> int:
    """Return the opset of an export: the one asked for, else the newest that a node needs.

    That is 18 at least, but for a file of an older opset that is written as it was read.

    Raises:
        ConversionError: the one asked for is not 18 to 21, or older than a node, or a node of an old file cannot be
            written at it.
    """
    nodes = list(nodes)
    needed = max((node.opset for node in nodes), default=0)
    if asked is None:
        asked = needed or schema.DEFAULT_OPSET
        _require_one_meaning(nodes, asked)
        return asked
    if asked < needed or asked not in {*EXPORT_OPSETS, needed}:
        least, most = max(needed, EXPORT_OPSETS[0]), max(needed, EXPORT_OPSETS[-1])
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ConversionError(
            f"export: opset must be {wanted}, got {asked}. Newer opsets lose kernels of "
            f"onnxruntime's CUDA provider, and older ones lack operators."
        )
    _require_one_meaning(nodes, asked)
    return asked


def _require_one_meaning(nodes: Iterable[Node], opset: int) -> None:
    """Refuse a node of an old file, as it was read, that would mean something else at the opset of the export."""
    for node in nodes:
        if node.is_leaf or node.domain or node.function is not None or node.opset >= schema.DEFAULT_OPSET:
            continue
        if node.opset != opset and _version(node, node.opset) != _version(node, opset):
            raise ConversionError(
                f"{node.op_type}: an element of opset {node.opset} must not be joined with others, got a tree of opset "
                f"{opset}, where the operator is another version. Call the loaded model, which upgrades it. "
                f"{created_at(node.site)}"
            )


def _version(node: Node, opset: int) -> int | None:
    """Return the version of a node's operator that an opset has."""
    if not schema.has_operator(node.op_type, opset):
        return None
    return schema.operator(node.op_type, opset).since_version


def as_bytes(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes; the same model gives the same bytes."""
    data: Any = model.SerializeToString(deterministic=True)
    return bytes(data)


def of_bytes(data: bytes) -> onnx.ModelProto:
    """Return the model whose bytes `as_bytes` made, which are not checked again."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    return model
