"""Gradients of softmax and its logarithm. Operators: https://onnx.ai/onnx/operators/."""

from renom_onnx.gradients.registry import gradient


@gradient("Softmax")
def softmax(op, dy, y, x, *, axis):
    """dx = y (dy - sum over axis of dy y)."""
    total = op.ReduceSum(op.Mul(dy, y), [axis], keepdims=1)
    return op.Mul(y, op.Sub(dy, total))


@gradient("LogSoftmax")
def log_softmax(op, dy, y, x, *, axis):
    """dx = dy - exp(y) (sum over axis of dy)."""
    return op.Sub(dy, op.Mul(op.Exp(y), op.ReduceSum(dy, [axis], keepdims=1)))
