"""The optimizers of the ONNX specification as functions of standard operators.

`ai.onnx.preview.training` has Momentum, Adam and Adagrad, each for any number of tensors at once. Stock onnxruntime has
no kernel of them, but runs a function of that very domain and name.

Source: https://onnx.ai/onnx/operators/#ai-onnx-preview-training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.structure import TRAINING_DOMAIN
from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import Function
from renom_onnx.graph.node import UPDATE, Input, Shape, Value

Type = tuple[np.dtype[Any], Shape | None]
Values = tuple[Value, ...]
FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class Formula:
    """What an optimizer computes.

    Attributes:
        state: letters of the state of a tensor, as the specification calls them.
        step_size: called as ``step_size(op, rate, count, is_first, **attributes)``, once for all tensors.
        update: called as ``update(op, step size, is_first, x, g, state…, **attributes)``; returns the next x and state.
    """

    state: str
    step_size: Callable[..., Value]
    update: Callable[..., Values]


def _rate(op: Builder, r: Value, t: Value, is_first: Value, **attributes: Any) -> Value:
    return r


def _momentum(
    op: Builder, r: Value, is_first: Value, x: Value, g: Value, v: Value, *,
    alpha: float, beta: float, mode: str, norm_coefficient: float,
) -> Values:  # fmt: skip
    """X' = X - R V', or X - R (G + alpha V') for Nesterov's; V' = alpha V + beta G, where the first beta is 1."""
    g = _regularized(op, x, g, norm_coefficient)
    share = g
    if beta != 1:
        share = op.Mul(g, op.Where(is_first, op.constant(1, x.dtype), op.constant(beta, x.dtype)))
    next_v = op.Add(op.Mul(v, alpha), share) if alpha else share
    direction = op.Add(g, op.Mul(next_v, alpha)) if mode == "nesterov" else next_v
    return op.Sub(x, op.Mul(_cast(op, r, x.dtype), direction)), next_v


def _adam_rate(
    op: Builder, r: Value, t: Value, is_first: Value, *, alpha: float, beta: float, **attributes: Any
) -> Value:
    """R sqrt(1 - beta^T) / (1 - alpha^T); R alone with T = 0. In float64: in float32 1 - beta^T loses its digits."""
    rate, count = _cast(op, r, FLOAT64), op.Cast(t, to=FLOAT64)
    first, second = (op.Sub(1.0, op.Pow(op.constant(decay, FLOAT64), count)) for decay in (alpha, beta))
    value: Value = op.Where(is_first, rate, op.Div(op.Mul(rate, op.Sqrt(second)), first))
    return value


def _adam(
    op: Builder, r: Value, is_first: Value, x: Value, g: Value, v: Value, h: Value, *,
    alpha: float, beta: float, epsilon: float, norm_coefficient: float, norm_coefficient_post: float,
) -> Values:  # fmt: skip
    """X' = X - r V' / (sqrt(H') + epsilon), with r = R sqrt(1 - beta^T) / (1 - alpha^T)."""
    g = _regularized(op, x, g, norm_coefficient)
    next_v = op.Add(op.Mul(v, alpha), op.Mul(g, 1 - alpha))
    next_h = op.Add(op.Mul(h, beta), op.Mul(op.Mul(g, g), 1 - beta))
    step = op.Div(next_v, op.Add(op.Sqrt(next_h), epsilon))
    next_x = op.Sub(x, op.Mul(_cast(op, r, x.dtype), step))
    if norm_coefficient_post:
        next_x = op.Mul(next_x, 1 - norm_coefficient_post)
    return next_x, next_v, next_h


def _adagrad_rate(op: Builder, r: Value, t: Value, is_first: Value, *, decay_factor: float, **attributes: Any) -> Value:
    """R / (1 + T decay_factor)."""
    if not decay_factor:
        return r
    value: Value = op.Div(_cast(op, r, FLOAT64), op.Add(op.Mul(op.Cast(t, to=FLOAT64), decay_factor), 1.0))
    return value


def _adagrad(
    op: Builder, r: Value, is_first: Value, x: Value, g: Value, h: Value, *,
    epsilon: float, norm_coefficient: float, **attributes: Any,
) -> Values:  # fmt: skip
    """X' = X - r G / (sqrt(H') + epsilon), with H' = H + G^2 and r = R / (1 + T decay_factor)."""
    g = _regularized(op, x, g, norm_coefficient)
    next_h = op.Add(h, op.Mul(g, g))
    return op.Sub(x, op.Mul(_cast(op, r, x.dtype), op.Div(g, op.Add(op.Sqrt(next_h), epsilon)))), next_h


def _regularized(op: Builder, x: Value, g: Value, norm_coefficient: float) -> Value:
    """Return G + norm_coefficient X, the gradient of the loss and half the squared norm."""
    total: Value = op.Add(op.Mul(x, norm_coefficient), g) if norm_coefficient else g
    return total


def _cast(op: Builder, value: Value, dtype: np.dtype[Any]) -> Value:
    cast: Value = value if value.dtype == dtype else op.Cast(value, to=dtype)
    return cast


FORMULAS: Mapping[str, Formula] = {
    "Adagrad": Formula("H", _adagrad_rate, _adagrad),
    "Adam": Formula("VH", _adam_rate, _adam),
    "Momentum": Formula("V", _rate, _momentum),
}


def tensor_count(op_type: str, n_inputs: int) -> int | None:
    """Return how many tensors a node with so many inputs updates; None where they do not come out even."""
    groups = 2 + len(FORMULAS[op_type].state)
    n, rest = divmod(n_inputs - 2, groups)
    return n if n > 0 and not rest else None


def optimizer_function(op_type: str, attributes: Mapping[str, Any], types: Sequence[Type], opset: int) -> Function:
    """Return the function that computes a node of an optimizer of the specification.

    Args:
        op_type: Momentum, Adam or Adagrad.
        attributes: of the node; numbers are rounded to float32, as a file holds them.
        types: of its inputs.
        opset: of the body.
    """
    any_shape = [(dtype, None) for dtype, _ in types[2:]]  # one body for tensors of all sizes
    held = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in attributes.items()}
    return _function(op_type, tuple(sorted(held.items())), (*types[:2], *any_shape), opset)


@functools.lru_cache(maxsize=1024)
def _function(op_type: str, attributes: tuple[tuple[str, Any], ...], types: tuple[Type, ...], opset: int) -> Function:
    formula = FORMULAS[op_type]
    n = tensor_count(op_type, len(types))
    assert n is not None
    op = Builder(opset, tag=UPDATE)
    operator = schema.operator(op_type, 1, TRAINING_DOMAIN)
    given = schema.attributes_with_defaults(operator, dict(attributes))
    names = ["R", "T", *(_numbered(letter, i, n) for letter in f"XG{formula.state}" for i in range(n))]
    inputs = [Input(*t, name=name).output for t, name in zip(types, names, strict=True)]
    rate, count = (_scalar(op, value) for value in inputs[:2])
    is_first = op.Not(op.Greater(count, op.zero(count)))
    size = formula.step_size(op, rate, count, is_first, **given)
    results = [formula.update(op, size, is_first, *inputs[2 + i :: n], **given) for i in range(n)]
    outputs = [result[k] for k in range(1 + len(formula.state)) for result in results]
    output_names = tuple(f"{_numbered(letter, i, n)}_new" for letter in f"X{formula.state}" for i in range(n))
    doc = (formula.update.__doc__ or "").split("\n")[0]
    declared = tuple(name for name, _ in attributes)
    return Function(op_type, TRAINING_DOMAIN, opset, tuple(inputs), tuple(outputs), output_names, declared, doc)


def _numbered(letter: str, index: int, n: int) -> str:
    return letter if n == 1 else f"{letter}{index + 1}"


def _scalar(op: Builder, x: Value) -> Value:
    """Return a number of one element without axes, which would broadcast to a tensor that has none."""
    if x.shape and all(size == 1 for size in x.shape):
        value: Value = op.Reshape(x, op.constant([], np.int64))
        return value
    return x
