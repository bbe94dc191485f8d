"""The passes of a recurrent operator over all steps, forth and back, as functions of standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.gradients.recurrent_cell import CELLS, Cell, Values, size_of
from renom_onnx.graph.body import without
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import Input, Value

Sizes = tuple[int, ...]
STATES = ("initial_h", "initial_c")


@dataclass(frozen=True)
class Recurrence:
    """A node and the sizes of its operands.

    Attributes:
        op_type: RNN, LSTM or GRU.
        shapes: of the operands that it has, by their formal names: X, W, R, B, initial_h, initial_c.
        directions: for each, whether it reads from the last step to the first.
        opset: of the bodies.
    """

    op_type: str
    shapes: Mapping[str, Sizes]
    directions: tuple[bool, ...]
    opset: int

    @property
    def cell(self) -> Cell:
        """One step."""
        return CELLS[self.op_type]

    def forward(self) -> Function:
        """Return the function of the operands; its outputs are those of the operator, then what was kept."""
        op = Builder(self.opset)
        given = self._formals(self.shapes)
        steps, rows, size = *self.shapes["X"][:2], self.shapes["R"][2]
        ys, kept = [], []
        ends: list[Values] = [[] for _ in range(self.cell.n_states)]
        for d in range(len(self.directions)):
            last, stacks = self._forth(op, d, given)
            ys.append(op.Reshape(stacks[0], [steps, 1, rows, size]))
            for end, state in zip(ends, last, strict=True):
                end.append(op.Unsqueeze(state, [0]))
            kept += stacks
        outputs = [_joined(op, ys, 1), *(_joined(op, end, 0) for end in ends), *kept]
        names = ["Y", "Y_h", "Y_c"][: 1 + len(ends)] + self.kept_names
        return Function(f"{self.op_type}Forth", DOMAIN, self.opset, tuple(given.values()), tuple(outputs), tuple(names))

    def backward(self, gradients: Mapping[str, Sizes], kept: Mapping[str, Sizes]) -> Function:
        """Return the function of gradients of outputs, operands and what was kept; its outputs are all gradients.

        Args:
            gradients: the sizes of those that there are, by their formal names: dY, dY_h, dY_c.
            kept: the sizes of what the forward function put out, by name.
        """
        op = Builder(self.opset)
        given = self._formals({**gradients, **self.shapes, **kept})
        parts: dict[str, Values] = {}
        for d in range(len(self.directions)):
            for name, value in self._back(op, d, given).items():
                parts.setdefault(name, []).append(value)
        dx = parts.pop("X")
        found = {"X": dx[0] if len(dx) == 1 else op.Add(*dx)}
        found |= {name: _joined(op, [op.Unsqueeze(v, [0]) for v in values], 0) for name, values in parts.items()}
        outputs = {f"d{name}": value for name, value in found.items() if name in self.shapes}
        return Function(
            f"{self.op_type}Back",
            DOMAIN,
            self.opset,
            tuple(given.values()),
            tuple(outputs.values()),
            tuple(outputs),
        )

    @property
    def kept_names(self) -> list[str]:
        """Names of what the forward function keeps."""
        return [f"kept{d}_{i}" for d in range(len(self.directions)) for i in range(self.cell.n_kept)]

    def _formals(self, shapes: Mapping[str, Sizes]) -> dict[str, Value]:
        return {name: Input(np.dtype(np.float32), shape, name=name).output for name, shape in shapes.items()}

    def _of(self, op: Builder, value: Value | None, d: int, axis: int = 0) -> Any:
        """Return the part of one direction."""
        if value is None:
            return None
        return op.Squeeze(value, [axis]) if len(self.directions) == 1 else op.Gather(value, np.int64(d), axis=axis)

    def _forth(self, op: Builder, d: int, given: Mapping[str, Value]) -> tuple[Values, Values]:
        """Return the last states of one direction, and what was kept of all steps."""
        w, r, b, *states = (self._of(op, given.get(name), d) for name in ("W", "R", "B", *STATES[: self.cell.n_states]))
        none = op.constant(np.zeros((self.shapes["X"][1], self.shapes["R"][2])), np.float32)
        states = [none if state is None else state for state in states]
        inputs, shared = self.cell.inputs(op, given["X"], w, b), self.cell.shared(op, r, b)
        inside = Inside(op)
        before = [inside.input(v.dtype, v.shape, f"S{i}") for i, v in enumerate(states)]
        slices = [inside.input(v.dtype, without(v.shape, 0), f"X{i}") for i, v in enumerate(inputs)]
        after, kept = self.cell.step(op, before, slices, [inside.see(v) for v in shared])
        made = _scan(op, inside, states, inputs, after, kept, is_reverse=self.directions[d])
        return made[: len(after)], made[len(after) :]

    def _back(self, op: Builder, d: int, given: Mapping[str, Value]) -> dict[str, Value]:
        """Return the gradients of one direction's operands, by name."""
        cell, x = self.cell, given["X"]
        steps, rows, features = self.shapes["X"]
        kept = [given[name] for name in self.kept_names[d * cell.n_kept : (d + 1) * cell.n_kept]]
        w, r = (self._of(op, given[name], d) for name in "WR")
        none = op.constant(np.zeros((rows, r.shape[-1])), np.float32)
        ends = [self._of(op, given.get(name), d) for name in ("dY_h", "dY_c")[: cell.n_states]]
        ends = [none if end is None else end for end in ends]
        factors, dy = cell.factors(op, kept), self._of(op, given.get("dY"), d, 1)
        inputs = [*factors, *([] if dy is None else [dy])]
        inside = Inside(op)
        carried = [inside.input(v.dtype, v.shape, f"D{i}") for i, v in enumerate(ends)]
        slices = [inside.input(v.dtype, without(v.shape, 0), f"X{i}") for i, v in enumerate(inputs)]
        seeded = carried if dy is None else [op.Add(carried[0], slices[-1]), *carried[1:]]
        before, das = cell.back(op, seeded, slices[: len(factors)], inside.see(r))
        made = _scan(op, inside, ends, inputs, before, das, is_reverse=not self.directions[d])
        d_states, das = (
            made[: len(before)],
            [op.Reshape(v, [steps * rows, size_of(v, -1)]) for v in made[len(before) :]],
        )
        ones = op.constant(np.ones((1, steps * rows)), np.float32)
        sums = [op.Reshape(op.MatMul(ones, da), [-1]) for da in das]
        flat_x, flat_h = (op.Reshape(v, [steps * rows, -1]) for v in (x, kept[1]))
        return {
            "X": op.Reshape(op.MatMul(das[0], w), [steps, rows, features]),
            "W": op.Gemm(das[0], flat_x, transA=1),
            "R": op.Gemm(das[-1], flat_h, transA=1),
            "B": op.Concat(sums[0], sums[-1], axis=0),
            **dict(zip(STATES, d_states, strict=False)),
        }


def _scan(
    op: Builder, inside: Inside, states: Values, inputs: Values, after: Values, kept: Values, *, is_reverse: bool
) -> Values:
    """Return the last states and the stacks of what every step put out, in the order of time."""
    body, outside = inside.body("step", [*after, *kept])
    way = int(is_reverse)
    made = op.Scan(
        *states,
        *inputs,
        *outside,
        body=body,
        num_scan_inputs=len(inputs),
        scan_input_directions=[way] * len(inputs),
        scan_output_directions=[way] * len(kept),
    )
    return list(made)


def _joined(op: Builder, parts: Values, axis: int) -> Value:
    if len(parts) == 1:
        return parts[0]
    value: Value = op.Concat(*parts, axis=axis)
    return value
