"""Stochastic gradient descent."""

from __future__ import annotations

import functools
from typing import Unpack

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.optimizer import Optimizer, Options


class Sgd(Optimizer):
    """p' = p - learning_rate * v', with v' = momentum * v + g.

    Args:
        learning_rate: step size.
        momentum: 0 for none (then v' = g and there is no state). PyTorch's form, without dampening.
        nesterov: p' = p - learning_rate * (g + momentum * v').
        options: see `Optimizer`.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Sgd(0.1, momentum=0.9).state_names
        ('momentum',)
    """

    name = "SGD"
    hyperparameter_names = ("momentum", "nesterov")

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.momentum = momentum
        self.nesterov = nesterov
        self.state_names = ("momentum",) if momentum else ()

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p' and, with momentum, v'."""
        (rate,) = scalars
        if not state:
            return (op.Sub(p, op.Mul(rate, g)),)
        v = op.Add(op.Mul(state[0], self.momentum), g)
        step = op.Add(op.Mul(v, self.momentum), g) if self.nesterov else v
        return op.Sub(p, op.Mul(rate, step)), v


@functools.cache
def default_optimizer() -> Sgd:
    """Return the optimizer of whoever gives none: the seed's ``Sgd(0.01, momentum=0.4)``, whose state lives on."""
    return sgd_update()


def sgd_update(learning_rate: float = 0.01, momentum: float = 0.4) -> Sgd:
    """Return ``Sgd`` with the seed's defaults."""
    return Sgd(learning_rate, momentum)
