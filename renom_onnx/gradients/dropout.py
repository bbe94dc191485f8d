"""Gradient of Dropout. Operator: https://onnx.ai/onnx/operators/onnx__Dropout.html."""

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import known_array


@gradient("Dropout", all_outputs=True, settings=(1, 2))
def dropout(op, dys, ys, x, ratio=None, training_mode=None):
    """dx = dy in inference; dy mask / (1 - ratio) in training; https://jmlr.org/papers/v15/srivastava14a.html."""
    dy, training = dys[0], known_array(training_mode)
    if training_mode is None or (training is not None and not training.item()):
        return dy
    if len(ys) < 2:
        raise GradientError(
            "Dropout: a node in training mode must say in its output mask which elements were kept, got none. Give it "
            "its second output."
        )
    share = op.Reciprocal(op.Sub(op.constant(1, dy.dtype), op.Cast(ratio, to=dy.dtype) if ratio is not None else 0.5))
    if training is None:
        share = op.Where(training_mode, share, op.constant(1, dy.dtype))
    return op.Mul(dy, op.Mul(op.Cast(ys[1], to=dy.dtype), share))
