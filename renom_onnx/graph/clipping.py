"""Gradient clipping, by value and by the norm of all gradients together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Value
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at, user_site

Gradients = dict[Parameter, Value]
Limits = tuple[float | None, float | None]

_active = threading.local()


def with_gradient_clipping(
    floor: float | None = None, ceil: float | None = None
) -> contextlib.AbstractContextManager[None]:
    """Clip the gradients of parameters, element by element, in training of what is built in the block.

    g' = min(max(g, floor), ceil), before any penalty. It holds for losses that are connected in the block and for
    backward passes that begin in it, also when they are updated, run by an executor or exported later. `Optimizer` has
    ``clip_value`` and ``clip_norm``, which do the same for everything that it updates.

    Args:
        floor, ceil: the limits; None for none.

    Raises:
        ConversionError: neither is given, or floor is above ceil.

    Source: ReNom 3.0; https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> dense = rm.graph.Dense(1, initializer=rm.utility.initializer.Constant(1), bias=False)
        >>> with rm.graph.with_gradient_clipping(ceil=1.0):
        ...     loss = rm.graph.ConstantLoss()(dense(np.array([[0.5, 3.0]])))
        >>> loss.backward().update(rm.graph.Sgd(1.0))
        >>> print(dense.params["w"].as_ndarray().ravel())
        [0.5 0. ]
    """
    if floor is None and ceil is None:
        raise ConversionError(
            f"with_gradient_clipping: floor or ceil must be given, got neither. {created_at(user_site())}"
        )
    if floor is not None and ceil is not None and floor > ceil:
        raise ConversionError(
            f"with_gradient_clipping: floor must be at most ceil, got floor {floor} and ceil {ceil}. "
            f"{created_at(user_site())}"
        )
    return _clipped((floor, ceil))


@contextlib.contextmanager
def _clipped(limits: Limits) -> Iterator[None]:
    before = current_limits()
    _active.limits = limits
    try:
        yield
    finally:
        _active.limits = before


def current_limits() -> Limits | None:
    """Return the limits of the innermost block of `with_gradient_clipping`, or None outside of all."""
    return getattr(_active, "limits", None)


def clip_by_value(op: Builder, gradients: Gradients, limits: Limits | None) -> Gradients:
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
