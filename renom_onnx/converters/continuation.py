"""Training that goes on: the loss and the optimizer of a file that `export_training` wrote.

The forward pass of the file's training step is read. Gradients and updates are built again, by the same rules that
wrote them, so that what is frozen, clipped or optimized may be changed before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.encoding import array_of, clear_data, value_type
from renom_onnx.converters.importer import Call, ImportedGraph, import_graph, static_leaf
from renom_onnx.converters.lowering import has_training_operators
from renom_onnx.converters.operands import Operands, meet
from renom_onnx.converters.recovery import Recovery
from renom_onnx.converters.settings import read_settings
from renom_onnx.converters.training_info import joined, needed
from renom_onnx.errors import ConversionError
from renom_onnx.graph import checkpoint
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.function import DOMAIN
from renom_onnx.graph.node import Fixed, Input, Mutable, Node, State, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter, Statistic
from renom_onnx.graph.random import FIRST_SAMPLE
from renom_onnx.graph.training_form import TrainingForward

_TRAIN = re.compile(r"(.+)\.train(?:_\d+)?")


def is_continuable(model: onnx.ModelProto) -> bool:
    """Whether the model has a training step that can be built again: one whose updates are calls of our functions."""
    if len(model.training_info) != 1 or has_training_operators(model):
        return False
    keys = {binding.key for binding in model.training_info[0].update_binding}
    return any(
        node.domain == DOMAIN and node.input and node.input[0] in keys for node in model.training_info[0].algorithm.node
    )


class Continuation:
    """The training step of a file.

    Args:
        model: with its nodes; the initializers of its graph may lack their data. It is kept, and state taken out of it.
        leaves: the initializers of the graph.

    Attributes:
        optimizer: with its state.
        inputs: types of what the loss is connected to, the file's inputs and then the targets, by name.
        leaves: everything that the algorithm keeps, by name: state, counts, learning rates.
    """

    def __init__(self, model: onnx.ModelProto, leaves: Mapping[str, Value]) -> None:
        self._model = model
        self._info = model.training_info[0]
        self._graph_leaves = leaves
        algorithm = self._info.algorithm
        bindings = {binding.key: binding.value for binding in self._info.update_binding}
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._settings = read_settings(metadata.get("settings", ""))
        parameters = {
            name: value.node
            for name, value in leaves.items()
            if isinstance(value.node, Parameter) and not isinstance(value.node, Statistic)
        }
        recovery = Recovery(algorithm, parameters, self._settings, metadata.get("optimizer", ""))
        self.optimizer: Optimizer = recovery.optimizer
        self.leaves: dict[str, Mutable] = recovery.leaves
        self._moving: dict[str, str] = {}  # what the forward pass changes: statistics and counts
        for key, value in bindings.items():
            if key in recovery.leaves or key in parameters:
                continue
            self._moving[key] = self._unselected(key, value)
            if key not in leaves:
                tensor = next((t for t in algorithm.initializer if t.name == key), None)
                if tensor is None:
                    raise ConversionError(f"load: update_binding must name initializers, got {key!r}, which is none.")
                state = State(self._initial(key, array_of(tensor)), key, None)
                state.array = array_of(tensor).copy()
                state.name = state.output.name = key
                self.leaves[key] = state
        for tensor in algorithm.initializer:
            if tensor.name in self.leaves:
                clear_data(tensor)
        given = {tensor.name for tensor in [*model.graph.initializer, *algorithm.initializer]}
        self.inputs = {
            info.name: value_type(info.type)
            for info in [*model.graph.input, *algorithm.input]
            if info.name not in given
        }
        losses = [output.name for output in algorithm.output if output.name not in set(bindings.values())]
        if not losses:
            raise ConversionError("load: the algorithm must have the loss among its outputs, got only next values.")
        self._training_loss = losses[0]
        self._loss = next((name for name in losses[1:] if name.endswith("evaluation_loss")), losses[0])

    def _initial(self, key: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what a state starts from: the constant that `initialization` gives it, else today's value."""
        outputs = {binding.key: binding.value for binding in self._info.initialization_binding}
        for node in self._info.initialization.node:
            if outputs.get(key) in node.output and node.op_type in ("Constant", "ConstantOfShape"):
                values = [array_of(attribute.t) for attribute in node.attribute if attribute.name == "value"]
                return np.resize(values[0], array.shape) if values and values[0].size else np.zeros_like(array)
        return array

    def _unselected(self, key: str, name: str) -> str:
        """Return the next value of a state without the choice to keep the old one, which loss scaling adds."""
        for node in self._info.algorithm.node:
            if name in node.output and node.op_type == "Where" and node.input[2] == key:
                return str(node.input[1])
        return name

    def loss(self, operands: Operands | None = None) -> Value:
        """Return the loss over operands, or over placeholders of the file's names."""
        if operands is None:
            placeholders = [GraphElement(Input(*t, name=name).output) for name, t in self.inputs.items()]
            operands = meet(self.inputs, placeholders)
        model, names = self._forward_model()
        algorithm = self._info.algorithm
        leaves = {**self._graph_leaves, **{name: leaf.output for name, leaf in self.leaves.items()}}
        for tensor in algorithm.initializer:
            if tensor.name == FIRST_SAMPLE.name:
                leaves[tensor.name] = FIRST_SAMPLE.output
            elif tensor.name not in leaves:
                array = array_of(tensor)
                leaf = Fixed(array) if tensor.name.startswith("static") else static_leaf(array)
                leaf.output.name = tensor.name
                leaves[tensor.name] = leaf.output
        kept = {*names, *(output.name for output in self._model.graph.output)}
        call = Call(operands.values, operands.casts, operands.symbols, kept=kept)
        graph = import_graph(model, leaves=leaves, call=call)
        loss = graph.values[self._loss]
        self._replay(graph, loss)
        named = {node.note.name: node for node, _ in graph.nodes if node.note is not None}
        for names_of_call in self._checkpoints():
            checkpoint.mark(named[name] for name in names_of_call if name in named)
        loss.node.loss = tuple(graph.values[output.name] for output in self._model.graph.output)
        loss.node.reduction = self._settings.get("reduction", "mean")
        limits = self._settings.get("gradient_limits")
        loss.node.gradient_limits = None if limits is None else tuple(limits)
        return loss

    def _checkpoints(self) -> Iterable[Iterable[str]]:
        """Return what the file says of nodes that are computed again; any text may stand there."""
        found = self._settings.get("checkpoints")
        groups = found if isinstance(found, list) else []
        return ([name for name in group if isinstance(name, str)] for group in groups if isinstance(group, list))

    def _forward_model(self) -> tuple[onnx.ModelProto, list[str]]:
        """Return graph and forward pass of the algorithm as one model, and what it is asked for."""
        algorithm = self._info.algorithm
        names = [self._training_loss, self._loss, *self._moving.values()]
        forward = onnx.GraphProto()
        forward.node.extend(needed(algorithm.node, names))
        forward.input.extend(info for info in algorithm.input if info.name in self.inputs)
        read = {name for node in forward.node for name in node.input}
        forward.initializer.extend(tensor for tensor in algorithm.initializer if tensor.name in read)
        model = onnx.ModelProto()
        model.opset_import.extend(self._model.opset_import)
        model.functions.extend(self._model.functions)
        model.graph.CopyFrom(joined(self._model.graph, forward))
        return model, names

    def _replay(self, graph: ImportedGraph, loss: Value) -> None:
        """Give the nodes that differ in training the nodes of the file that stand for them."""
        training_loss = graph.values[self._training_loss]
        next_values = {
            (self.leaves[key] if key in self.leaves else self._graph_leaves[key].node): graph.values[name]
            for key, name in self._moving.items()
        }
        if training_loss is loss and not next_values:
            return
        plain = {node.note.name: node for node, _ in graph.nodes if node.note is not None and node.note.name}
        copies = {}
        for node, _ in graph.nodes:
            found = _TRAIN.fullmatch(node.note.name) if node.note is not None else None
            if found is not None and found[1] in plain:
                copies[node] = plain[found[1]]
        copies |= _paired(loss, training_loss, copies)
        groups: dict[Node, list[Node]] = {}
        for copy, node in copies.items():
            copy.stand_for(node)
            groups.setdefault(node, []).append(copy)
        read_by = _readers(ancestors([training_loss]))
        for node, group in groups.items():
            form = _Replay(_stand_ins(node, group, read_by, training_loss), next_values)
            node.training_form = form


@dataclass
class _Replay:
    """A training form: nodes that exist already."""

    outputs: Sequence[Value]
    next_values: Mapping[Any, Value]

    def __call__(self, op: Builder, inputs: Sequence[Value | None], forward: TrainingForward) -> Sequence[Value]:
        forward.next_values.update(self.next_values)
        return self.outputs


def _paired(loss: Value, training_loss: Value, named: Mapping[Node, Node]) -> dict[Node, Node]:
    """Return the nodes of the loss in training with those of the loss in inference, as far as no name tells them."""
    pairs: dict[Node, Node] = {}
    stack = [(loss.node, training_loss.node)]
    while stack:
        plain, copy = stack.pop()
        if plain is copy or copy in named or copy in pairs or plain.op_type != copy.op_type:
            continue
        pairs[copy] = plain
        stack += [
            (a.node, b.node) for a, b in zip(plain.inputs, copy.inputs, strict=False) if a is not None and b is not None
        ]
    return pairs


def _readers(nodes: Iterable[Node]) -> dict[Value, list[Node]]:
    found: dict[Value, list[Node]] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None:
                found.setdefault(value, []).append(node)
    return found


def _stand_ins(
    node: Node, group: Sequence[Node], read_by: Mapping[Value, Sequence[Node]], loss: Value
) -> Sequence[Value]:
    """Return the values of a group of nodes that stand for a node's outputs: those that others read."""
    if len(group) == 1:
        return group[0].outputs
    values = [value for member in group for value in member.outputs if value.dtype == node.output.dtype]
    outside = [v for v in values if v is loss or any(reader not in group for reader in read_by.get(v, ()))]
    return outside[-1:] or values[-1:]
