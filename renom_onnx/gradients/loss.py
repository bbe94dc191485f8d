"""Gradients of losses over class indices. Operators: https://onnx.ai/onnx/operators/.

Scores are (N, C, ...), labels (N, ...). The one-hot labels are never made: only the label's element is changed, by
ScatterElements, four times faster than OneHot on CPU.
"""

from renom_onnx.gradients.indexing import add_at
from renom_onnx.gradients.registry import gradient


@gradient("SoftmaxCrossEntropyLoss", all_outputs=True)
def softmax_cross_entropy_loss(op, dys, ys, scores, labels, weights=None, *, ignore_index, reduction):
    """d_scores = (softmax - onehot) times the share of each label; through log_prob: d - softmax (sum of d)."""
    log_prob = ys[1] if len(ys) > 1 else op.LogSoftmax(scores, axis=1)
    prob = op.Softmax(scores, axis=1)
    d_scores = d_weights = None
    if dys[0] is not None:
        share, index, kept = _share(op, dys[0], labels, weights, ignore_index, reduction)
        scaled = op.Mul(prob, share)
        there = op.Sub(op.GatherElements(scaled, index, axis=1), share)
        d_scores = op.shaped(op.ScatterElements(scaled, index, there, axis=1), scores)
        d_weights = _weight_gradient(op, dys[0], ys[0], log_prob, weights, index, kept, reduction)
    if len(dys) > 1 and dys[1] is not None:
        through = op.Sub(dys[1], op.Mul(prob, op.ReduceSum(dys[1], [1], keepdims=1)))
        d_scores = through if d_scores is None else op.Add(d_scores, through)
    return d_scores, None, d_weights


@gradient("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(op, dy, y, x, labels, weights=None, *, ignore_index, reduction):
    """dx = minus the share of each label, at the label."""
    share, index, kept = _share(op, dy, labels, weights, ignore_index, reduction)
    there = op.Expand(op.Neg(share), op.Shape(index))
    dx = op.shaped(op.ScatterElements(op.zeros_like(x), index, there, axis=1), x)
    return dx, None, _weight_gradient(op, dy, y, x, weights, index, kept, reduction)


def _share(op, dy, labels, weights, ignore_index, reduction):
    """Return what each label's loss counts, the class to look at, and 1 for labels that are not ignored.

    All have the shape (N, 1, ...) of the labels with an axis for C; without weights and ignored labels, the share may
    be one number for all and the last is None. With reduction "mean" the share is divided by the sum of all weights.
    """
    index = op.Unsqueeze(labels, [1])
    if reduction == "none":
        dy = op.Unsqueeze(dy, [1])
    if weights is None and ignore_index is None:
        if reduction == "mean":
            dy = op.Div(dy, op.Cast(op.ReduceProd(op.shape_of(labels), keepdims=0), to=dy.dtype))
        return dy, index, None
    kept = None
    if ignore_index is not None:
        keep = op.Not(op.Equal(index, ignore_index))
        index = op.Mul(index, op.Cast(keep, to=labels.dtype))  # an ignored label may be out of range
        kept = op.Cast(keep, to=dy.dtype)
    weight = kept
    if weights is not None:
        weight = op.Gather(weights, index, axis=0)
        weight = weight if kept is None else op.Mul(weight, kept)
    if reduction == "mean":
        dy = op.Div(dy, _not_zero(op, op.ReduceSum(weight, keepdims=0)))
    return op.Mul(weight, dy), index, kept


def _not_zero(op, total):
    """Return the total, or 1 where it is 0: if every label is ignored the gradient is 0."""
    return op.Add(total, op.Cast(op.Equal(total, 0), to=total.dtype))


def _weight_gradient(op, dy, y, log_prob, weights, index, kept, reduction):
    """d_weight[c] = the sum of -log_prob dy over labels c; for "mean", of (-log_prob - y) dy / (sum of weights)."""
    if weights is None:
        return None
    each = op.Neg(op.GatherElements(log_prob, index, axis=1))
    if reduction == "mean":
        weight = op.Gather(weights, index, axis=0)
        total = op.ReduceSum(weight if kept is None else op.Mul(weight, kept), keepdims=0)
        each, dy = op.Sub(each, y), op.Div(dy, _not_zero(op, total))
    elif reduction == "none":
        dy = op.Unsqueeze(dy, [1])
    each = op.Mul(each, dy) if kept is None else op.Mul(op.Mul(each, dy), kept)
    return add_at(op, weights, op.Reshape(index, [-1]), op.Reshape(each, [-1]), axis=0)
