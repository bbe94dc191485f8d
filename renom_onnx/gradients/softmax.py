"""Gradients of softmax and its logarithm. Operators: https://onnx.ai/onnx/operators/."""

import numpy as np

from renom_onnx.gradients.registry import gradient


@gradient("Softmax")
def softmax(op, dy, y, x, *, axis):
    """dx = dy y - y (sum over axis of dy y); 0 where y is NaN, in rows that a mask covers wholly."""
    y = _without_nan(op, y)
    along = op.Mul(dy, y)
    return op.Sub(along, op.Mul(y, op.ReduceSum(along, [axis], keepdims=1)))


def _without_nan(op, y):
    """Return y, which is 0 or more, with 0 for NaN: models hide it by Where, but 0 * NaN would be in the gradient."""
    if y.dtype == np.float64:  # for which onnxruntime's CPU provider has no ThresholdedRelu
        return op.Where(op.IsNaN(y), op.zero(y), y)
    return op.ThresholdedRelu(y, alpha=0.0)  # NaN is not above 0; Where takes many times as long


@gradient("LogSoftmax")
def log_softmax(op, dy, y, x, *, axis):
    """dx = dy - exp(y) (sum over axis of dy)."""
    return op.Sub(dy, op.Mul(op.Exp(y), op.ReduceSum(dy, [axis], keepdims=1)))
