"""Updates of small weights, taken together.

An optimizer such as Adam passes over a weight a dozen times, and for a small one the passes cost next to nothing, but
each call of a kernel does. So the small weights that are updated alike lie behind one another in memory, with their
states likewise, and one call updates all of them. A weight is still read under its own name, in its place there.

The step that a session runs is written this way; the file is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import helper

from renom_onnx.converters.structure import FunctionKey, functions_of, key_of, names_of, replace_all
from renom_onnx.converters.training_info import TrainingStep, read_names
from renom_onnx.graph.function import DOMAIN

MAX_ELEMENTS = 1 << 14
"""Of a weight that is updated together with others: passes over larger ones cost more than calls."""
MIN_NODES = 5
"""Of an update that it pays to do together: the gradients are copied behind one another, which takes nodes too."""
_ELEMENTWISE = {"Abs", "Add", "Cast", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Reciprocal", "Sign", "Sqrt", "Sub"}

Joined = dict[str, list[str]]
"""Weights or states that lie behind one another, by the name of all of them together."""


def join_updates(step: TrainingStep) -> tuple[TrainingStep, Joined]:
    """Return a step that updates small weights together, and which ones lie together.

    Args:
        step: of one device. Its state keeps its names and is not joined.
    """
    found = [members for members in _groups(step).values() if len(members) > 1]
    if not found:
        return step, {}
    model = onnx.ModelProto()
    model.CopyFrom(step.model)
    writer = _Writer(model, step.bindings)
    for members in found:
        writer.join(members)
    return replace(step, model=writer.model(), bindings=writer.bindings), writer.joined


@dataclass(frozen=True)
class _Update:
    """A call that updates a weight.

    Attributes:
        call: the node.
        gradient: position of the gradient among its operands.
        held: positions of the weight and of its states, in the order of the outputs.
        shape: of each.
        element: their element type, as protobuf has it.
    """

    call: onnx.NodeProto
    gradient: int
    held: tuple[int, ...]
    shape: tuple[int, ...]
    element: int


def _groups(step: TrainingStep) -> Mapping[object, list[_Update]]:
    """Return the updates of small weights, those that are alike together."""
    types = {i.name: i.type.tensor_type for i in step.model.graph.input}
    keys = {value: key for key, value in step.bindings.items()}
    bodies = {key: f for key, f in functions_of(step.model).items() if key[0] == DOMAIN and _is_elementwise(f)}
    reads = _count(name for node in step.model.graph.node for name in read_names(node))
    found: dict[object, list[_Update]] = {}
    for node in step.model.graph.node:
        update = _update(node, bodies, types, keys)
        if update is None or any(reads.get(name) for name in node.output):
            continue
        own = {update.gradient, *update.held}
        scalars = tuple((i, name) for i, name in enumerate(node.input) if i not in own)
        attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        found.setdefault((key_of(node), attributes, scalars, update.element), []).append(update)
    return found


def _update(
    node: onnx.NodeProto,
    bodies: Mapping[FunctionKey, onnx.FunctionProto],
    types: Mapping[str, onnx.TypeProto.Tensor],
    keys: Mapping[str, str],
) -> _Update | None:
    """Return a node as the update of a small weight, if it is one and all that it writes are next values."""
    if key_of(node) not in bodies or not node.output or any(name not in keys for name in node.output):
        return None
    held = [keys[name] for name in node.output]
    if any(list(node.input).count(name) != 1 for name in held):
        return None
    shapes = {tuple(d.dim_value for d in types[name].shape.dim) for name in held}
    elements = {types[name].elem_type for name in held}
    others = [i for i, name in enumerate(node.input) if name not in held]
    gradients = [i for i in others if bodies[key_of(node)].input[i] == "G"]
    scalars = [node.input[i] for i in others if i not in gradients]
    if len(shapes) > 1 or len(elements) > 1 or len(gradients) != 1 or not all(scalars):
        return None
    (shape,) = shapes
    if not 0 < math.prod(shape) <= MAX_ELEMENTS:
        return None
    return _Update(node, gradients[0], tuple(list(node.input).index(name) for name in held), shape, elements.pop())


def _is_elementwise(function: onnx.FunctionProto) -> bool:
    """Whether a body computes each element from those at the same place, in as many nodes as make it worth it."""
    nodes = [node for node in function.node if node.op_type != "Constant"]
    numbers = [a.t for node in function.node for a in node.attribute if a.name == "value"]
    is_plain = all(node.domain == "" and node.op_type in _ELEMENTWISE for node in nodes)
    return is_plain and len(nodes) >= MIN_NODES and all(math.prod(tensor.dims) == 1 for tensor in numbers)


def _count(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


class _Writer:
    """Writes joined updates into a model.

    Attributes:
        bindings: next value by name, of what is joined under the name of all together.
        joined: what lies together.
    """

    def __init__(self, model: onnx.ModelProto, bindings: Mapping[str, str]) -> None:
        self.bindings = dict(bindings)
        self.joined: Joined = {}
        self._model = model
        self._names = names_of(model)
        self._calls: dict[str, list[onnx.NodeProto]] = {}

    def join(self, updates: list[_Update]) -> None:
        """Write one call in the place of the last of several.

        What is joined is one row of a matrix: onnx's inference takes a vector for sizes, and would tell those of each
        element.
        """
        first = updates[0]
        flat_size = self._names.fresh("joined.flat")
        self._model.graph.initializer.append(helper.make_tensor(flat_size, onnx.TensorProto.INT64, [2], [1, -1]))
        nodes, pieces = [], []
        for update in updates:
            gradient = update.call.input[update.gradient]
            if update.shape == (1, math.prod(update.shape)):
                pieces.append(gradient)
                continue
            pieces.append(self._names.fresh("joined.gradient.piece"))
            nodes.append(helper.make_node("Reshape", [gradient, flat_size], [pieces[-1]], name=pieces[-1]))
        together = self._names.fresh("joined.gradient")
        nodes.append(helper.make_node("Concat", pieces, [together], name=together, axis=1))
        call = onnx.NodeProto()
        call.CopyFrom(first.call)
        call.input[first.gradient] = together
        size = sum(math.prod(update.shape) for update in updates)
        for output, i in enumerate(first.held):
            members = [update.call.input[i] for update in updates]
            name = self._names.fresh(f"joined.{members[0]}")
            following = self._names.fresh(f"{name}.next")
            call.input[i], call.output[output] = name, following
            self.joined[name] = members
            for member in members:
                del self.bindings[member]
            self.bindings[name] = following
            self._model.graph.input.append(helper.make_tensor_value_info(name, first.element, [1, size]))
            self._model.graph.output.append(helper.make_tensor_value_info(following, first.element, [1, size]))
        for update in updates:
            self._calls[update.call.output[0]] = []
        self._calls[updates[-1].call.output[0]] = [*nodes, call]

    def model(self) -> onnx.ModelProto:
        """Return the model without the calls, inputs and outputs that are joined."""
        graph = self._model.graph
        kept = [made for node in graph.node for made in self._calls.get(next(iter(node.output), ""), [node])]
        replace_all(graph.node, kept)
        members = {name for names in self.joined.values() for name in names}
        read = {name for node in graph.node for name in read_names(node)}
        written = {name for node in graph.node for name in node.output}
        replace_all(graph.input, [i for i in graph.input if i.name not in members or i.name in read])
        replace_all(graph.output, [o for o in graph.output if o.name in written])
        return self._model
