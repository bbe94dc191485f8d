"""Losses that measure how unlikely the targets are."""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import cast_to_precision
from renom_onnx.graph.losses.loss import Loss, check_same_shape, reduced
from renom_onnx.graph.node import Constant
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
    """-sum(t * log(softmax(x))), divided by the rows N of the batch.

    Args:
        reduction: "mean" (the default), "sum" or None, which gives (N,) for indices and (N, K) for probabilities.

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
            to = None if t.dtype == np.int64 else np.dtype(np.int64)
            if t.shape is not None and len(t.shape) == 2:  # converted here, so that a file asks for int64[N, 1]
                t, to = apply("Squeeze", t, integers([1]), casts=[to, None]), None
            reduction = self.reduction or "none"
            return apply("SoftmaxCrossEntropyLoss", x, t, casts=[cast, to], reduction=reduction)
        log_p = apply("LogSoftmax", x, casts=[cast], axis=1)
        p = apply("Mul", log_p, t, casts=[None, cast_to_precision(t)])
        return -reduced(self, p)

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
