"""Recurrent operators written out over time, as training computes them, with gradient rules for every part.

Each body is called as ``body(op, x, w, r, b, p, …)`` with X (T, N, F), W (D, gates * H, F), R (D, gates * H, H), bias B
(D, 2 * gates * H) and peepholes P (D, 3 * H); it returns Y (T, D, N, H) and the last Y_h (D, N, H), as the operator
does. T must be known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value

Cell = Callable[[Value, Value], tuple[Value, Value]]
"""(input part of a step, the state: h, or c and h) -> (h, next state)."""


def rnn_body(op: Builder, x: Value, w: Value, r: Value, b: Value, *, hidden_size: int) -> tuple[Value, Value]:
    """H = tanh(X W' + H R' + Wb + Rb)."""

    def step(part: Value, h: Value, r: Value, rb: Value) -> Value:
        return op.Tanh(op.Add(part, op.MatMul(h, r)))  # type: ignore[no-any-return]

    return _unrolled(op, x, w, r, b, hidden_size, 1, step, is_added=True)


def gru_body(op: Builder, x: Value, w: Value, r: Value, b: Value, *, hidden_size: int) -> tuple[Value, Value]:
    """H = (1 - z) n + z H, with gates z, s and n = tanh(X Wn' + Wbn + s (H Rn' + Rbn))."""

    def step(part: Value, h: Value, r: Value, rb: Value) -> Value:
        xz, xn = op.Split(part, [2 * hidden_size, hidden_size], axis=1, outputs=2)
        hz, hn = op.Split(op.Add(op.MatMul(h, r), rb), [2 * hidden_size, hidden_size], axis=1, outputs=2)
        z, s = op.Split(op.Sigmoid(op.Add(xz, hz)), [hidden_size] * 2, axis=1, outputs=2)
        n = op.Tanh(op.Add(xn, op.Mul(s, hn)))
        return op.Add(n, op.Mul(z, op.Sub(h, n)))  # type: ignore[no-any-return]

    return _unrolled(op, x, w, r, b, hidden_size, 3, step, is_added=False)


def lstm_body(op: Builder, x: Value, w: Value, r: Value, b: Value, *, hidden_size: int) -> tuple[Value, Value]:
    """C = f C + i tanh(X Wc' + H Rc' + bc), H = o tanh(C), with gates i, o, f."""

    def step(part: Value, h: Value, r: Value, rb: Value, c: Value) -> tuple[Value, Value]:
        gates, new = op.Split(op.Add(part, op.MatMul(h, r)), [3 * hidden_size, hidden_size], axis=1, outputs=2)
        i, o, f = op.Split(op.Sigmoid(gates), [hidden_size] * 3, axis=1, outputs=3)
        c = op.Add(op.Mul(f, c), op.Mul(i, op.Tanh(new)))
        return op.Mul(o, op.Tanh(c)), c

    return _unrolled(op, x, w, r, b, hidden_size, 4, step, is_added=True, has_cell=True)


def peephole_body(
    op: Builder, x: Value, w: Value, r: Value, b: Value, p: Value, *, hidden_size: int
) -> tuple[Value, Value]:
    """As LSTM, where gates i and f also see P C, and o sees P times the new C."""

    def step(part: Value, h: Value, r: Value, rb: Value, c: Value, p: Value) -> tuple[Value, Value]:
        g = op.Add(part, op.MatMul(h, r))
        gi, go, gf, new = op.Split(g, [hidden_size] * 4, axis=1, outputs=4)
        pi, po, pf = op.Split(p, [hidden_size] * 3, axis=0, outputs=3)
        i, f = op.Sigmoid(op.Add(gi, op.Mul(pi, c))), op.Sigmoid(op.Add(gf, op.Mul(pf, c)))
        c = op.Add(op.Mul(f, c), op.Mul(i, op.Tanh(new)))
        return op.Mul(op.Sigmoid(op.Add(go, op.Mul(po, c))), op.Tanh(c)), c

    return _unrolled(op, x, w, r, b, hidden_size, 4, step, is_added=True, has_cell=True, p=p)


def _unrolled(
    op: Builder,
    x: Value,
    w: Value,
    r: Value,
    b: Value,
    size: int,
    n_gates: int,
    step: Callable[..., object],
    *,
    is_added: bool,
    has_cell: bool = False,
    p: Value | None = None,
) -> tuple[Value, Value]:
    """Return Y and Y_h; ``is_added``: the recurrent bias is added to the input's, before the loop."""
    assert x.shape is not None and w.shape is not None
    length, n_directions = x.shape[0], w.shape[0]
    assert isinstance(length, int) and isinstance(n_directions, int)
    state_shape = op.vector(op.size_of(x, [1]), [size])
    zero = op.ConstantOfShape(state_shape, value=np.zeros(1, x.dtype))
    zero.shape = (x.shape[1], size)
    peepholes = _along(op, p, n_directions) if p is not None else [None] * n_directions
    ys, lasts = [], []
    parts_of = zip(*(_along(op, v, n_directions) for v in (w, r, b)), peepholes, strict=True)
    for direction, (wd, rd, bd, pd) in enumerate(parts_of):
        wb, rb = op.Split(bd, [n_gates * size] * 2, axis=0, outputs=2)
        inputs = op.Add(op.MatMul(x, op.Transpose(wd, perm=[1, 0])), op.Add(wb, rb) if is_added else wb)
        parts = _along(op, inputs, length)
        rt = op.Transpose(rd, perm=[1, 0])
        h, c = zero, zero
        outputs: list[Value | None] = [None] * length
        for t in range(length) if direction == 0 else reversed(range(length)):
            if has_cell:
                h, c = step(parts[t], h, rt, rb, c, *([] if pd is None else [pd]))  # type: ignore[misc]
            else:
                h = step(parts[t], h, rt, rb)
            outputs[t] = op.Unsqueeze(h, [0, 1])
        ys.append(op.Concat(*outputs, axis=0))
        lasts.append(op.Unsqueeze(h, [0]))
    if n_directions == 1:
        return ys[0], lasts[0]
    return op.Concat(*ys, axis=1), op.Concat(*lasts, axis=0)


def _directions(op: Builder, v: Value, n: int) -> list[Value]:
    return _along(op, v, n)


def _along(op: Builder, v: Value, n: int) -> list[Value]:
    """Return the n slices of v along its first axis."""
    slices = [v] if n == 1 else op.Split(v, [1] * n, axis=0, outputs=n)
    return [op.Squeeze(part, [0]) for part in slices]
