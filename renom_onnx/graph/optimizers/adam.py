"""Adam and its relatives."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.optimizer import Optimizer, Options


class Adam(Optimizer):
    """p' = p - learning_rate / (1 - beta1^t) * m' / (sqrt(v' / (1 - beta2^t)) + epsilon).

    m' = m + (g - m) (1 - beta1), v' = v + (g^2 - v) (1 - beta2), t counts the steps from 1.

    Args:
        learning_rate: step size.
        beta1, beta2: decay of the mean and of the mean square, in [0, 1).
        epsilon: added after the bias correction, as PyTorch does (Kingma & Ba add it before; ONNX's preview Adam too).
        options: see `Optimizer`.

    Source: Kingma & Ba 2015, arXiv:1412.6980; https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Adam().state_names
        ('adam_m', 'adam_v')
    """

    name = "Adam"
    state_names = ("adam_m", "adam_v")
    hyperparameter_names: tuple[str, ...] = ("beta1", "beta2", "epsilon")
    counts_steps = True

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return learning_rate s / (1 - beta1^t) and epsilon s, with s = sqrt(1 - beta2^t), computed in float64.

        p' is then p - first * m' / (sqrt(v') + second), without a pass over v' for its correction.
        """
        s = op.Sqrt(correction(op, self.beta2, step))
        size = op.Div(op.Mul(op.Cast(rate, to=np.float64), s), correction(op, self.beta1, step))
        return op.Cast(size, to=np.float32), op.Cast(op.Mul(s, op.constant(self.epsilon, np.float64)), to=np.float32)

    def moments(self, op: Builder, g: Value, m: Value, v: Value) -> tuple[Value, Value]:
        """Return m' and v'."""
        return (
            op.Add(m, op.Mul(op.Sub(g, m), 1 - self.beta1)),
            op.Add(v, op.Mul(op.Sub(op.Mul(g, g), v), 1 - self.beta2)),
        )

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', m' and v'."""
        size, epsilon = scalars
        m, v = self.moments(op, g, *state)
        return op.Sub(p, op.Mul(size, op.Div(m, op.Add(op.Sqrt(v), epsilon)))), m, v


def correction(op: Builder, beta: float, step: Value) -> Value:
    """Return 1 - beta^t in float64: in float32 the difference would lose its digits."""
    value: Value = op.Sub(1.0, op.Pow(op.constant(beta, np.float64), op.Cast(step, to=np.float64)))
    return value


class AdamW(Adam):
    """`Adam` with decoupled weight decay: p is multiplied by 1 - learning_rate * weight_decay first.

    Args:
        learning_rate, beta1, beta2, epsilon, options: see `Adam`.
        weight_decay: per unit of learning rate.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.AdamW(weight_decay=0.1).weight_decay
        0.1
    """

    name = "AdamW"
    hyperparameter_names = ("beta1", "beta2", "epsilon", "weight_decay")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, **options)
        self.weight_decay = weight_decay

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return those of Adam and 1 - learning_rate * weight_decay."""
        return *super().scalars(op, rate, step), op.Sub(1.0, op.Mul(rate, self.weight_decay))

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', m' and v'."""
        return super().fragment(op, op.Mul(p, scalars[2]), g, scalars[:2], *state)


class Adamax(Adam):
    """p' = p - learning_rate / (1 - beta1^t) * m' / u', with u' = max(beta2 u, |g| + epsilon).

    The infinity norm takes the place of Adam's mean square. (ReNom's Adamax had no infinity norm at all.)

    Args:
        learning_rate, beta1, beta2, epsilon, options: see `Adam`.

    Source: Kingma & Ba 2015, arXiv:1412.6980, section 7.1.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Adamax().state_names
        ('adamax_m', 'adamax_u')
    """

    name = "Adamax"
    state_names = ("adamax_m", "adamax_u")

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return learning_rate / (1 - beta1^t)."""
        return (op.Cast(op.Div(op.Cast(rate, to=np.float64), correction(op, self.beta1, step)), to=np.float32),)

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', m' and u'."""
        m = op.Add(state[0], op.Mul(op.Sub(g, state[0]), 1 - self.beta1))
        u = op.Max(op.Mul(state[1], self.beta2), op.Add(op.Abs(g), self.epsilon))
        return op.Sub(p, op.Mul(scalars[0], op.Div(m, u))), m, u


class Lamb(Adam):
    """p' = p - learning_rate * trust * r, with r = m^ / (sqrt(v^) + epsilon) + weight_decay p, trust = |p| / |r|.

    m^ and v^ are Adam's moments after the bias correction, |.| is the Euclidean norm; trust is 1 where a norm is 0.

    Args:
        learning_rate, beta1, beta2, epsilon, options: see `Adam`.
        weight_decay: per unit of learning rate.

    Source: You et al. 2020, arXiv:1904.00962.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Lamb().state_names
        ('lamb_m', 'lamb_v')
    """

    name = "LAMB"
    state_names = ("lamb_m", "lamb_v")
    hyperparameter_names = ("beta1", "beta2", "epsilon", "weight_decay")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, **options)
        self.weight_decay = weight_decay

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return learning_rate, 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t)."""
        first, second = correction(op, self.beta1, step), correction(op, self.beta2, step)
        return (
            op.Identity(rate),
            op.Cast(op.Reciprocal(first), to=np.float32),
            op.Cast(op.Reciprocal(op.Sqrt(second)), to=np.float32),
        )

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', m' and v'."""
        rate, first, scale = scalars
        m, v = self.moments(op, g, *state)
        r = op.Div(op.Mul(m, first), op.Add(op.Mul(op.Sqrt(v), scale), self.epsilon))
        r = op.Add(r, op.Mul(p, self.weight_decay))
        norms = [op.ReduceL2(x, keepdims=0) for x in (p, r)]
        both = op.And(*(op.Greater(n, op.zero(n)) for n in norms))
        one = op.constant(1, p.dtype)
        trust = op.Where(both, op.Div(norms[0], op.Where(both, norms[1], one)), one)
        return op.Sub(p, op.Mul(op.Mul(rate, trust), r)), m, v
