"""Gradients of RNN, GRU and LSTM: backpropagation through time.

The states of all steps are outputs of the operator, so what goes into the gates of all steps, x W' + b and h R' + b, is
computed again by two large products. Only the elementwise step is walked through one after the other (`recurrence`),
and the gradients of W and R are two large products again. Sources: Werbos 1990, doi:10.1109/5.58337; Hochreiter &
Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Cho et al. 2014, arXiv:1406.1078; operators:
https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.recurrence import UNROLLED, Cell, Direction
from renom_onnx.gradients.recurrent_cell import CELLS
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import Value, unknown_dim

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


def _plain(op_type: str, activations: Any, clip: float | None, *, others: bool) -> Any:
    """Return the cell of an operator that has its default activations and no clip, and nothing else of its own."""
    cell = CELLS[op_type]
    names = [name.lower() for name in activations or cell.activations]
    usual = [name.lower() for name in cell.activations] * (len(names) // len(cell.activations))
    return cell if names == usual and not clip and not others else None


@gradient("RNN", all_outputs=True)
def rnn(
    op, dys, ys, x, w, r, b=None, lengths=None, h=None, *,
    activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout,
):  # fmt: skip
    """a = x W' + h R' + b, h = f(a): da = dh f'(a), dx = da W, dW = da' x, dR = da' h, dh = da R of the step before."""

    def step(op, f, xw, rh, h, c, shared):
        return f[0](op, _clipped(op, op.Add(xw, rh), clip)), None

    cell = Cell(("Tanh",), 1, step, _plain("RNN", activations, clip, others=False))
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    dx, dw, dr, db, dh, _, _ = _through_time(
        op, cell, functions, dys, ys, (x, w, r, b, lengths, h), direction, layout, hidden_size
    )
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

    plain = _plain("GRU", activations, clip, others=not linear_before_reset)
    cell = Cell(("Sigmoid", "Tanh"), 3 if linear_before_reset else 2, step, plain)
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    dx, dw, dr, db, dh, _, _ = _through_time(
        op, cell, functions, dys, ys, (x, w, r, b, lengths, h), direction, layout, hidden_size
    )
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

    plain = _plain("LSTM", activations, clip, others=bool(input_forget) or p is not None)
    cell = Cell(("Sigmoid", "Tanh", "Tanh"), 4, step, plain)
    functions = _activations(activations, activation_alpha, activation_beta, cell, _count(direction))
    operands = (x, w, r, b, lengths, h, c, p)
    dx, dw, dr, db, dh, dc, dp = _through_time(op, cell, functions, dys, ys, operands, direction, layout, hidden_size)
    return dx, dw, dr, db, None, dh, dc, dp


def _clipped(op, x, clip):
    return op.Clip(x, op.constant(-clip, x.dtype), op.constant(clip, x.dtype)) if clip else x


def _count(direction):
    return 2 if direction == "bidirectional" else 1


def _through_time(op, cell, functions, dys, ys, operands, direction, layout, hidden_size):
    """Return the gradients of x, w, r, b, h, c and p."""
    x, w, r, b, lengths, h0, c0, p = (*operands, None, None, None)[:8]
    dy, dh, dc = (*dys, None, None, None)[:3]
    has_cell = len(cell.names) == 3
    size = hidden_size or next((v.shape[-1] for v in (r, *ys) if v is not None and v.shape is not None), None)
    if not isinstance(size, int):
        name = {1: "RNN", 2: "GRU", 3: "LSTM"}[len(cell.names)]
        raise GradientError(
            f"{name}: the gradient must know the size of the states, got r is {r}. Give the node its hidden_size."
        )
    _give_shapes(ys, dys, (x, w, r, b, lengths, h0, c0, p), size, _count(direction), layout)
    y = ys[0]
    if layout:  # batch first: (N, T, ...) to (T, N, ...), y (N, T, D, H) to (T, D, N, H), states (N, D, H) to (D, N, H)
        x, h0, c0, dh, dc = (v and op.Transpose(v, perm=[1, 0, 2]) for v in (x, h0, c0, dh, dc))
        y, dy = (v and op.Transpose(v, perm=[1, 2, 0, 3]) for v in (y, dy))
    n_steps = x.shape[0] if isinstance(x.shape[0], int) and x.shape[0] <= UNROLLED else None
    results = []
    for d in range(_count(direction)):
        both = direction == "bidirectional"
        one = Direction(op, cell, functions[d], lengths, n_steps, is_reverse=direction == "reverse" or d == 1)
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


def _give_shapes(ys, dys, operands, size, n_directions, layout):
    """Let values of unknown shape have what the operator asks for: the rank, and the sizes that it fixes."""
    steps, rows, features, gates = (unknown_dim() for _ in range(4))
    state = (rows, n_directions, size) if layout else (n_directions, rows, size)
    x, y = ((rows, steps), (rows, steps, n_directions)) if layout else ((steps, rows), (steps, n_directions, rows))
    weights = [(n_directions, gates, features), (n_directions, gates, size), (n_directions, unknown_dim())]
    shapes = [(*x, features), *weights, (rows,), state, state, (n_directions, unknown_dim())]
    for values, wanted in ((operands, shapes), (ys, [(*y, size), state, state]), (dys, [(*y, size), state, state])):
        for value, shape in zip(values, wanted, strict=False):
            if value is not None and value.shape is None:
                value.shape = shape


def _one(op, value, axis, d, both):
    """Return the part of one direction, without the axis of directions."""
    return op.Gather(value, op.constant(d, np.int64), axis=axis) if both else op.Squeeze(value, [axis])


def _row(op, value, d, both):
    """Return the part of one direction of (D, N, H), as (1, N, H)."""
    return op.Slice(value, [d], [d + 1], [0]) if value is not None and both else value
