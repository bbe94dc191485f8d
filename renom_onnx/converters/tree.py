"""A tree as one ONNX graph: names, inputs, initializers and nodes of the values asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.writer import FunctionTable, Names, Writer, value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.distributor import Stream
from renom_onnx.graph.function import DOMAIN, DOMAIN_VERSION
from renom_onnx.graph.naming import TreeNames, mutable_name
from renom_onnx.graph.node import FORWARD, Constant, Input, Leaf, Mutable, Node, Static, Value

PRODUCER = "renom_onnx"
BATCH_NAMES = ("x", "y")
"""Names of the inputs that arrays become which were given to layers as data."""
EXPORT_OPSETS = range(18, 22)


class TreeWriter:
    """Writes parts of one tree under one set of names.

    Args:
        nodes: of the whole tree, inputs before readers.
        opset: of the default domain.
        inline: write function calls out.
        fixed: names that values must have (outputs).
        feed_all: arrays and parameters are inputs too, as the cached sessions of eager evaluation want them.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        opset: int,
        inline: bool = False,
        fixed: Iterable[tuple[Value, str]] = (),
        feed_all: bool = False,
    ) -> None:
        self.tree_names = TreeNames(nodes)
        self.names = Names()
        self.opset = opset
        self._inline = inline
        self._feed_all = feed_all
        self.table = FunctionTable(nodes)
        for node in nodes:
            if isinstance(node, Stream | Input):
                self.names.fix(node.output, self.names.fresh(str(node.name)))
        for value, name in fixed:
            if value not in self.names:
                self.names.fix(value, name)
        self._fed_types = {} if feed_all else _fed_types(nodes)
        batches = [node for node in nodes if isinstance(node, Static) and node.is_batch]
        for i, node in enumerate(batches):
            self.names.give(node.output, BATCH_NAMES[i] if i < len(BATCH_NAMES) else f"input{i + 1}")
        for node in nodes:
            if isinstance(node, Mutable):
                self.names.give(node.output, mutable_name(self.tree_names, node))

    def graph(self, name: str, nodes: Sequence[Node], outputs: Sequence[Value]) -> onnx.GraphProto:
        """Return a graph of the nodes; leaves become inputs and initializers."""
        writer = Writer(
            self.names,
            overload=self.table.overload,
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
            is_stored = isinstance(node, Mutable) or (isinstance(node, Static) and not node.is_batch)
            if is_stored and not self._feed_all:
                initializers.append(numpy_helper.from_array(node.array, self.names.of(value)))
            else:
                inputs.append(value_info(self.names.of(value), self._fed_types.get(value, value.dtype), value.shape))
        writer.write(nodes, outputs)
        infos = [value_info(self.names.of(v), v.dtype, v.shape) for v in outputs]
        return helper.make_graph(writer.nodes, name, inputs, infos, [*initializers, *writer.initializers])

    def model(self, graph: onnx.GraphProto, ir_version: int = schema.DEFAULT_IR_VERSION) -> onnx.ModelProto:
        """Return a model of the graph with the functions that the tree calls."""
        functions = [] if self._inline else self.table.protos()
        imports = [helper.make_opsetid("", self.opset)]
        if functions:
            imports.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        from renom_onnx import __version__

        return helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=ir_version,
            functions=functions,
            producer_name=PRODUCER,
            producer_version=__version__,
        )


def _fed_types(nodes: Sequence[Node]) -> dict[Value, np.dtype[Any]]:
    """Return the type in which data are fed where every reader converts them to one and the same.

    An exported file then asks for float32 images and int64 labels, whatever the program's arrays were.
    """
    wanted: dict[Value, set[Any]] = {}
    for node in nodes:
        for value, cast in zip(node.inputs, node.casts, strict=True):
            is_data = value is not None and (isinstance(value.node, Stream) or getattr(value.node, "is_batch", False))
            if value is not None and is_data and node.tag == FORWARD:
                wanted.setdefault(value, set()).add(cast)
    return {
        value: casts.pop() for value, casts in wanted.items() if len(casts) == 1 and all(c is not None for c in casts)
    }


def tree_opset(nodes: Iterable[Node], asked: int | None) -> int:
    """Return the opset of an export: the one asked for, else the newest that a node needs, 18 at least.

    Raises:
        ConversionError: the one asked for is not 18 to 21, or older than a node.
    """
    needed = max((node.opset for node in nodes), default=0)
    if asked is None:
        return max(needed, schema.DEFAULT_OPSET)
    if asked not in EXPORT_OPSETS or asked < needed:
        least = max(needed, EXPORT_OPSETS[0])
        raise ConversionError(
            f"export: opset must be {least} to {EXPORT_OPSETS[-1]}, got {asked}. Newer opsets lose kernels of onnxruntime's "
            f"CUDA provider, and older ones lack operators."
        )
    return asked


def as_bytes(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes; the same model gives the same bytes."""
    data: Any = model.SerializeToString(deterministic=True)
    return bytes(data)
