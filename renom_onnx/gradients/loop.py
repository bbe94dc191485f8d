"""Gradient of Loop, by a Loop that goes through the steps from the last to the first.

Source: https://onnx.ai/onnx/operators/onnx__Loop.html.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.gradients.steps import (
    Slices,
    StepBack,
    Steps,
    Type,
    differentiate,
    known_type,
    same_value,
    shifted,
    values_of,
)
from renom_onnx.graph import schema
from renom_onnx.graph.body import Body, common_shape, without
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.container import holds_floats
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.inside import Inside, instantiate
from renom_onnx.graph.node import Input, Node, Shape, Value, known_array, type_text

UNROLLED = 64
"""Steps up to which a Loop whose states change their shapes is written out: each is one more copy of the body."""


@gradient("Loop", all_outputs=True, reads=(0, 1))
def loop(op, dys, ys, *inputs, body):
    """From the last step to the first: ds = f_s ds' + g_s dy, dc = dc + f_c ds' + g_c dy."""
    dys = [dy if holds_floats(y) else None for y, dy in zip(ys, dys, strict=True)]
    n_operands = len(inputs) - len(body.captures)
    m, cond, *initial = (*inputs[:n_operands], None, None)[: max(n_operands, 2)]
    n = len(initial)
    steps = _Loop(op, body, m, cond, initial, inputs[n_operands:], ys)
    if steps.changing and steps.n_steps is not None and steps.n_steps <= UNROLLED:
        first, captured = steps.unrolled(dys)
    else:
        first, sliced, captured = differentiate(op, steps, ys[:n], dys[:n], dys[n:])
        captured = steps.with_slices(captured, sliced)
    return (*(None,) * min(n_operands, 2), *first, *captured)


class _Loop(Steps):
    """The steps of a Loop.

    A step reads its number and a slice of each capture that the body gathers by this number, so that the gradient of a
    sequence is stacked, not summed up over sequences of zeros.
    """

    def __init__(
        self,
        op: Builder,
        body: Body,
        m: Value | None,
        cond: Value | None,
        initial: Sequence[Value],
        captured: Sequence[Value],
        ys: Sequence[Value],
    ) -> None:
        self._op = op
        self._body = body
        self._m = m
        self._cond = cond
        self._initial = initial
        self._outputs = ys[len(initial) :]
        self._gathers = _gathers_by_number(body)
        self.captured = captured
        outside = dict(zip(body.captures, captured, strict=True))
        self._sequences = [(outside[x], node.attributes.get("axis", 0)) for node, x in self._gathers]
        self.slice_types = [(np.dtype(np.int64), ()), *((x.dtype, without(x.shape, a)) for x, a in self._sequences)]
        self._types = [known_type(v.dtype, v.shape, s) for v, s in zip(initial, body.inputs[2:], strict=True)]
        self.state_types = self._types
        self.changing = self._find_changing()
        self.n_steps = _constant_number(body, m, cond)
        self._count: Value | None = None

    def _find_changing(self) -> dict[int, Type]:
        """Return the states that may change their shape, with what they become in a step; leave their sizes open."""
        found: dict[int, Type] = {}
        while True:
            states = [Input(*t, name="S").output for t in self.state_types]
            slices = [Input(*t, name="X").output for t in self.slice_types]
            after = self.write(states, slices, self.captured)
            new = {i for i, s in enumerate(states) if s.shape is None or after[i].shape != s.shape} - found.keys()
            if not new:
                return found
            for i in new:
                found[i] = (after[i].dtype, after[i].shape)
                self._types[i] = (states[i].dtype, common_shape(states[i].shape, after[i].shape))

    def write(self, states: Sequence[Value], slices: Sequence[Value], captured: Sequence[Value]) -> list[Value]:
        op, given = self._op, {}
        for (node, x), (_, axis), part in zip(self._gathers, self._sequences, slices[1:], strict=True):
            is_kept = node.output.rank == x.rank
            given[node.output] = op.Unsqueeze(part, [axis]) if is_kept else part
        go = op.constant(True)  # else there would be no step
        return instantiate(self._body, [slices[0], go, *states], captured, given)[1:]

    def states_before(self, numbers: Sequence[int]) -> list[Slices]:
        n, found = len(self._initial), {}
        for i in numbers:
            for output, y in zip(self._body.outputs[1 + n :], self._outputs, strict=True):
                if same_value(output) is same_value(self._body.outputs[1 + i]):
                    found[i] = shifted(self._op, self._initial[i], Slices(y))
        wanted = [i for i in numbers if i not in found]
        for i in wanted:
            first, after = self._initial[i], self.changing.get(i)
            if after is not None and (schema.is_container(first.dtype) or _differs(first.shape, after[1])):
                got = "a sequence" if schema.is_container(first.dtype) else f"{first} that becomes {type_text(*after)}"
                raise GradientError(
                    f"Loop: a state that the gradient reads must be a tensor that keeps its shape, got {got}. Give the "
                    f"loop a constant number of steps, at most {UNROLLED}."
                )
        if wanted:
            found |= zip(wanted, map(Slices, self._again(wanted)), strict=True)
        return [found[i] for i in numbers]

    def _again(self, numbers: Sequence[int]) -> list[Value]:
        """Return the stacks of the states before each step, from a second pass."""
        op, n = self._op, len(self._initial)
        inside = Inside(op)
        i, go = inside.input(np.dtype(np.int64), (), "I"), inside.input(np.dtype(np.bool_), (), "GO")
        states = [inside.input(*t, f"S{k + 1}") for k, t in enumerate(self.state_types)]
        ends = instantiate(self._body, [i, go, *states], [inside.see(value) for value in self.captured])
        body, outside = inside.body("states", [*ends[: 1 + n], *((states[k] for k in numbers) if numbers else [i])])
        made = values_of(op.Loop(self._m, self._cond or op.constant(True), *self._initial, *outside, body=body))[n:]
        self._count = self._count or op.size_of(made[0], [0])
        return made

    def _number(self) -> Value:
        """Return how many steps were made, as int64[1]."""
        op = self._op
        if self.n_steps is not None:
            return op.constant([self.n_steps], np.int64)
        if self._count is None and self._outputs:
            self._count = op.size_of(self._outputs[0], [0])
        if self._count is None:
            self._again([])
        assert self._count is not None
        return self._count

    def read(self, number: int) -> Slices:
        op = self._op
        if number:
            return Slices(*self._sequences[number - 1])
        return Slices(op.Range(op.constant(0, np.int64), op.Squeeze(self._number(), [0]), op.constant(1, np.int64)))

    def stacked(self, number: int, gradient: Value) -> Slices:
        return Slices(gradient)

    def back(self, step: StepBack, carried: Sequence[Value], read: Sequence[Slices]) -> list[Value]:
        op, n = self._op, len(carried)
        number = op.Squeeze(self._number(), [0])
        inside = Inside(op)
        i, go = inside.input(np.dtype(np.int64), (), "I"), inside.input(np.dtype(np.bool_), (), "GO")
        states = [inside.input(v.dtype, v.shape, f"S{k + 1}") for k, v in enumerate(carried)]
        place = op.Sub(op.Sub(inside.see(number), 1), i)
        slices = [op.Gather(inside.see(s.value), place, axis=s.axis) for s in read]
        ends = instantiate(step.body, [*states, *slices], [inside.see(value) for value in step.captured])
        body, outside = inside.body("back", [go, *ends])
        made = values_of(op.Loop(number, op.constant(True), *carried, *outside, body=body))
        return [*made[:n], *(op.Slice(v, [-1], [-(2**62)], [0], [-1]) for v in made[n:])]

    def with_slices(self, captured: Sequence[Value | None], sliced: Sequence[Value | None]) -> list[Value | None]:
        """Return the gradients of the captures, those of the sequences that the steps read slices of among them."""
        op, sums = self._op, list(captured)
        for (x, axis), stack in zip(self._sequences, sliced[1:], strict=True):
            if stack is None:
                continue
            rank = len(x.shape or ())
            axis %= rank
            if axis:
                order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
                stack = op.Transpose(stack, perm=order)
            left = op.Sub(op.size_of(x, [axis]), op.size_of(stack, [axis]))
            pads = op.vector([0] * (rank + axis), left, [0] * (rank - axis - 1))
            dx, j = op.shaped(op.Pad(stack, pads), x), self.captured.index(x)
            sums[j] = dx if (other := sums[j]) is None else op.Add(other, dx)
        return sums

    def unrolled(self, dys: Sequence[Value | None]) -> tuple[list[Value | None], list[Value | None]]:
        """Return the gradients of the first states and of the captures, through all steps written out."""
        op, states, n = self._op, list(self._initial), len(self._initial)
        ends, seeds = [], []
        for i in range(self.n_steps or 0):
            inputs = [op.constant(i, np.int64), op.constant(True), *states]
            made = instantiate(self._body, inputs, self.captured)[1:]
            states = made[:n]
            ends += made[n:]
            seeds += [dy and op.Gather(dy, op.constant(i, np.int64), axis=0) for dy in dys[n:]]
        xs = [x for x in (*self._initial, *self.captured) if holds_floats(x)]
        found = gradients_through(op, [*states, *ends], [*dys[:n], *seeds], xs)
        grads = dict(zip(xs, found, strict=True))
        return [grads.get(x) for x in self._initial], [grads.get(x) for x in self.captured]


def _differs(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes are different for certain."""
    if a is None or b is None:
        return False
    return len(a) != len(b) or any(
        m != n for m, n in zip(a, b, strict=True) if isinstance(m, int) and isinstance(n, int)
    )


def _constant_number(body: Body, m: Value | None, cond: Value | None) -> int | None:
    """Return the number of steps if the model fixes it: a constant, and a condition that stays true."""
    number, start, go = known_array(m), known_array(cond), same_value(body.outputs[0])
    if number is None or (cond is not None and (start is None or not start.all())):
        return None
    stays = go is body.inputs[1] or ((known := known_array(go)) is not None and known.all())
    return max(int(number.reshape(())), 0) if stays else None


def _gathers_by_number(body: Body) -> list[tuple[Node, Value]]:
    """Return the nodes that gather from a captured sequence of floats by the number of the step, and the sequence."""
    found = []
    for node in body.nodes:
        if node.op_type == "Gather" and node.domain == "":
            x, at = node.inputs[:2]
            is_one = at is not None and at.shape in [(), (1,)]
            while at is not None and at.node.op_type in {"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"}:
                at = at.node.inputs[0]
            if is_one and at is body.inputs[0] and x in body.captures and x.is_float and x.shape is not None:
                found.append((node, x))
    return found
