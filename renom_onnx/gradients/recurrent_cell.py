"""One step of a recurrent operator with its default activations: what it keeps, and the way back through it.

What goes into a gate has for its gradient that of the state times a factor. The factors of all steps are made at once,
from the gates of all steps, so that the way back through a step is a few products. The gates are computed again from
the states, which is all that the operators give out, or kept on the way forth, where somebody writes that way too.
Formulas: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Cho et al. 2014, arXiv:1406.1078.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value

Values = list[Value]
Cells = Callable[[Value, Value], Value]


class Cell(ABC):
    """A recurrent operator with its default activations.

    Attributes:
        n_states: h alone, or h and c.
        n_kept: values that `step` keeps.
        activations: the names of those that it has.
    """

    n_states: int
    n_kept: int
    activations: tuple[str, ...]

    @abstractmethod
    def inputs(self, op: Builder, x: Value, w: Value, b: Value | None) -> Values:
        """Return what goes into every step from outside, of all steps: products of x (T, N, F), (T, N, *)."""

    def shared(self, op: Builder, r: Value, b: Value | None) -> Values:
        """Return what all steps read: r transposed, (H, G H)."""
        return [op.Transpose(r, perm=[1, 0])]

    @abstractmethod
    def step(self, op: Builder, states: Values, inputs: Values, shared: Values) -> tuple[Values, Values]:
        """Return the next states, and what is kept: the next h, h before, and then what `factors` reads."""

    @abstractmethod
    def again(
        self, op: Builder, xw: Value, rh: Value, states: Values, cells: Callable[[Value, Value], Value]
    ) -> Values:
        """Return what was kept of all steps, computed from the operator's output.

        Args:
            op: builder.
            xw: x W' + b of all steps.
            rh: h R' + b of all steps.
            states: h after, and h before each step.
            cells: returns c before each step, of f and i g.
        """

    @abstractmethod
    def factors(self, op: Builder, kept: Values) -> Values:
        """Return the factors of all steps that `back` reads, from what was kept of all steps."""

    @abstractmethod
    def back(self, op: Builder, gradients: Values, factors: Values, r: Value) -> tuple[Values, Values]:
        """Return the gradients of the states before, and of what goes into the gates: by x, and by h if another."""


class RnnCell(Cell):
    """h' = tanh(a), a = x W' + h R' + b: da = dh (1 - h'²), dh = da R."""

    n_states, n_kept, activations = 1, 2, ("Tanh",)

    def inputs(self, op: Builder, x: Value, w: Value, b: Value | None) -> Values:
        """Return x W' + b, of both biases."""
        return [_products(op, x, w, _both(op, b))]

    def step(self, op: Builder, states: Values, inputs: Values, shared: Values) -> tuple[Values, Values]:
        """Return h', and keep it and h."""
        h = op.Tanh(op.Gemm(states[0], shared[0], inputs[0]))
        return [h], [h, states[0]]

    def again(
        self, op: Builder, xw: Value, rh: Value, states: Values, cells: Callable[[Value, Value], Value]
    ) -> Values:
        """Return h' and h; h' once more, because kernels of RNN round it more coarsely than 1 - h'² can bear near 1."""
        return [op.Tanh(op.Add(xw, rh)), states[1]]

    def factors(self, op: Builder, kept: Values) -> Values:
        """Return 1 - h'²."""
        return [_tanh_slope(op, kept[0])]

    def back(self, op: Builder, gradients: Values, factors: Values, r: Value) -> tuple[Values, Values]:
        """Return dh and da."""
        da = op.Mul(gradients[0], factors[0])
        return [op.MatMul(da, r)], [da]


class LstmCell(Cell):
    """c' = f c + i g, h' = o tanh(c'): with t = tanh(c') and dc += dh o (1 - t²), every gate has its factor.

    da_i = dc g i (1 - i), da_o = dh t o (1 - o), da_f = dc c f (1 - f), da_g = dc i (1 - g²), dc = dc f, dh = da R.
    The products i g, o t = h' and f c are those of the forward pass.
    """

    n_states, n_kept, activations = 2, 9, ("Sigmoid", "Tanh", "Tanh")

    def inputs(self, op: Builder, x: Value, w: Value, b: Value | None) -> Values:
        """Return x W' + b, of both biases."""
        return [_products(op, x, w, _both(op, b))]

    def step(self, op: Builder, states: Values, inputs: Values, shared: Values) -> tuple[Values, Values]:
        """Return h' and c', and keep the gates."""
        h, c = states
        i, o, f, g = self._gates(op, op.Gemm(h, shared[0], inputs[0]))
        fc, ig = op.Mul(f, c), op.Mul(i, g)
        new = op.Add(fc, ig)
        t = op.Tanh(new)
        new_h = op.Mul(o, t)
        return [new_h, new], [new_h, h, i, o, f, g, t, fc, ig]

    def again(
        self, op: Builder, xw: Value, rh: Value, states: Values, cells: Callable[[Value, Value], Value]
    ) -> Values:
        """Return the gates and their products."""
        i, o, f, g = self._gates(op, op.Add(xw, rh))
        ig = op.Mul(i, g)
        fc = op.Mul(f, cells(f, ig))
        return [*states, i, o, f, g, op.Tanh(op.Add(fc, ig)), fc, ig]

    def _gates(self, op: Builder, a: Value) -> Values:
        i, o, f, g = op.Split(a, axis=-1, outputs=4, num_outputs=4)
        return [op.Sigmoid(i), op.Sigmoid(o), op.Sigmoid(f), op.Tanh(g)]

    def factors(self, op: Builder, kept: Values) -> Values:
        """Return those of dc to i, of dh to o, of dc to f and g, of dh to dc, and f."""
        y, _, i, o, f, g, t, fc, ig = kept
        one = op.constant(1, f.dtype)
        to_i, to_o, to_f = (op.Mul(product, op.Sub(one, gate)) for product, gate in ((ig, i), (y, o), (fc, f)))
        return [to_i, to_o, to_f, op.Mul(i, _tanh_slope(op, g)), op.Mul(o, _tanh_slope(op, t)), f]

    def back(self, op: Builder, gradients: Values, factors: Values, r: Value) -> tuple[Values, Values]:
        """Return dh, dc and da."""
        dh, dc = gradients
        to_i, to_o, to_f, to_g, to_c, f = factors
        dc = op.Add(dc, op.Mul(dh, to_c))
        da = op.Concat(op.Mul(dc, to_i), op.Mul(dh, to_o), op.Mul(dc, to_f), op.Mul(dc, to_g), axis=-1)
        return [op.MatMul(da, r), op.Mul(dc, f)], [da]


class GruCell(Cell):
    """h' = n + z (h - n), n = tanh(a_n + s q), q = h Rn' + Rbn, z, s = sigmoid(a): the reset s after the product.

    da_z = dh (h - n) z (1 - z), da_n = dh (1 - z) (1 - n²), da_s = da_n q s (1 - s), dq = da_n s; dh = dh z + (da_z,
    da_s, dq) R.
    """

    n_states, n_kept, activations = 1, 7, ("Sigmoid", "Tanh")

    def inputs(self, op: Builder, x: Value, w: Value, b: Value | None) -> Values:
        """Return x W' + b of the gates, of both biases, and of n, of its own alone."""
        size = size_of(w, 0) // 3
        cut = op.constant([2 * size, size], np.int64)
        gates, n = op.Split(w, cut, axis=0, outputs=2)
        if b is None:
            return [_products(op, x, gates, None), _products(op, x, n, None)]
        parts = op.Split(b, op.constant([2 * size, size, 2 * size, size], np.int64), axis=0, outputs=4)
        return [_products(op, x, gates, op.Add(parts[0], parts[2])), _products(op, x, n, parts[1])]

    def shared(self, op: Builder, r: Value, b: Value | None) -> Values:
        """Return r transposed, with the bias that n has of h."""
        size = size_of(r, -1)
        if b is None:
            return super().shared(op, r, b)
        bias = op.Slice(b, [5 * size], [6 * size], [0])
        return [*super().shared(op, r, b), op.Concat(op.constant(np.zeros(2 * size), b.dtype), bias, axis=0)]

    def step(self, op: Builder, states: Values, inputs: Values, shared: Values) -> tuple[Values, Values]:
        """Return h', and keep the gates."""
        h = states[0]
        z, s, n, sq, away = self._gates(op, inputs, op.Gemm(h, *shared), h)
        new = op.Add(n, away)
        return [new], [new, h, z, s, n, sq, away]

    def again(
        self, op: Builder, xw: Value, rh: Value, states: Values, cells: Callable[[Value, Value], Value]
    ) -> Values:
        """Return the gates and their products."""
        return [*states, *self._gates(op, self._cut(op, xw), rh, states[1])]

    def _gates(self, op: Builder, inputs: Values, rh: Value, h: Value) -> Values:
        gates, q = self._cut(op, rh)
        z, s = op.Split(op.Sigmoid(op.Add(gates, inputs[0])), axis=-1, outputs=2, num_outputs=2)
        sq = op.Mul(s, q)
        n = op.Tanh(op.Add(inputs[1], sq))
        return [z, s, n, sq, op.Mul(z, op.Sub(h, n))]

    def _cut(self, op: Builder, value: Value) -> Any:
        """Return the parts of z and s, and of n."""
        size = size_of(value, -1) // 3
        return op.Split(value, op.constant([2 * size, size], np.int64), axis=-1, outputs=2)

    def factors(self, op: Builder, kept: Values) -> Values:
        """Return those of dh to z, s, n and q, and z."""
        _, _, z, s, n, sq, away = kept
        one = op.constant(1, z.dtype)
        left = op.Sub(one, z)
        to_n = op.Mul(_tanh_slope(op, n), left)
        return [op.Mul(away, left), op.Mul(op.Mul(sq, op.Sub(one, s)), to_n), to_n, op.Mul(to_n, s), z]

    def back(self, op: Builder, gradients: Values, factors: Values, r: Value) -> tuple[Values, Values]:
        """Return dh and both da."""
        (dh,) = gradients
        *to, z = factors
        d_z, d_s, d_n, d_q = (op.Mul(dh, factor) for factor in to)
        by_h = op.Concat(d_z, d_s, d_q, axis=-1)
        return [op.Add(op.MatMul(by_h, r), op.Mul(dh, z))], [op.Concat(d_z, d_s, d_n, axis=-1), by_h]


CELLS: dict[str, Cell] = {"RNN": RnnCell(), "LSTM": LstmCell(), "GRU": GruCell()}
"""By operator."""


def _products(op: Builder, x: Value, w: Value, b: Value | None) -> Value:
    """Return x W' + b of all steps by one product."""
    steps, rows, size = (size_of(x, axis) for axis in range(3))
    flat = op.Gemm(op.Reshape(x, [steps * rows, size]), w, b, transB=1)
    value: Value = op.Reshape(flat, [steps, rows, size_of(w, 0)])
    return value


def size_of(value: Value, axis: int) -> int:
    """Return a size, which is known of all values here."""
    assert value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int)
    return size


def _both(op: Builder, b: Value | None) -> Value | None:
    """Return the sum of the biases of x and h."""
    return None if b is None else op.Add(*op.Split(b, axis=0, outputs=2, num_outputs=2))


def _tanh_slope(op: Builder, y: Value) -> Any:
    return op.Sub(op.constant(1, y.dtype), op.Mul(y, y))
