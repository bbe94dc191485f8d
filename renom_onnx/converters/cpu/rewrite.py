"""`Rewrite`: a step of plain nodes, some of which are replaced before its session is opened."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.encoding import copy_field
from renom_onnx.converters.importer import captured
from renom_onnx.converters.names import Names
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import every_node, label_of, subgraphs, value_names
from renom_onnx.converters.training_info import with_graph

_NO_NUMBERS = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


class Rewrite:
    """Finds nodes by what makes and reads their values, and takes others in their place.

    Args:
        model: a step, whose calls are written out.
        shapes: of all float32 values whose sizes are known.

    Attributes:
        nodes: of the step, in order; what is replaced is told by place in this list.
        shapes: as given.
    """

    def __init__(self, model: onnx.ModelProto, shapes: KnownShapes) -> None:
        self.nodes: Sequence[onnx.NodeProto] = list(model.graph.node)
        self.shapes = shapes
        self._model = model
        self._operands = [list(node.input) for node in self.nodes]
        self._captured = {i: captured(node) for i, node in enumerate(self.nodes) if subgraphs(node)}
        self._places = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._reads = {output.name: 1 for output in model.graph.output}
        self._readers: dict[str, list[int]] = {}
        self._by_type: dict[str, list[int]] = {}
        for i, (node, operands) in enumerate(zip(self.nodes, self._operands, strict=True)):
            for name in [*operands, *self._captured.get(i, ())]:
                self._reads[name] = self._reads.get(name, 0) + 1
            for name in dict.fromkeys(operands):
                self._readers.setdefault(name, []).append(i)
            if node.domain == "":
                self._by_type.setdefault(node.op_type, []).append(i)
        self._initializers = {t.name: t for t in model.graph.initializer}
        self._constants: list[onnx.TensorProto] = []
        self._replaced: dict[int, list[onnx.NodeProto]] = {}
        self._added: dict[int, list[onnx.NodeProto]] = {}
        self._added_after: dict[str, int] = {}

    @functools.cached_property
    def _names(self) -> Names:
        """Names of all values and nodes, taken; of what was indexed anyway, since a walk costs more than most forms."""
        graph = self._model.graph
        values = {*self._places, *self._reads, *self._initializers, *(value.name for value in graph.input)}
        values.update(tensor.values.name for tensor in graph.sparse_initializer)
        nodes = {node.name for node in self.nodes}
        for body in (body for i in self._captured for body in subgraphs(self.nodes[i])):
            values |= value_names(body)
            nodes.update(node.name for node in every_node(body.node))
        names = Names(values - {""})
        names.take_nodes(nodes)
        return names

    # Questions

    def candidates(self, *op_types: str) -> list[tuple[int, onnx.NodeProto]]:
        """Return the standard nodes of some operators that are not replaced, with their places."""
        found = sorted(i for op_type in op_types for i in self._by_type.get(op_type, ()))
        return [(i, self.nodes[i]) for i in found if i not in self._replaced]

    def place(self, name: str) -> int | None:
        """Return the place of the node that makes a value, None for an input or an initializer."""
        return self._places.get(name)

    def made_by(self, name: str, op_type: str, *, reads: int | None = None) -> onnx.NodeProto | None:
        """Return the node that makes a value, if it is of this operator, is not replaced, and has so many readers."""
        i = self._places.get(name)
        if i is None or i in self._replaced or (reads is not None and self._reads.get(name, 0) != reads):
            return None
        node = self.nodes[i]
        return node if node.domain == "" and node.op_type == op_type else None

    def readers(self, name: str) -> list[int]:
        """Return the places of the nodes that read a value."""
        return self._readers.get(name, [])

    def is_replaced(self, i: int) -> bool:
        """Whether other nodes were taken in the place of one."""
        return i in self._replaced

    def size(self, name: str) -> int:
        """Return how many elements a value has, 0 where that is not known."""
        return math.prod(self.shapes[name]) if name in self.shapes else 0

    def number(self, name: str) -> float | None:
        """Return the value of a constant of one element."""
        tensor = self._initializers.get(name)
        constant = self.made_by(name, "Constant")
        if constant is not None:
            tensor = attribute(constant, "value", None)
        if tensor is None or math.prod(tensor.dims) != 1 or tensor.data_type in _NO_NUMBERS:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    # New nodes

    def fresh(self, name: str) -> str:
        """Return a name that no value has."""
        return self._names.fresh(name)

    def node(
        self, old: onnx.NodeProto, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any
    ) -> Any:
        """Return a node, called after the one in whose place it comes; it has a new output if none is given."""
        name = self._names.fresh_node(f"{label_of(old)}/{op_type}")
        return helper.make_node(op_type, list(inputs), [output or self.fresh(name)], name=name, **attributes)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer and return its name."""
        name = self._names.fresh("rewritten.constant")
        self._constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def replace(self, i: int, nodes: Sequence[onnx.NodeProto]) -> None:
        """Take others in the place of a node, the last of which makes its output."""
        self._replaced[i] = list(nodes)

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node as early as it can come, for all who may read it."""
        place = max(self._added_after.get(operand, self._places.get(operand, -1)) for operand in node.input)
        self._added.setdefault(place, []).append(node)
        self._added_after.update(dict.fromkeys(node.output, place))

    def model(self) -> onnx.ModelProto:
        """Return the step with the new nodes, without what nobody reads any longer."""
        if not self._replaced:
            return self._model
        changed = with_graph(self._model, onnx.GraphProto())
        for field, value in self._model.graph.ListFields():
            if field.name != "node":
                copy_field(changed.graph, field.name, value)
        changed.graph.node.extend(self._needed())
        changed.graph.initializer.extend(self._constants)
        return changed

    def _needed(self) -> list[onnx.NodeProto]:
        """Return the nodes, old and new, that the outputs need."""
        wanted = {output.name for output in self._model.graph.output}
        kept: list[onnx.NodeProto] = []
        for i in range(len(self.nodes) - 1, -2, -1):
            is_old = i >= 0 and i not in self._replaced
            made = [*self._replaced.get(i, self.nodes[i : i + 1] if is_old else ()), *self._added.get(i, ())]
            for node in reversed(made):
                if not wanted.isdisjoint(node.output):
                    kept.append(node)
                    is_known = is_old and node is self.nodes[i]
                    wanted.update(self._operands[i] if is_known else node.input)
                    wanted.update(self._captured.get(i, ()) if is_known else ())
                    wanted.discard("")
        return kept[::-1]
