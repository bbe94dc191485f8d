"""Losses: what training makes small. Each is a layer called with prediction and target, and a function."""

from typing import Any

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.losses.distance import ClippedMeanSquared, MeanSquared, SmoothL1
from renom_onnx.graph.losses.entropy import CrossEntropy, SigmoidCrossEntropy, SoftmaxCrossEntropy
from renom_onnx.graph.losses.loss import ConstantLoss, Loss

__all__ = [
    "ClippedMeanSquared", "ConstantLoss", "CrossEntropy", "Loss", "MeanSquared", "SigmoidCrossEntropy", "SmoothL1",
    "SoftmaxCrossEntropy", "clipped_mean_squared", "constant_loss", "cross_entropy", "mean_squared",
    "sigmoid_cross_entropy", "smooth_l1", "softmax_cross_entropy",
]  # fmt: skip


def constant_loss(x: Any, reduction: str | None = "sum") -> GraphElement:
    """Return `ConstantLoss` of x."""
    return ConstantLoss(reduction)(x)


def mean_squared(x: Any, t: Any, reduction: str | None = "mean") -> GraphElement:
    """Return `MeanSquared` of prediction and target."""
    return MeanSquared(reduction)(x, t)


def clipped_mean_squared(x: Any, t: Any, clip: float = 1.0, reduction: str | None = "mean") -> GraphElement:
    """Return `ClippedMeanSquared` of prediction and target."""
    return ClippedMeanSquared(clip, reduction)(x, t)


def smooth_l1(x: Any, t: Any, delta: float = 1.0, reduction: str | None = "mean") -> GraphElement:
    """Return `SmoothL1` of prediction and target."""
    return SmoothL1(delta, reduction)(x, t)


def cross_entropy(x: Any, t: Any, reduction: str | None = "mean") -> GraphElement:
    """Return `CrossEntropy` of probabilities and target."""
    return CrossEntropy(reduction)(x, t)


def sigmoid_cross_entropy(x: Any, t: Any, reduction: str | None = "mean") -> GraphElement:
    """Return `SigmoidCrossEntropy` of scores and target."""
    return SigmoidCrossEntropy(reduction)(x, t)


def softmax_cross_entropy(x: Any, t: Any, reduction: str | None = "mean", **options: Any) -> GraphElement:
    """Return `SoftmaxCrossEntropy`, which says what the options are, of scores and target."""
    return SoftmaxCrossEntropy(reduction, **options)(x, t)
