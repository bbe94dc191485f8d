"""What optimizers compute of the number of the step alone, read from a table.

The corrections of Adam's moments are a dozen nodes of one number each, in float64, and for a small network a node costs
as much as a layer does. They depend on the step alone and settle after some thousand steps, so a session computes them
once for all steps. What also depends on the learning rate is a multiple of it. These nodes are written for the session
that is about to be opened, never into a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import FunctionKey, functions_of, key_of, label_of, names_of, replace_all
from renom_onnx.graph.function import DOMAIN

MAX_STEPS = 1 << 15
"""Entries of a table; numbers that have not settled by then are computed."""
RATE, STEP = "R", "T"
"""Operands of the function that computes an optimizer's numbers: learning rate and number of the step."""
_FUNCTIONS = {
    "Div": np.divide, "Mul": np.multiply, "Pow": np.power, "Reciprocal": np.reciprocal, "Sqrt": np.sqrt,
    "Sub": np.subtract,
}  # fmt: skip
"""Operators that these functions consist of; their outputs by others keep their nodes."""


@dataclass(frozen=True)
class _Table:
    """An output of an optimizer's function at learning rate 1.

    Attributes:
        entries: by step, of which the first is 1; the last entry holds for all later ones.
        is_multiple: whether the output is this times the learning rate.
    """

    entries: np.ndarray[Any, Any]
    is_multiple: bool


def with_tabulated_steps(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose optimizers read what depends on the number of the step from tables.

    Args:
        model: a step; the functions that its graph calls are looked at.
        shapes: of its values, which this form does not need.
    """
    if any(value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE for value in model.graph.input):
        return model  # where the last bits of float32 count
    bodies = {key: f for key, f in functions_of(model).items() if key[0] == DOMAIN and list(f.input) == [RATE, STEP]}
    tables = {key: _tables(f) for key, f in bodies.items()}
    if not any(tables.values()):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    writer = _Writer(changed, tables)
    replace_all(changed.graph.node, [made for node in changed.graph.node for made in writer.nodes(node)])
    return changed


def _tables(function: onnx.FunctionProto) -> dict[int, _Table]:
    """Return the tables of a function's outputs, by position."""
    with np.errstate(all="ignore"):  # what is no number in the table is none in the formula
        computed = _computed(function)
    followed = {i: computed[name] for i, name in enumerate(function.output) if name in computed}
    followed = {i: value for i, value in followed.items() if value.follows}
    columns = [value.numbers for value in followed.values()]
    moving = [int(np.flatnonzero(column != column[-1])[-1]) + 1 for column in columns if np.any(column != column[-1])]
    n_moving = max(moving, default=0)
    if n_moving >= MAX_STEPS:  # the last entry differs from itself if it is no number
        return {}
    return {i: _Table(value.numbers[: n_moving + 1], value.degree == 1) for i, value in followed.items()}


@dataclass(frozen=True)
class _Computed:
    """A value of an optimizer's function.

    Attributes:
        numbers: at learning rate 1, of the steps up to `MAX_STEPS` and at last of one for which all powers are 0.
        degree: 0 where the rate does not count, 1 where the value is a multiple of it.
        follows: whether it depends on the step.
    """

    numbers: Any
    degree: int
    follows: bool


def _computed(function: onnx.FunctionProto) -> dict[str, _Computed]:
    """Return the values of a function that are multiples of the rate, or independent of it."""
    steps = np.append(np.maximum(np.arange(MAX_STEPS, dtype=np.int64), 1), np.int64(1) << 40)
    found = {RATE: _Computed(np.ones((), np.float32), 1, False), STEP: _Computed(steps, 0, True)}
    for node in function.node:
        operands = [found[name] for name in node.input if name in found]
        if len(operands) < len(node.input):
            continue
        numbers = _numbers(node, [operand.numbers for operand in operands])
        if numbers is None:
            continue
        degree = sum(operand.degree for operand in operands)
        keeps_degree = node.op_type in ("Cast", "Mul") or (node.op_type == "Div" and operands[1].degree == 0)
        if degree == 0 or (degree == 1 and keeps_degree):
            found[node.output[0]] = _Computed(numbers, degree, any(operand.follows for operand in operands))
    return found


def _numbers(node: onnx.NodeProto, operands: Sequence[Any]) -> Any:
    """Return what a node computes; None where it is no such node, or none that could run."""
    if len(node.output) != 1:
        return None
    try:
        if node.op_type == "Constant":
            return numpy_helper.to_array(attribute(node, "value", None))
        if node.op_type == "Cast":
            return operands[0].astype(helper.tensor_dtype_to_np_dtype(attribute(node, "to", 0)))
        return _FUNCTIONS[node.op_type](*operands) if node.op_type in _FUNCTIONS else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # onnxruntime will tell what is wrong with it


class _Writer:
    """Writes look-ups in the place of calls."""

    def __init__(self, model: onnx.ModelProto, tables: Mapping[FunctionKey, Mapping[int, _Table]]) -> None:
        self._graph = model.graph
        self._names = names_of(model)
        self._tables = tables

    def nodes(self, call: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield what comes in the place of a node: itself, if there is no table of what it computes."""
        tables = self._tables.get(key_of(call), {})
        own = {i: table for i, table in tables.items() if i < len(call.output) and call.output[i]}
        if own:
            rate, step = call.input
            last = max(len(table.entries) for table in own.values()) - 1
            clip = self._node(call, "Clip", [step, *(self._constant(call, np.int64(n)) for n in (0, last))])
            yield clip
            for i, table in own.items():
                entries = self._constant(call, table.entries)
                output = "" if table.is_multiple else call.output[i]
                entry = self._node(call, "Gather", [entries, clip.output[0]], output)
                yield entry
                if table.is_multiple:
                    yield self._node(call, "Mul", [rate, entry.output[0]], call.output[i])
                call.output[i] = ""
        if not own or any(call.output):
            yield call

    def _node(self, call: onnx.NodeProto, op_type: str, inputs: list[str], output: str = "") -> onnx.NodeProto:
        name = self._names.fresh_node(f"{label_of(call)}/{op_type}")
        return helper.make_node(op_type, inputs, [output or self._names.fresh(name)], name=name)

    def _constant(self, call: onnx.NodeProto, value: Any) -> str:
        name: str = self._names.fresh(f"{label_of(call)}.constant")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name
