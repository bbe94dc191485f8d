"""Regularizers: what is added to the gradient of a parameter to keep it small."""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import UPDATE, Input, Mutable, Value
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at, user_site


class Regularizer:
    """Base of regularizers; `penalty` is the gradient of what is added to the loss.

    Args:
        weight_decay: weight of the penalty; fed at every step, so it may be assigned to while training. ReNom's name
            for it, `wd`, is the same.
    """

    def __init__(self, weight_decay: float = 0.05) -> None:
        self.weight = Mutable(np.array(weight_decay, np.float32), name="weight_decay")

    @property
    def weight_decay(self) -> float:
        """Weight of the penalty in the next update."""
        return float(str(self.weight.array))  # the number as it was given: 0.01, not float32's 0.00999…

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self.weight.array = np.array(value, np.float32)

    wd = weight_decay

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


def as_regularizer(given: Regularizer | str | float | None, caller: str) -> Regularizer | None:
    """Return a regularizer as it is, ``L2(given)`` for a number, and that of a name, "l1" or "l2".

    Raises:
        ConversionError: it is something else.

    Example:
        >>> as_regularizer(0.1, "set_regularizer").weight_decay
        0.1
    """
    if given is None or isinstance(given, Regularizer):
        return given
    if isinstance(given, int | float):
        return L2(given) if given else None
    if (name := str(given).lower()) in _NAMED:
        return _NAMED[name]()
    raise ConversionError(
        f"{caller}: a regularizer must be a Regularizer, a number or one of {', '.join(_NAMED)}, got {given!r}. "
        f"{created_at(user_site())}"
    )


_NAMED: dict[str, type[Regularizer]] = {"l1": L1, "l2": L2}


def regularized(opset: int, parameter: Parameter, g: Value) -> Value:
    """Return the gradient with the penalty of the parameter's regularizer, if it has one."""
    regularizer: Regularizer | None = parameter.regularizer
    if regularizer is None:
        return g
    op = Builder(opset, tag=UPDATE)
    p = Input(parameter.output.dtype, parameter.output.shape, name="P").output
    formal = Input(g.dtype, g.shape, name="G").output
    weight = Input(np.dtype(np.float32), (), name="WEIGHT_DECAY").output
    factor = weight if g.dtype == weight.dtype else op.Cast(weight, to=g.dtype)
    total = op.Add(formal, op.Mul(regularizer.penalty(op, p), factor))
    name = type(regularizer).__name__
    doc = (type(regularizer).__doc__ or "").split("\n")[0]
    function = Function(name, DOMAIN, opset, (p, formal, weight), (total,), ("G_next",), (), doc)
    operands = [parameter.output, g, regularizer.weight.output]
    return call(function, operands, {}, [(g.dtype, g.shape)], tag=UPDATE, site=g.node.site).output
