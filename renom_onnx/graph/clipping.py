"""Gradient clipping, by value and by the norm of all gradients together."""

from __future__ import annotations

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.parameter import Parameter

Gradients = dict[Parameter, Value]


def clip_by_value(op: Builder, gradients: Gradients, limits: tuple[float, float] | None) -> Gradients:
    """Return the gradients, each element within the limits."""
    if limits is None:
        return gradients
    return {p: op.Clip(g, limits[0], limits[1]) for p, g in gradients.items()}


def clip_by_norm(op: Builder, gradients: Gradients, limit: float | None) -> Gradients:
    """Return g * min(1, limit / (norm + 1e-6)), norm being the Euclidean norm of all gradients together.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html.
    """
    if limit is None:
        return gradients
    squares = [op.Cast(op.ReduceSumSquare(g, keepdims=0), to=np.float32) for g in gradients.values()]
    norm = op.Sqrt(op.Sum(*squares))
    scale = op.Min(op.Div(op.constant(limit, np.float32), op.Add(norm, 1e-6)), op.constant(1, np.float32))
    return {p: op.Mul(g, scale if g.dtype == np.float32 else op.Cast(scale, to=g.dtype)) for p, g in gradients.items()}
