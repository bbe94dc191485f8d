"""Gradients of RNN, GRU and LSTM: backpropagation through time.

The states of all steps are outputs of the operator, so what goes into the gates of all steps, x W' + b and h R' + b, is
computed again by two large products. Only the elementwise step is walked through one after the other, and the gradients
of W and R are two large products again. Sources: Werbos 1990, doi:10.1109/5.58337; Hochreiter & Schmidhuber 1997,
doi:10.1162/neco.1997.9.8.1735; Cho et al. 2014, arXiv:1406.1078; operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.node import Value

_ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Value]]] = {  # defaults of alpha and beta, function
    "affine": ((1, 0), lambda op, x, alpha, beta: op.Add(op.Mul(x, alpha), beta)),
    "elu": ((1,), lambda op, x, alpha: op.Elu(x, alpha=alpha)),
    "hardsigmoid": ((0.2, 0.5), lambda op, x, alpha, beta: op.HardSigmoid(x, alpha=alpha, beta=beta)),
    "leakyrelu": ((0.01,), lambda op, x, alpha: op.LeakyRelu(x, alpha=alpha)),
    "relu": ((), lambda op, x: op.Relu(x)),
    "scaledtanh": ((1, 1), lambda op, x, alpha, beta: op.Mul(op.Tanh(op.Mul(x, beta)), alpha)),
    "sigmoid": ((), lambda op, x: op.Sigmoid(x)),
    "softplus": ((), lambda op, x: op.Softplus(x)),
    "softsign": ((), lambda op, x: op.Softsign(x)),
    "tanh": ((), lambda op, x: op.Tanh(x)),
    "thresholdedrelu": ((1,), lambda op, x, alpha: op.ThresholdedRelu(x, alpha=alpha)),
}


@dataclass(frozen=True)
class Cell:
    """One step of one direction.

    Attributes:
        names: of the activations, as many for each direction.
        n_gates: rows of R, in units of H, whose product with h the step is given.
        step: called as ``step(op, activations, xw, rh, h, c, shared)``; returns h and c of the step.
    """

    names: tuple[str, ...]
    n_gates: int
    step: Callable[..., tuple[Value, Value | None]]


def _activations(given: Any, alphas: Any, betas: Any, cell: Cell, n: int) -> list[list[Callable[..., Any]]]:
    """Return the functions of each direction; those that have alpha or beta take them in order."""
    names = [name.lower() for name in given or cell.names * n]
    alpha, beta = iter(alphas or ()), iter(betas or ())
    functions = []
    for name in names:
        defaults, function = _ACTIVATIONS[name]
        values = [next(source, default) for source, default in zip((alpha, beta), defaults, strict=False)]
        functions.append(lambda op, x, f=function, v=values: f(op, x, *v))
    k = len(cell.names)
    return [functions[i : i + k] for i in range(0, n * k, k)]


@gradient("RNN", all_outputs=True)
def rnn(
    op, dys, ys, x, w, r, b=None, lengths=None, h=None, *,
    activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout,
):  # fmt: skip
    """a = x W' + h R' + b, h = f(a): da = dh f'(a), dx = da W, dW = da' x, dR = da' h, dh = da R of the step before."""

    def step(op, f, xw, rh, h, c, shared):
        return f[0](op, _clipped(op, op.Add(xw, rh), clip)), None

    cell = Cell(("Tanh",), 1, step)
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    dx, dw, dr, db, dh, _, _ = _through_time(op, cell, functions, dys, ys, (x, w, r, b, lengths, h), direction, layout)
    return dx, dw, dr, db, None, dh


@gradient("GRU", all_outputs=True)
def gru(
    op, dys, ys, x, w, r, b=None, lengths=None, h=None, *,
    activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout, linear_before_reset,
):  # fmt: skip
    """h' = (1 - z) n + z h with gates z, r = f(x W' + h R' + b) and n = g(x W' + r (h R' + b)), or (r h) R' + b.

    Through z, r and n to what goes into them, a; then dx = da W, dW = da' x, dR = da' h, db = sum of da.
    """

    def step(op, f, xw, rh, h, c, shared):
        xz, xr, xn = op.Split(xw, axis=-1, outputs=3, num_outputs=3)
        if linear_before_reset:
            rz, rr, rn = op.Split(rh, axis=-1, outputs=3, num_outputs=3)
        else:
            rz, rr = op.Split(rh, axis=-1, outputs=2, num_outputs=2)
        z, reset = (f[0](op, _clipped(op, op.Add(a, b), clip)) for a, b in ((xz, rz), (xr, rr)))
        if linear_before_reset:
            n = op.Mul(reset, rn)
        else:
            n = op.MatMul(op.Mul(reset, h), shared[0])
            n = op.Add(n, shared[1]) if shared[1:] else n
        n = f[1](op, _clipped(op, op.Add(xn, n), clip))
        return op.Add(n, op.Mul(z, op.Sub(h, n))), None

    cell = Cell(("Sigmoid", "Tanh"), 3 if linear_before_reset else 2, step)
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    dx, dw, dr, db, dh, _, _ = _through_time(op, cell, functions, dys, ys, (x, w, r, b, lengths, h), direction, layout)
    return dx, dw, dr, db, None, dh


@gradient("LSTM", all_outputs=True)
def lstm(
    op, dys, ys, x, w, r, b=None, lengths=None, h=None, c=None, p=None, *,
    activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout, input_forget,
):  # fmt: skip
    """c' = f c + i g, h' = o tanh(c'), gates i, o, f = sigmoid(x W' + h R' + p c + b) and g = tanh(x W' + h R' + b).

    Through the gates to what goes into them, a; then dx = da W, dW = da' x, dR = da' h, db = sum of da.
    """

    def step(op, f, xw, rh, h, c, shared):
        i, o, forget, g = op.Split(op.Add(xw, rh), axis=-1, outputs=4, num_outputs=4)
        pi, po, pf = shared or (None, None, None)

        def gate(a, peephole, c):
            return f[0](op, _clipped(op, a if peephole is None else op.Add(a, op.Mul(peephole, c)), clip))

        i = gate(i, pi, c)
        forget = op.Sub(op.constant(1, i.dtype), i) if input_forget else gate(forget, pf, c)
        c = op.Add(op.Mul(forget, c), op.Mul(i, f[1](op, _clipped(op, g, clip))))
        return op.Mul(gate(o, po, c), f[2](op, c)), c

    cell = Cell(("Sigmoid", "Tanh", "Tanh"), 4, step)
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    operands = (x, w, r, b, lengths, h, c, p)
    dx, dw, dr, db, dh, dc, dp = _through_time(op, cell, functions, dys, ys, operands, direction, layout, has_cell=True)
    return dx, dw, dr, db, None, dh, dc, dp


def _clipped(op, x, clip):
    return op.Clip(x, op.constant(-clip, x.dtype), op.constant(clip, x.dtype)) if clip else x


def _count(direction):
    return 2 if direction == "bidirectional" else 1


def _through_time(op, cell, functions, dys, ys, operands, direction, layout, *, has_cell=False):
    """Return the gradients of x, w, r, b, h, c and p."""
    x, w, r, b, lengths, h0, c0, p = (*operands, None, None, None)[:8]
    dy, dh, dc = (*dys, None, None, None)[:3]
    y = ys[0]
    if layout:  # batch first: (N, T, ...) to (T, N, ...), y (N, T, D, H) to (T, D, N, H), states (N, D, H) to (D, N, H)
        x, h0, c0, dh, dc = (v and op.Transpose(v, perm=[1, 0, 2]) for v in (x, h0, c0, dh, dc))
        y, dy = (v and op.Transpose(v, perm=[1, 2, 0, 3]) for v in (y, dy))
    if x.shape is None or not isinstance(x.shape[0], int):
        name = {1: "RNN", 2: "GRU", 3: "LSTM"}[len(cell.names)]
        raise GradientError(
            f"{name}: the gradient must know the number of steps T, got x is {x}. Give x a fixed T in the model."
        )
    results = []
    for d in range(_count(direction)):
        both = direction == "bidirectional"
        one = _Direction(op, cell, functions[d], lengths, x.shape[0], is_reverse=direction == "reverse" or d == 1)
        state = [_row(op, v, d, both) for v in (h0, c0, dh, dc)]
        weights = [v and _one(op, v, 0, d, both) for v in (w, r, b, p)]
        sequences = [v and _one(op, v, 1, d, both) for v in (y, dy)]
        results.append(one.walk(x, *sequences, *weights, *state, has_cell=has_cell))
    dxs, *others = zip(*results, strict=True)
    dx = dxs[0] if len(dxs) == 1 else op.Add(*dxs)
    dw, dr, db, dp = ([v and op.Unsqueeze(v, [0]) for v in vs] for vs in others[:4])
    joined = [
        vs[0] if len(vs) == 1 or vs[0] is None else op.Concat(*vs, axis=0) for vs in (dw, dr, db, dp, *others[4:])
    ]
    dw, dr, db, dp, dh0, dc0 = joined
    if layout:
        dx, dh0, dc0 = (v and op.Transpose(v, perm=[1, 0, 2]) for v in (dx, dh0, dc0))
    return dx, dw, dr, db, dh0, dc0, dp


def _one(op, value, axis, d, both):
    """Return the part of one direction, without the axis of directions."""
    return op.Gather(value, op.constant(d, np.int64), axis=axis) if both else op.Squeeze(value, [axis])


def _row(op, value, d, both):
    """Return the part of one direction of (D, N, H), as (1, N, H)."""
    return op.Slice(value, [d], [d + 1], [0]) if value is not None and both else value


class _Direction:
    """The walk of one direction, forwards through its sequence and back again."""

    def __init__(
        self,
        op: Builder,
        cell: Cell,
        functions: Sequence[Any],
        lengths: Value | None,
        n_steps: int,
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
        before = op.Concat(h0, op.Slice(y, [0], [-1], [0]), axis=0) if self._n_steps > 1 else h0
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
        parts = [self._steps(v) for v in (xw, rh, before)]
        d_xw, d_rh, d_shared, dh0, dc0 = self._back(parts, c0, shared, rows, dy and self._steps(dy), dh, dc)
        da = op.Concat(*d_xw, axis=0)
        de = da if all(a is c for a, c in zip(d_xw, d_rh, strict=True)) else op.Concat(*d_rh, axis=0)
        dw, dr = (op.Gemm(_flat(op, d), _flat(op, v), transA=1) for d, v in ((da, x), (de, before)))
        db = [op.ReduceSum(d, [0, 1], keepdims=0) for d in (da, de)]
        dp = None if p is None else op.Concat(*d_shared, axis=0)
        if cell.n_gates == 2:
            dr = op.Concat(dr, op.Transpose(d_shared[0], perm=[1, 0]), axis=0)
            db += d_shared[1:]
        dx = op.shaped(self._turned(op.MatMul(da, w)), x)
        return dx, dw, dr, None if b is None else op.Concat(*db, axis=0), dp, dh0, dc0

    def _back(self, parts, c, shared, rows, dys, dh, dc):
        """Return the gradients of what goes into the gates, of the shared operands, and of the first states."""
        op, steps = self._op, []
        for t, (xw, rh, h) in enumerate(zip(*parts, strict=True)):
            kept = self._is_inside(t, h)
            new_h, new_c = self._cell.step(op, self._functions, xw, rh, h, c, shared)
            steps.append((xw, rh, h, c, new_h, new_c, kept))
            c = new_c if kept is None or c is None else op.Add(c, op.Mul(kept, op.Sub(new_c, c)))
        d_xw: list[Any] = []
        d_rh: list[Any] = []
        d_shared: list[Any] = []
        for t in reversed(range(len(steps))):
            xw, rh, h, c, new_h, new_c, kept = steps[t]
            d_new = dh if dys is None else dys[t] if dh is None else op.Add(dys[t], dh)
            d_new, d_cell = d_new if d_new is not None else op.zeros_like(h), dc
            if kept is not None:
                d_new, d_cell = op.Mul(kept, d_new), dc and op.Mul(kept, dc)
            ends = [new_h] if new_c is None else [new_h, new_c]
            ga, ge, gh, gc, *gs = gradients_through(op, ends, [d_new, d_cell], [xw, rh, h, c, *shared])
            d_xw.insert(0, ga)
            d_rh.insert(0, ge)
            d_shared.append(gs)
            back = op.MatMul(ge, rows)
            back = back if gh is None else op.Add(back, gh)
            if kept is not None:  # beyond the end, states stay as they are
                lost = op.Sub(op.constant(1, h.dtype), kept)
                back = back if dh is None else op.Add(back, op.Mul(lost, dh))
                gc = gc if dc is None else op.Add(gc, op.Mul(lost, dc))
            dh, dc = back, gc
        total = [_summed(op, g, s) for g, s in zip(zip(*d_shared, strict=True), shared, strict=True)]
        return d_xw, d_rh, total, dh, dc

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
