"""One step of a Scan or Loop, differentiated: what both have in common.

With states s' = f(s, x), stacked outputs y = g(s, x) and captures c, one step back is ds = f_s ds' + g_s dy,
dx = f_x ds' + g_x dy, dc = dc' + f_c ds' + g_c dy. Source: Werbos 1990, doi:10.1109/5.58337.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.graph.body import Body
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.container import added, holds_floats, zeros
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.function import without_calls
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import Shape, Value, ancestors

Type = tuple[np.dtype[Any], Shape | None]
FORWARDS, BACKWARDS = 0, 1


@dataclass(frozen=True)
class Slices:
    """A value whose slices along an axis are read or written, one a step, forwards or backwards."""

    value: Value
    axis: int = 0
    direction: int = FORWARDS

    def backwards(self) -> Slices:
        """Return the same slices from the last step to the first."""
        return Slices(self.value, self.axis, 1 - self.direction)


@dataclass(frozen=True)
class StepBack:
    """A body that goes one step back: it reads gradients of states, sums of gradients, and slices.

    Attributes:
        body: gives new gradients of states and sums, then the gradients of slices.
        captured: the values outside that it captures.
        states: numbers of the states whose gradients it carries.
        sums: numbers of the captures whose gradients it sums up.
        read_states: numbers of the states that it reads as they were before the step.
        read_slices: numbers of the forward step's slices that it reads.
        seeds: numbers of the stacked outputs whose gradients it reads.
        slices: numbers of the slices whose gradients it gives.
    """

    body: Body
    captured: list[Value]
    states: list[int]
    sums: list[int]
    read_states: list[int]
    read_slices: list[int]
    seeds: list[int]
    slices: list[int]


class Steps(ABC):
    """The steps of a Scan or Loop.

    Attributes:
        captured: values outside that the forward body captures.
        state_types: of the states.
        slice_types: of what a step reads beside states and captures.
    """

    captured: Sequence[Value]
    state_types: Sequence[Type]
    slice_types: Sequence[Type]

    @abstractmethod
    def write(self, states: Sequence[Value], slices: Sequence[Value], captured: Sequence[Value]) -> list[Value]:
        """Return the next states and the stacked outputs of one step, as new nodes."""

    @abstractmethod
    def states_before(self, numbers: Sequence[int]) -> list[Slices]:
        """Return the states of these numbers as they are before each step."""

    @abstractmethod
    def read(self, number: int) -> Slices:
        """Return what a step reads a slice of."""

    @abstractmethod
    def stacked(self, number: int, gradient: Value) -> Slices:
        """Return the gradient of a stacked output as the slices of the steps."""

    @abstractmethod
    def back(self, step: StepBack, carried: Sequence[Value], read: Sequence[Slices]) -> list[Value]:
        """Go back from the last step to the first.

        Args:
            step: one step back.
            carried: gradients of states and sums to start from.
            read: what it reads a slice of, in the order of the forward steps.

        Returns:
            The gradients of states before the first step, the sums, and the gradients of what slices were read of.
        """


def differentiate(
    op: Builder, steps: Steps, states: Sequence[Value], dstates: Sequence[Value | None], dys: Sequence[Value | None]
) -> tuple[list[Value | None], list[Value | None], list[Value | None]]:
    """Return the gradients of the first states, of what slices were read of, and of the captures.

    Args:
        op: builder.
        steps: the forward steps.
        states: after the last step.
        dstates: their gradients.
        dys: gradients of the stacked outputs.
    """
    first: list[Value | None] = [None] * len(states)
    sliced: list[Value | None] = [None] * len(steps.slice_types)
    captured: list[Value | None] = [None] * len(steps.captured)
    step = step_back(op, steps, dstates, dys)
    if step is not None:
        carried = [dstates[i] or zeros(op, states[i]) for i in step.states]
        carried += [zeros(op, steps.captured[j]) for j in step.sums]
        read = [*steps.states_before(step.read_states), *map(steps.read, step.read_slices)]
        read += [steps.stacked(k, dy) for k in step.seeds if (dy := dys[k]) is not None]
        made = iter(steps.back(step, carried, read))
        for found, numbers in ((first, step.states), (captured, step.sums), (sliced, step.slices)):
            for i in numbers:
                found[i] = next(made)
    return first, sliced, captured


def step_back(
    op: Builder, steps: Steps, dstates: Sequence[Value | None], dys: Sequence[Value | None]
) -> StepBack | None:
    """Return one step back, None where there is nothing to go back with."""
    inside = Inside(op)
    states = [inside.input(*t, f"S{i + 1}") for i, t in enumerate(steps.state_types)]
    slices = [inside.input(*t, f"X{i + 1}") for i, t in enumerate(steps.slice_types)]
    captured = [inside.see(value) for value in steps.captured]
    ends = steps.write(states, slices, captured)
    stacked = ends[len(states) :]
    seeds = {
        k: inside.input(y.dtype, y.shape, f"dY{k + 1}")
        for k, (y, dy) in enumerate(zip(stacked, dys, strict=True))
        if dy is not None
    }
    carried: dict[int, Value] = {}
    more = [i for i, d in enumerate(dstates) if d is not None]
    xs = [x for x in (*states, *slices, *captured) if holds_floats(x)]
    grads: dict[Value, Value | None] = {}
    while more or not grads:  # a state has a gradient if the next one has, so the step before may need another one
        carried |= {i: inside.input(*steps.state_types[i], f"dS{i + 1}") for i in more}
        seeded = [*(carried.get(i) for i in range(len(states))), *(seeds.get(k) for k in range(len(stacked)))]
        grads = dict(zip(xs, gradients_through(op, ends, seeded, xs), strict=True))
        more = [i for i, s in enumerate(states) if grads.get(s) is not None and i not in carried]
    carried = dict(sorted(carried.items()))
    ends = [zeros(op, d) if (ds := grads.get(states[i])) is None else ds for i, d in carried.items()]
    sums: dict[int, Value] = {}
    for j, c in enumerate(captured):
        if (dc := grads.get(c)) is not None:
            sums[j] = inside.input(c.dtype, c.shape, f"dC{j + 1}")
            ends.append(op.shaped(added(op, sums[j], dc), c))
    given = {j: dx for j, x in enumerate(slices) if (dx := grads.get(x)) is not None}
    ends += given.values()
    if not ends:
        return None
    ends = without_calls(op, ends, ())
    found = set(ancestors(ends))
    read_states = [i for i, s in enumerate(states) if s.node in found]
    read_slices = [j for j, x in enumerate(slices) if x.node in found]
    seeds = {k: d for k, d in seeds.items() if d.node in found}
    if not (read_states or read_slices or seeds):
        read_slices = [0]  # they tell how many steps there are
    formals = [*carried.values(), *sums.values(), *(states[i] for i in read_states)]
    formals += [*(slices[j] for j in read_slices), *seeds.values()]
    body, outside = inside.body("step_back", ends, formals)
    return StepBack(body, outside, list(carried), list(sums), read_states, read_slices, list(seeds), list(given))


def same_value(value: Value) -> Value:
    """Return the value that Identity nodes only rename."""
    while value.node.op_type == "Identity" and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value


def shifted(op: Builder, first: Value, after: Slices) -> Slices:
    """Return the states before each step, from the first one and the stack of those after each step."""
    parts = [op.Unsqueeze(first, [after.axis]), after.value]
    if after.direction == FORWARDS:
        return Slices(op.Slice(op.Concat(*parts, axis=after.axis), [0], [-1], [after.axis]), after.axis, FORWARDS)
    both = op.Concat(*parts[::-1], axis=after.axis)
    return Slices(op.Slice(both, [1], [2**62], [after.axis]), after.axis, BACKWARDS)


def known_type(dtype: np.dtype[Any], shape: Shape | None, formal: Value) -> Type:
    """Return a type; where nobody knows a shape outside, the one that the body declares."""
    return dtype, formal.shape if shape is None else shape


def values_of(made: Any) -> list[Value]:
    """Return the outputs of a node as a list, one alone too."""
    return list(made) if isinstance(made, tuple) else [made]
