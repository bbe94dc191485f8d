"""Regularizers: what is added to the gradient of a parameter to keep it small."""

from __future__ import annotations

from typing import Any

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import UPDATE, Input, Value
from renom_onnx.graph.parameter import Parameter


class Regularizer:
    """Base of regularizers; `penalty` is the gradient of what is added to the loss.

    Args:
        weight_decay: weight of the penalty.
    """

    def __init__(self, weight_decay: float = 0.05) -> None:
        self.weight_decay = weight_decay

    def penalty(self, op: Builder, p: Value) -> Value:
        """Return the gradient of the penalty, without its weight."""
        raise NotImplementedError(f"{type(self).__name__}.penalty: a regularizer must define it, got the base class's.")


class L2(Regularizer):
    """g + weight_decay * p: the loss plus weight_decay / 2 * sum(p^2).

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.L2(0.01).weight_decay
        0.01
    """

    def penalty(self, op: Builder, p: Value) -> Value:
        """Return p."""
        return p


class L1(Regularizer):
    """g + weight_decay * sign(p): the loss plus weight_decay * sum(|p|).

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.L1(0.01).weight_decay
        0.01
    """

    def penalty(self, op: Builder, p: Value) -> Value:
        """Return sign(p)."""
        value: Value = op.Sign(p)
        return value


def regularized(opset: int, parameter: Parameter, g: Value) -> Value:
    """Return the gradient with the penalty of the parameter's regularizer, if it has one."""
    regularizer: Any = parameter.regularizer
    if regularizer is None or not regularizer.weight_decay:
        return g
    op = Builder(opset, tag=UPDATE)
    p = Input(parameter.output.dtype, parameter.output.shape, name="P").output
    formal = Input(g.dtype, g.shape, name="G").output
    total = op.Add(formal, op.Mul(regularizer.penalty(op, p), regularizer.weight_decay))
    name = type(regularizer).__name__
    doc = (type(regularizer).__doc__ or "").split("\n")[0]
    function = Function(name, DOMAIN, opset, (p, formal), (total,), ("G_next",), ("weight_decay",), doc)
    node = call(
        function,
        [parameter.output, g],
        {"weight_decay": float(regularizer.weight_decay)},
        [(g.dtype, g.shape)],
        tag=UPDATE,
        site=g.node.site,
    )
    return node.output
