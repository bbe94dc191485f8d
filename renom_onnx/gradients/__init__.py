"""Gradient rules, one per ONNX operator, grouped by family."""

from renom_onnx.gradients import (  # noqa: F401  (importing a family registers its rules)
    activation,
    arithmetic,
    branch,
    convolution,
    discrete,
    dropout,
    indexing,
    linear,
    loop,
    loss,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    scan,
    sequence,
    shape,
    signal,
    softmax,
)
from renom_onnx.gradients.registry import Gradient, entries, find, gradient, not_differentiable, refuse

__all__ = ["Gradient", "entries", "find", "gradient", "not_differentiable", "refuse"]
