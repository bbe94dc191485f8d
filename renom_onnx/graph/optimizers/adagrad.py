"""Optimizers that divide by a running size of the gradient."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.optimizer import Optimizer, Options


class Adagrad(Optimizer):
    """p' = p - learning_rate * g / (sqrt(r') + epsilon), with r' = r + g^2.

    Args:
        learning_rate: step size.
        epsilon: keeps the denominator from 0.
        options: see `Optimizer`.

    Source: Duchi et al. 2011, jmlr.org/papers/v12/duchi11a.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Adagrad().state_names
        ('adagrad_r',)
    """

    name = "Adagrad"
    state_names = ("adagrad_r",)
    hyperparameter_names = ("epsilon",)

    def __init__(self, learning_rate: float = 0.01, epsilon: float = 1e-8, **options: Unpack[Options]) -> None:
        super().__init__(learning_rate, **options)
        self.epsilon = epsilon

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p' and r'."""
        r = op.Add(state[0], op.Mul(g, g))
        step = op.Div(g, op.Add(op.Sqrt(r), self.epsilon))
        return op.Sub(p, op.Mul(scalars[0], step)), r


class Adadelta(Optimizer):
    """p' = p - learning_rate * d, with d = sqrt(x + epsilon) / sqrt(e' + epsilon) * g.

    e' = dr e + (1 - dr) g^2, x' = dr x + (1 - dr) d^2.

    Args:
        dr: decay of the mean squares.
        epsilon: added to both mean squares.
        learning_rate: multiplies the step; 1 in the paper.
        options: see `Optimizer`.

    Source: Zeiler 2012, arXiv:1212.5701.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Adadelta().state_names
        ('adadelta_e', 'adadelta_x')
    """

    name = "Adadelta"
    state_names = ("adadelta_e", "adadelta_x")
    hyperparameter_names = ("dr", "epsilon")

    def __init__(
        self, dr: float = 0.95, epsilon: float = 1e-8, learning_rate: float = 1.0, **options: Unpack[Options]
    ) -> None:
        super().__init__(learning_rate, **options)
        self.dr = dr
        self.epsilon = epsilon

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', e' and x'."""
        e = op.Add(op.Mul(state[0], self.dr), op.Mul(op.Mul(g, g), 1 - self.dr))
        d = op.Mul(op.Div(op.Sqrt(op.Add(state[1], self.epsilon)), op.Sqrt(op.Add(e, self.epsilon))), g)
        x = op.Add(op.Mul(state[1], self.dr), op.Mul(op.Mul(d, d), 1 - self.dr))
        return op.Sub(p, op.Mul(scalars[0], d)), e, x


class Rmsprop(Optimizer):
    """p' = p - learning_rate * g / (sqrt(r') + epsilon), with r' = decay r + (1 - decay) g^2.

    Args:
        learning_rate: step size.
        g: the decay, ReNom's name for it.
        epsilon: keeps the denominator from 0.
        options: see `Optimizer`.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Rmsprop().state_names
        ('rmsprop_r',)
    """

    name = "RMSprop"
    state_names = ("rmsprop_r",)
    hyperparameter_names = ("g", "epsilon")

    def __init__(
        self, learning_rate: float = 0.001, g: float = 0.9, epsilon: float = 1e-8, **options: Unpack[Options]
    ) -> None:
        super().__init__(learning_rate, **options)
        self.g = g
        self.epsilon = epsilon

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p' and r'."""
        r = op.Add(op.Mul(state[0], self.g), op.Mul(op.Mul(g, g), 1 - self.g))
        return op.Sub(p, op.Mul(scalars[0], op.Div(g, op.Add(op.Sqrt(r), self.epsilon)))), r
