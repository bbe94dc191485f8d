"""Metrics: what validation is judged by, besides the loss.

A metric is updated with the predictions and targets of each batch and then read. Any object with ``reset()``,
``update(prediction, target)`` and ``value()`` is one, and so is a function ``(prediction, target) -> number``, which is
averaged over the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

__all__ = ["Accuracy", "Mean", "MeanAbsoluteError", "Metric", "TopK", "as_metric"]

Array = np.ndarray[Any, Any]


class Metric(Protocol):
    """What an executor asks of a metric."""

    def reset(self) -> None:
        """Forget what was seen."""

    def update(self, prediction: Array, target: Array) -> None:
        """See a batch."""

    def value(self) -> float:
        """Return the metric of everything seen."""


class Mean:
    """The mean over rows of a function of a batch.

    Args:
        function: (prediction, target) -> the mean of the batch, or one number per row.

    Example:
        >>> metric = Mean(lambda p, t: np.abs(p - t))
        >>> metric.update(np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]]))
        >>> metric.value()
        2.0
    """

    def __init__(self, function: Callable[[Array, Array], Any]) -> None:
        self._function = function
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._sum = 0.0
        self._rows = 0

    def update(self, prediction: Array, target: Array) -> None:
        """See a batch."""
        rows = len(prediction)
        self._sum += float(np.mean(self._function(prediction, target))) * rows if rows else 0.0
        self._rows += rows

    def value(self) -> float:
        """Return the mean; NaN before anything was seen."""
        return self._sum / self._rows if self._rows else float("nan")


class TopK(Mean):
    """The share of targets whose class is among the k largest scores.

    Args:
        k: how many count.

    Called with scores (N, K), or (N, K, *S), and class indices (N, *S), (N, 1, *S), or probabilities (N, K, *S).

    Example:
        >>> metric = TopK(2)
        >>> metric.update(np.array([[0.1, 0.5, 0.4], [0.8, 0.1, 0.1]]), np.array([2, 1]))
        >>> metric.value()
        1.0
    """

    def __init__(self, k: int) -> None:
        super().__init__(self._share)
        self.k = k

    def _share(self, prediction: Array, target: Array) -> Any:
        is_share = target.shape == prediction.shape and target.ndim > 1
        classes = target.argmax(1, keepdims=True) if is_share else target.reshape(len(target), 1, *prediction.shape[2:])
        best = np.argsort(-prediction, axis=1, kind="stable")[:, : self.k]
        return (best == classes).any(1)


class Accuracy(TopK):
    """The share of targets whose largest score is that of their class.

    Called with what `TopK` is called with.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        >>> metric.value()
        0.5
    """

    def __init__(self) -> None:
        super().__init__(1)


class MeanAbsoluteError(Mean):
    """The mean of |prediction - target|.

    Example:
        >>> metric = MeanAbsoluteError()
        >>> metric.update(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
        >>> metric.value()
        1.5
    """

    def __init__(self) -> None:
        super().__init__(lambda prediction, target: np.abs(prediction - target.reshape(prediction.shape)))


def as_metric(metric: Metric | Callable[[Array, Array], Any]) -> Metric:
    """Return a metric as it is, and a function as the mean of its values."""
    return metric if hasattr(metric, "update") else Mean(metric)  # type: ignore[return-value]
