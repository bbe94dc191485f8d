"""Lion."""

from __future__ import annotations

from typing import Unpack

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.optimizer import Optimizer, Options


class Lion(Optimizer):
    """p' = p (1 - learning_rate * weight_decay) - learning_rate * sign(beta1 m + (1 - beta1) g).

    m' = beta2 m + (1 - beta2) g.

    Args:
        learning_rate: step size, a third to a tenth of Adam's.
        beta1, beta2: weights of the running mean in the step and in itself.
        weight_decay: decoupled, per unit of learning rate.
        options: see `Optimizer`.

    Source: Chen et al. 2023, arXiv:2302.06675.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Lion().state_names
        ('lion_m',)
    """

    name = "Lion"
    state_names = ("lion_m",)
    hyperparameter_names = ("beta1", "beta2", "weight_decay")

    def __init__(
        self,
        learning_rate: float = 1e-4,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.weight_decay = weight_decay

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p' and m'."""
        (rate,) = scalars
        direction = op.Sign(op.Add(op.Mul(state[0], self.beta1), op.Mul(g, 1 - self.beta1)))
        if self.weight_decay:
            direction = op.Add(direction, op.Mul(p, self.weight_decay))
        m = op.Add(op.Mul(state[0], self.beta2), op.Mul(g, 1 - self.beta2))
        return op.Sub(p, op.Mul(rate, direction)), m
