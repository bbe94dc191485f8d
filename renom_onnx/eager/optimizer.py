"""Optimizers of the v2.0 API."""

from __future__ import annotations

from renom_onnx.graph import optimizers as _graph


class Sgd(_graph.Sgd):
    """`renom_onnx.graph.Sgd` with v2.0's names and defaults.

    Args:
        lr: step size.
        momentum: 0 for none.
        nesterov: look ahead along the momentum.

    Example:
        >>> import renom_onnx as rm
        >>> rm.Sgd(lr=0.5).learning_rate
        0.5
    """

    def __init__(self, lr: float = 0.1, momentum: float = 0.4, nesterov: bool = True) -> None:
        super().__init__(lr, momentum, nesterov=nesterov)
