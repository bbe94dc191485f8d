"""Backpropagation through time: the steps of one direction of a recurrent operator, back from the last to the first.

A few steps are written out; many, or a number that only the run will know, go into a Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.gradients.recurrent_cell import Cell as PlainCell
from renom_onnx.gradients.steps import BACKWARDS, same_value
from renom_onnx.graph.body import without
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.function import without_calls
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import Value

UNROLLED = 64
"""Steps that are written out, which leaves nothing to control flow and all to the runtime's optimizer. Each adds about
forty nodes to the file, so that thousands of them would take longer to open than to run; a Scan has as many for all."""


@dataclass(frozen=True)
class Cell:
    """One step of one direction.

    Attributes:
        names: of the activations, as many for each direction.
        n_gates: rows of R, in units of H, whose product with h the step is given.
        step: called as ``step(op, activations, xw, rh, h, c, shared)``; returns h and c of the step.
        plain: the same cell, where all is as the operator has it by default, and there are no peepholes.
    """

    names: tuple[str, ...]
    n_gates: int
    step: Callable[..., tuple[Value, Value | None]]
    plain: PlainCell | None = None


class Direction:
    """The walk of one direction, forwards through its sequence and back again."""

    def __init__(
        self,
        op: Builder,
        cell: Cell,
        functions: Sequence[Any],
        lengths: Value | None,
        n_steps: int | None,
        *,
        is_reverse: bool,
    ) -> None:
        self._op = op
        self._cell = cell
        self._functions = functions
        self._n_steps = n_steps
        self._is_reverse = is_reverse
        self._lengths = None if lengths is None else op.Cast(lengths, to=np.int64)

    def walk(self, x, y, dy, w, r, b, p, h0, c0, dh, dc, *, has_cell):
        """Return the gradients of x, w, r, b, p, h0 and c0."""
        op, cell = self._op, self._cell
        x, y, dy = (v and self._turned(v) for v in (x, y, dy))
        size = r.shape[-1]
        none = (
            op.ReduceSum(op.Mul(op.Slice(y, [0], [1], [0]), op.zero(y)), [0], keepdims=1)
            if h0 is None or (has_cell and c0 is None)
            else None
        )
        h0, c0 = none if h0 is None else h0, none if c0 is None and has_cell else c0
        before = op.Concat(h0, op.Slice(y, [0], [-1], [0]), axis=0) if self._n_steps != 1 else h0
        wb, rb = (None, None) if b is None else op.Split(b, axis=0, outputs=2, num_outputs=2)
        rows, k = r, cell.n_gates * size
        shared = [] if p is None else list(op.Split(p, axis=0, outputs=3, num_outputs=3))
        if cell.n_gates == 2:  # the third gate multiplies what the second lets through
            rows = op.Slice(r, [0], [k], [0])
            shared = [op.Transpose(op.Slice(r, [k], [k + size], [0]), perm=[1, 0])]
            if b is not None:
                shared.append(op.Slice(rb, [k], [k + size], [0]))
                rb = op.Slice(rb, [0], [k], [0])
        xw, rh = (_affine(op, v, m, bias) for v, m, bias in ((x, w, wb), (before, rows, rb)))
        if cell.plain is not None:
            ends = [op.zeros_like(h0) if d is None else d for d in (dh, dc)[: cell.plain.n_states]]
            da, de, dh0, dc0 = self._by_factors(cell.plain, xw, rh, [y, before], c0, rows, dy, ends)
            d_shared: list[Any] = []
        else:
            back = self._unrolled if self._n_steps is not None else self._scanned
            da, de, d_shared, dh0, dc0 = back([xw, rh, before], c0, shared, rows, dy, dh, dc)
        dw, dr = (op.Gemm(_flat(op, d), _flat(op, v), transA=1) for d, v in ((da, x), (de, before)))
        sums = {d: op.ReduceSum(d, [0, 1], keepdims=0) for d in dict.fromkeys((da, de))}
        db = [sums[da], sums[de]]
        dp = None if p is None else op.Concat(*d_shared, axis=0)
        if cell.n_gates == 2:
            dr = op.Concat(dr, op.Transpose(d_shared[0], perm=[1, 0]), axis=0)
            db += d_shared[1:]
        dx = op.shaped(self._turned(op.MatMul(da, w)), x)
        return dx, dw, dr, None if b is None else op.Concat(*db, axis=0), dp, dh0, dc0

    def _by_factors(self, cell, xw, rh, states, c0, rows, dy, ends):
        """Return the gradients of what goes into the gates, by x and by h, and of the first states."""
        op = self._op
        kept = cell.again(op, xw, rh, states, lambda f, ig: self._cells_before(f, ig, c0))
        slices = [*cell.factors(op, kept), *([] if dy is None else [dy])]
        n = len(slices) - (dy is not None)
        lost = None
        if self._lengths is not None:  # beyond the end nothing goes back to a gate, and states stay as they are
            inside = self._all_inside(states[1])
            slices, lost = [op.Mul(inside, v) for v in slices], op.Sub(op.constant(1, inside.dtype), inside)
            slices.append(lost)

        def back(carried, slices, rows):
            carried = carried if dy is None else [op.Add(carried[0], slices[n]), *carried[1:]]
            before, das = cell.back(op, carried, slices[:n], rows)
            if lost is not None:
                before = [op.Add(v, op.Mul(slices[-1], d)) for v, d in zip(before, carried, strict=True)]
            return before, das

        if self._n_steps is not None:
            steps: list[Any] = []
            for parts in reversed(list(zip(*map(self._steps, slices), strict=True))):
                ends, das = back(ends, parts, rows)
                steps.insert(0, das)
            das = [op.Concat(*parts, axis=0) for parts in zip(*steps, strict=True)]
        else:
            inside = Inside(op)
            ends = [op.Squeeze(v, [0]) for v in ends]
            carried = [inside.input(v.dtype, v.shape, f"D{i + 1}") for i, v in enumerate(ends)]
            parts = [inside.input(v.dtype, without(v.shape, 0), f"X{i + 1}") for i, v in enumerate(slices)]
            before, das = back(carried, parts, inside.see(rows))
            body, outside = inside.body("step_back", [*before, *das])
            made = _scan_back(op, body, ends, slices, outside, len(das))
            ends, das = [op.Unsqueeze(v, [0]) for v in made[: len(ends)]], made[len(ends) :]
        return das[0], das[-1], ends[0], ends[1] if len(ends) > 1 else None

    def _cells_before(self, f, ig, c0):
        """Return c before each step of c' = f c + i g; beyond the end it is of no use."""
        op = self._op
        if self._n_steps is not None:
            cells = [c0]
            for part in list(zip(*map(self._steps, (f, ig)), strict=True))[:-1]:
                cells.append(op.Add(op.Mul(part[0], cells[-1]), part[1]))
            return op.Concat(*cells, axis=0) if len(cells) > 1 else c0
        inside, c0 = Inside(op), op.Squeeze(c0, [0])
        c = inside.input(c0.dtype, c0.shape, "C")
        parts = [inside.input(v.dtype, without(v.shape, 0), f"X{i + 1}") for i, v in enumerate((f, ig))]
        body, outside = inside.body("cells", [op.Add(op.Mul(parts[0], c), parts[1]), c])
        return op.Scan(c0, f, ig, *outside, body=body, num_scan_inputs=2)[1]

    def _unrolled(self, sequences, c, shared, rows, dy, dh, dc):
        """Return the gradients of what goes into the gates, twice, of the shared operands, and of the first states."""
        op, steps = self._op, []
        dys = dy and self._steps(dy)
        for t, (xw, rh, h) in enumerate(zip(*map(self._steps, sequences), strict=True)):
            kept = self._is_inside(t, h)
            new = self._cell.step(op, self._functions, xw, rh, h, c, shared)
            steps.append(((xw, rh, h, c), new, kept))
            c = self._next_cell(c, new[1], kept)
        d_xw: list[Any] = []
        d_rh: list[Any] = []
        d_shared: list[Any] = []
        for t in reversed(range(len(steps))):
            ga, ge, gs, dh, dc = self._one_back(*steps[t], shared, rows, dys and dys[t], dh, dc)
            d_xw.insert(0, ga)
            d_rh.insert(0, ge)
            d_shared.append(gs)
        total = [_summed(op, g, s) for g, s in zip(zip(*d_shared, strict=True), shared, strict=True)]
        flat = without_calls(op, [*d_xw, *d_rh], ())
        parts = [flat[: len(d_xw)], flat[len(d_xw) :]]
        if all(same_value(a) is same_value(b) for a, b in zip(*parts, strict=True)):
            parts.pop()
        joined = [op.Concat(*part, axis=0) for part in parts]
        return joined[0], joined[-1], total, dh, dc

    def _scanned(self, sequences, c0, shared, rows, dy, dh, dc):
        """Return the same by a Scan from the last step to the first; where there is a cell, another one keeps it."""
        op, like = self._op, self._op.Slice(sequences[2], [0], [1], [0])
        steps = [*sequences]
        if self._lengths is not None:
            steps.append(self._all_inside(sequences[2]))
        if c0 is not None:
            steps.append(self._cells(steps, op.Squeeze(c0, [0]), shared))
        if dy is not None:
            steps.append(dy)
        last = [(dh, like), (dc, c0)] if c0 is not None else [(dh, like)]
        states = [op.Squeeze(op.zeros_like(h) if d is None else d, [0]) for d, h in last]
        states += [op.zeros_like(s) for s in shared]

        inside = Inside(op)
        formals = iter([inside.input(v.dtype, v.shape, f"D{i + 1}") for i, v in enumerate(states)])
        dh, dc = next(formals), next(formals) if c0 is not None else None
        sums = list(formals)
        formals = iter([inside.input(v.dtype, without(v.shape, 0), f"X{i + 1}") for i, v in enumerate(steps)])
        xw, rh, h = next(formals), next(formals), next(formals)
        kept = None if self._lengths is None else next(formals)
        c = None if c0 is None else next(formals)
        seen = [inside.see(s) for s in shared]
        new = self._cell.step(op, self._functions, xw, rh, h, c, seen)
        operands = (xw, rh, h, c)
        ga, ge, gs, *before = self._one_back(operands, new, kept, seen, inside.see(rows), next(formals, None), dh, dc)
        before = [v for v in before if v is not None]
        total = [op.Add(total, _summed(op, [g], s)) for total, g, s in zip(sums, gs, seen, strict=True)]
        ga, ge, *carried = without_calls(op, [ga, ge, *before, *total], ())
        written = [ga] if same_value(ga) is same_value(ge) else [ga, ge]
        body, outside = inside.body("step_back", [*carried, *written])
        made = _scan_back(op, body, states, steps, outside, len(written))
        n, k = len(before), len(carried)
        dh, dc = (*(op.Unsqueeze(v, [0]) for v in made[:n]), None)[:2]
        return made[k], made[-1], list(made[n:k]), dh, dc

    def _all_inside(self, like):
        """Return (T, N, 1), 1 where a sequence has a step."""
        op = self._op
        zero, one = op.constant(0, np.int64), op.constant(1, np.int64)
        number = op.Range(zero, op.Squeeze(op.size_of(like, [0]), [0]), one)
        inside = op.Greater(op.Unsqueeze(self._lengths, [0, 2]), op.Unsqueeze(number, [1, 2]))
        return op.Cast(inside, to=like.dtype)

    def _cells(self, steps, c0, shared):
        """Return the cell before each step."""
        op = self._op
        inside = Inside(op)
        c = inside.input(c0.dtype, c0.shape, "C")
        xw, rh, h, *kept = [inside.input(v.dtype, without(v.shape, 0), f"X{i + 1}") for i, v in enumerate(steps)]
        _, new = self._cell.step(op, self._functions, xw, rh, h, c, [inside.see(s) for s in shared])
        body, outside = inside.body("cells", [self._next_cell(c, new, kept[0] if kept else None), c])
        return op.Scan(c0, *steps, *outside, body=body, num_scan_inputs=len(steps))[1]

    def _next_cell(self, c, new, kept):
        """Return the cell after a step; beyond the end, it stays as it is."""
        op = self._op
        return new if kept is None or c is None else op.Add(c, op.Mul(kept, op.Sub(new, c)))

    def _one_back(self, operands, new, kept, shared, rows, dy, dh, dc):
        """Return the gradients of what goes into the gates, twice, of the shared operands, and of the states before."""
        op, h = self._op, operands[2]
        d_new = dh if dy is None else dy if dh is None else op.Add(dy, dh)
        d_new, d_cell = d_new if d_new is not None else op.zeros_like(h), dc
        if kept is not None:
            d_new, d_cell = op.Mul(kept, d_new), dc and op.Mul(kept, dc)
        ends = new if new[1] is not None else new[:1]
        ga, ge, gh, gc, *gs = gradients_through(op, ends, [d_new, d_cell], [*operands, *shared])
        back = op.MatMul(ge, rows)
        back = back if gh is None else op.Add(back, gh)
        if kept is not None:  # beyond the end, states stay as they are
            lost = op.Sub(op.constant(1, h.dtype), kept)
            back = back if dh is None else op.Add(back, op.Mul(lost, dh))
            gc = gc if dc is None else op.Add(gc, op.Mul(lost, dc))
        return ga, ge, gs, back, gc

    def _turned(self, value):
        """Return (T, N, ...) in the order in which this direction reads it; applied twice, it is as it was."""
        if not self._is_reverse:
            return value
        if self._lengths is not None:
            return self._op.ReverseSequence(value, self._lengths, time_axis=0, batch_axis=1)
        return self._op.Slice(value, [-1], [-(2**62)], [0], [-1])

    def _steps(self, value):
        """Return the T parts (1, N, ...)."""
        if self._n_steps == 1:
            return [value]
        return self._op.Split(value, axis=0, outputs=self._n_steps, num_outputs=self._n_steps)

    def _is_inside(self, t, like):
        """Return (N, 1), 1 where the sequence has a step t; None where all have it."""
        if self._lengths is None:
            return None
        return self._op.Unsqueeze(self._op.Cast(self._op.Greater(self._lengths, t), to=like.dtype), [1])


def _affine(op, value, matrix, bias):
    """Return value times the transposed matrix, plus the bias."""
    product = op.MatMul(value, op.Transpose(matrix, perm=[1, 0]))
    return product if bias is None else op.Add(product, bias)


def _flat(op, value):
    """Return the rows of all steps."""
    return op.Reshape(value, op.vector([-1], op.size_of(value, [-1])))


def _summed(op, parts, like):
    """Return the sum of the parts, as they are broadcast over the rows."""
    total = op.Sum(*parts) if len(parts) > 1 else parts[0]
    return total if total.rank == like.rank else op.ReduceSum(total, list(range(total.rank - like.rank)), keepdims=0)


def _scan_back(op, body, carried, steps, outside, n_written):
    """Return what a body carries to the first step, and what it writes at each, when it runs from the last one back."""
    directions = dict(scan_input_directions=[BACKWARDS] * len(steps), scan_output_directions=[BACKWARDS] * n_written)
    return op.Scan(*carried, *steps, *outside, body=body, num_scan_inputs=len(steps), **directions)
