"""Loss scaling for float16: small gradients are lifted out of the range that rounds to zero.

The loss is multiplied by a scale before the backward pass and the gradients are divided by it in float32. A step with
an infinite or undefined gradient is not taken and halves the scale; after enough good steps it is doubled.

Source: Micikevicius et al. 2018, arXiv:1710.03740; constants are those of torch.amp.GradScaler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Mutable, State, Value


class LossScale:
    """A scale that is state of the training step.

    Args:
        initial: what it starts from.
        growth_factor, backoff_factor: what it is multiplied by after good steps, and after a bad one.
        growth_interval_steps: good steps in a row that make it grow; 0 keeps it fixed.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Sgd(0.1, loss_scale=rm.graph.LossScale(1024)).loss_scale.scale.array
        array(1024., dtype=float32)
    """

    def __init__(
        self,
        initial: float = 2.0**16,
        *,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval_steps: int = 2000,
    ) -> None:
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval_steps = growth_interval_steps
        self.scale = State(np.array(initial, np.float32), "loss_scale", None)
        self.good_steps = State(np.array(0, np.int64), "good_steps", None)

    def next_values(self, op: Builder, finite: Value) -> dict[Mutable, Value]:
        """Return the next scale and count of good steps."""
        good = op.Add(self.good_steps.output, 1)
        grows = op.Equal(good, op.constant(max(self.growth_interval_steps, 1), np.int64))
        if not self.growth_interval_steps:
            grows = op.constant(False, np.bool_)
        scale = self.scale.output
        grown = op.Where(grows, op.Mul(scale, self.growth_factor), scale)
        zero = op.constant(0, np.int64)
        return {
            self.scale: op.Where(finite, grown, op.Mul(scale, self.backoff_factor)),
            self.good_steps: op.Where(finite, op.Where(grows, zero, good), zero),
        }


def all_finite(op: Builder, values: Sequence[Value]) -> Value:
    """Return whether every element of every value is a number: 0 times it is 0, and NaN otherwise."""
    zeros = [op.Cast(op.ReduceSum(op.Mul(v, 0.0), keepdims=0), to=np.float32) for v in values]
    finite: Value = op.Not(op.IsNaN(op.Sum(*zeros)))
    return finite
