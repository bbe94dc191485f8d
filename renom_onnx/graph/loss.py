"""Losses: what training makes small."""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.node import Constant, Node
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site

__all__ = ["ConstantLoss", "Loss", "MeanSquared", "SoftmaxCrossEntropy"]


class Loss(Layer):
    """Base of losses; the first operand is the prediction, which becomes the inference output of an export.

    Args:
        reduction: "mean" divides by the rows of the batch, "sum" does not.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ConversionError(
                f"{type(self).__name__}: reduction must be 'mean' or 'sum', got {reduction!r}. "
                f"{created_at(user_site())}"
            )
        self.reduction = reduction

    def __call__(self, *inputs: Any) -> GraphElement:
        """Connect prediction and target; the result is the loss, one number."""
        output = super().__call__(*inputs)
        prediction = inputs[0]
        node = output.output.node
        compared = prediction.output if isinstance(prediction, GraphElement) else _first_leaf(node).output
        node.loss = (compared,)
        node.reduction = self.reduction
        return output


def _first_leaf(node: Node) -> Node:
    while node.inputs:
        assert node.inputs[0] is not None
        node = node.inputs[0].node
    return node


class ConstantLoss(Loss):
    """The sum of the elements, or their sum divided by the rows: a loss without a target.

    Args:
        reduction: "sum" (the default) or "mean".

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.ConstantLoss()(rm.graph.StaticVariable(np.array([1.5, 2.0]))))
        3.5
    """

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__(reduction)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the sum."""
        return _reduce(self, x)


class MeanSquared(Loss):
    """sum((x - t)^2) / 2, divided by the rows N of the batch.

    Args:
        reduction: "mean" (the default) or "sum".

    Called with x (N, ...) and t of the same shape. The half is ReNom's, so that the gradient is (x - t) / N.

    Raises:
        ShapeError: x and t have different shapes.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.MeanSquared()(np.array([[1.0], [4.0]]), np.array([[0.0], [1.0]])))
        2.5
    """

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        if x.shape is not None and t.shape is not None and not _could_be_equal(x.shape, t.shape):
            raise ShapeError(
                f"MeanSquared: x and t must have the same shape, got x is {x.output}, t is {t.output}. "
                f"{created_at(user_site())}"
            )
        d = apply("Sub", x, t, casts=[cast_to_precision(x), cast_to_precision(t)])
        half = Constant(np.array(0.5, d.dtype)).output
        return apply("Mul", _reduce(self, apply("Mul", d, d)), half)


def _could_be_equal(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> bool:
    return len(a) == len(b) and all(
        isinstance(i, str) or isinstance(j, str) or i == j for i, j in zip(a, b, strict=True)
    )


def _reduce(loss: Loss, x: GraphElement) -> GraphElement:
    total = apply("ReduceSum", x, casts=[cast_to_precision(x) if x.dtype.kind in "biu" else None], keepdims=0)
    if loss.reduction == "sum":
        return total
    rows = apply("Squeeze", apply("Shape", x, start=0, end=1))
    return apply("Div", total, rows, casts=[None, total.dtype])


class SoftmaxCrossEntropy(Loss):
    """-sum(t * log(softmax(x))), divided by the rows N of the batch.

    Args:
        reduction: "mean" (the default) or "sum".

    Called with scores x (N, K) and t: class indices of any integer type, (N,) or (N, 1), or rows of probabilities
    (N, K). Which of the two is decided by t's dtype and shape when the loss is built and fixed in an export, where
    indices are int64 and probabilities have x's dtype.

    Raises:
        ShapeError: t has none of these shapes.
        DTypeError: t holds floats but no rows of K probabilities.

    Source: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x = np.array([[0.0, 0.0], [0.0, 0.0]], np.float32)
        >>> print(rm.graph.SoftmaxCrossEntropy()(x, np.array([0, 1])))
        0.6931472
    """

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        cast = cast_to_precision(x)
        if self._are_indices(x, t):
            if t.shape is not None and len(t.shape) == 2:
                t = apply("Squeeze", t, integers([1]))
            to = None if t.dtype == np.int64 else np.dtype(np.int64)
            return apply("SoftmaxCrossEntropyLoss", x, t, casts=[cast, to], reduction=self.reduction)
        log_p = apply("LogSoftmax", x, casts=[cast], axis=1)
        p = apply("Mul", log_p, t, casts=[None, cast_to_precision(t)])
        return -_reduce(self, p)  # type: ignore[operator, no-any-return]

    def _are_indices(self, x: GraphElement, t: GraphElement) -> bool:
        assert x.shape is not None and t.shape is not None
        is_integer = t.dtype.kind in "iu"
        if len(x.shape) == 2 and len(t.shape) == 2 and t.shape[1] == x.shape[1] and (not is_integer or x.shape[1] != 1):
            return False
        fits = len(t.shape) == 1 or (len(t.shape) == 2 and t.shape[1] == 1)
        if len(x.shape) != 2 or not fits:
            raise ShapeError(
                f"SoftmaxCrossEntropy: t must be class indices (N,) or (N, 1), or probabilities of x's shape (N, K), "
                f"got x is {x.output}, t is {t.output}. {created_at(user_site())}"
            )
        if not is_integer:
            raise DTypeError(
                f"SoftmaxCrossEntropy: class indices must be integers, got x is {x.output}, t is {t.output}. "
                f"Convert them with astype('int64'), or give rows of probabilities. {created_at(user_site())}"
            )
        return True
