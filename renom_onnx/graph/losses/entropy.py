"""Losses that measure how unlikely the targets are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import cast_to_precision
from renom_onnx.graph.losses.loss import Loss, check_same_shape, could_be_equal, reduced
from renom_onnx.graph.node import Constant, Value
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site


class CrossEntropy(Loss):
    """-sum(t log(x + 1e-8)), divided by the rows N of the batch: x are probabilities, as Softmax gives them.

    On scores, `SoftmaxCrossEntropy` is more exact.

    Args:
        reduction: "mean" (the default), "sum" or None.

    Called with x (N, ...) and t of the same shape.

    Raises:
        ShapeError: x and t have different shapes.

    Source: Goodfellow et al. 2016, deeplearningbook.org, 6.2.1.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.CrossEntropy()(np.array([[0.5, 0.5]]), np.array([[0, 1]])))
        0.6931472
    """

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        check_same_shape("CrossEntropy", x, t)
        dtype = cast_to_precision(x) or x.dtype
        log_p = apply(
            "Log", apply("Add", x, Constant(np.array(1e-8, dtype)).output, casts=[cast_to_precision(x), None])
        )
        p = apply("Mul", log_p, t, casts=[None, cast_to_precision(t)])
        return -reduced(self, p)


class SigmoidCrossEntropy(Loss):
    """-sum(t log z + (1 - t) log(1 - z)) with z = sigmoid(x), divided by the rows N of the batch.

    Computed as softplus(x) - t x, which is exact for scores of any size.

    Args:
        reduction: "mean" (the default), "sum" or None.

    Called with scores x (N, ...) and t of the same shape, from 0 to 1.

    Raises:
        ShapeError: x and t have different shapes.

    Source: Goodfellow et al. 2016, deeplearningbook.org, 6.2.2.2.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.SigmoidCrossEntropy()(np.array([[0.0]]), np.array([[1]])))
        0.6931472
    """

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        check_same_shape("SigmoidCrossEntropy", x, t)
        cast = cast_to_precision(x)
        linear = apply("Mul", x, t, casts=[cast, cast_to_precision(t)])
        return reduced(self, apply("Sub", apply("Softplus", x, casts=[cast]), linear))


class SoftmaxCrossEntropy(Loss):
    """-log(softmax(x)[t]) of the class t of every target, or -sum(t log(softmax(x))) of probabilities.

    Args:
        reduction: "mean" (the default) over all targets, "sum", or None, which gives (N, *S) for indices and (N, K, *S)
            for probabilities.
        weight: K numbers, which multiply the losses of the classes; "mean" then divides by the sum of the targets'
            weights.
        ignore_index: targets of this class count for nothing, nor in the mean; it need not be one of the K.

    Called with scores x (N, K), or (N, K, *S) for a class at every position, and t: class indices of any integer type,
    (N, *S) or (N, 1, *S), or probabilities (N, K, *S). Which of the two is decided by t's dtype and shape when the loss
    is built and fixed in an export, where indices are int64 and probabilities have x's dtype. Scores of a sequence
    (N, T, K) are brought into this form by ``rm.graph.transpose(x, (0, 2, 1))``.

    Raises:
        ShapeError: t has none of these shapes, or weight is not K numbers.
        DTypeError: t holds floats but no probabilities of K classes, or there is a weight or an ignored class for
            probabilities.
        IndexRangeError: an index is not 0 to K - 1; told when it is run.

    Source: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x = np.array([[0.0, 0.0], [0.0, 0.0]], np.float32)
        >>> print(rm.graph.SoftmaxCrossEntropy()(x, np.array([0, 1])))
        0.6931472
    """

    def __init__(
        self,
        reduction: str | None = "mean",
        *,
        weight: Sequence[float] | np.ndarray[Any, Any] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction)
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, x: GraphElement, t: GraphElement) -> GraphElement:
        """Return the loss."""
        cast = cast_to_precision(x)
        if self._are_indices(x, t):
            to = None if t.dtype == np.int64 else np.dtype(np.int64)
            if len(t.shape or ()) == len(x.shape or ()):  # converted here, so that a file asks for int64[N, 1]
                t, to = apply("Squeeze", t, integers([1]), casts=[to, None]), None
            reduction = self.reduction or "none"
            operands = [x, t] if self.weight is None else [x, t, self._weights(x)]
            casts = [cast, to, None][: len(operands)]
            ignored = self.ignore_index
            return apply("SoftmaxCrossEntropyLoss", *operands, casts=casts, reduction=reduction, ignore_index=ignored)
        if self.weight is not None or self.ignore_index is not None:
            raise DTypeError(
                f"SoftmaxCrossEntropy: with weight or ignore_index, t must be class indices, got x is {x.output}, t is "
                f"{t.output}. Give the classes, or weigh the probabilities. {created_at(user_site())}"
            )
        log_p = apply("LogSoftmax", x, casts=[cast], axis=1)
        p = apply("Mul", log_p, t, casts=[None, cast_to_precision(t)])
        if self.reduction == "mean" and len(x.shape or ()) > 2:
            return -apply("ReduceMean", apply("ReduceSum", p, integers([1]), keepdims=0), keepdims=0)
        return -reduced(self, p)

    def _weights(self, x: GraphElement) -> Value:
        """Return the weights of the K classes."""
        weight = np.asarray(self.weight, cast_to_precision(x) or x.dtype)
        assert x.shape is not None
        if weight.ndim != 1 or (isinstance(x.shape[1], int) and weight.shape != x.shape[1:2]):
            raise ShapeError(
                f"SoftmaxCrossEntropy: weight must be K numbers, got x is {x.output}, weight of shape "
                f"{list(weight.shape)}. {created_at(user_site())}"
            )
        return Constant(weight).output

    def _are_indices(self, x: GraphElement, t: GraphElement) -> bool:
        assert x.shape is not None and t.shape is not None
        is_integer = t.dtype.kind in "iu"
        is_column = len(t.shape) == len(x.shape) and t.shape[1:2] == (1,)
        if could_be_equal(x.shape, t.shape) and not (is_column and is_integer):
            return False
        positions = t.shape[2:] if is_column else t.shape[1:]
        if len(x.shape) < 2 or not t.shape or not could_be_equal(positions, x.shape[2:]):
            s = ", *S" if len(x.shape) > 2 else ""
            raise ShapeError(
                f"SoftmaxCrossEntropy: t must be class indices (N{s or ','}) or (N, 1{s}), or probabilities of x's "
                f"shape (N, K{s}), got x is {x.output}, t is {t.output}. {created_at(user_site())}"
            )
        if not is_integer:
            raise DTypeError(
                f"SoftmaxCrossEntropy: class indices must be integers, got x is {x.output}, t is {t.output}. "
                f"Convert them with astype('int64'), or give rows of probabilities. {created_at(user_site())}"
            )
        return True
