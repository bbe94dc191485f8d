"""Gradients of the operators on sequences: the gradient of a sequence is a sequence of as many tensors.

Source: https://onnx.ai/onnx/operators/onnx__SequenceAt.html and its relatives.
"""

import numpy as np

from renom_onnx.gradients.registry import gradient, not_differentiable
from renom_onnx.graph import schema
from renom_onnx.graph.container import holds_floats, zeros
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.inside import Inside, instantiate
from renom_onnx.graph.node import known_array

not_differentiable("empty", "SequenceEmpty")


def _from_front(op, position, length_of):
    """Return a position that counts from the front, of one that may count from the end."""
    known = known_array(position)
    if known is not None and known >= 0:
        return position
    length = op.Cast(op.SequenceLength(length_of), to=position.dtype)
    return op.Where(op.Less(position, op.constant(0, position.dtype)), op.Add(position, length), position)


@gradient("SequenceConstruct")
def sequence_construct(op, ds, s, *xs):
    """dx_i is the i-th tensor of ds."""
    return tuple(op.shaped(op.SequenceAt(ds, op.constant(i, np.int64)), x) for i, x in enumerate(xs))


@gradient("SequenceAt")
def sequence_at(op, dy, y, s, position):
    """ds is dy in its place, 0 elsewhere."""
    others = op.SequenceErase(zeros(op, s), position)
    return op.SequenceInsert(others, dy, _from_front(op, position, s)), None


@gradient("SequenceInsert")
def sequence_insert(op, dt, t, s, x, position=None):
    """dx is the tensor of dt in its place, ds the others."""
    place = op.constant(-1, np.int64) if position is None else _from_front(op, position, s)
    return op.SequenceErase(dt, place), op.shaped(op.SequenceAt(dt, place), x), None


@gradient("SequenceErase")
def sequence_erase(op, dt, t, s, position=None):
    """ds is dt with 0 in the place of the tensor that was taken out."""
    if position is None:
        return op.SequenceInsert(dt, op.zeros_like(op.SequenceAt(s, op.constant(-1, np.int64))))
    zero = op.zeros_like(op.SequenceAt(s, position))
    return op.SequenceInsert(dt, zero, _from_front(op, position, s)), None


@gradient("ConcatFromSequence")
def concat_from_sequence(op, dy, y, s, *, axis, new_axis):
    """ds is dy, split where the tensors met."""
    if new_axis:
        return op.SplitToSequence(dy, axis=axis, keepdims=0)
    inside = Inside(op)
    body, _ = inside.body("sizes", [op.size_of(inside.item(s, "X"), [axis])])
    return op.SplitToSequence(dy, op.ConcatFromSequence(op.SequenceMap(s, body=body), axis=0), axis=axis)


@gradient("SplitToSequence")
def split_to_sequence(op, ds, s, x, split=None, *, axis, keepdims):
    """dx is the tensors of ds, joined again."""
    return op.shaped(op.ConcatFromSequence(ds, axis=axis, new_axis=int(split is None and not keepdims)), x), None


@gradient("SequenceMap", all_outputs=True)
def sequence_map(op, dys, ys, *inputs, body):
    """Through the body, tensor by tensor; the gradients of what serves all tensors are summed up."""
    n = len(body.inputs)
    inside = Inside(op)
    items = [inside.item(v, f"X{i + 1}") for i, v in enumerate(inputs[:n])]
    captured = [inside.see(v) for v in inputs[n:]]
    seeds = [dy and inside.item(dy, f"dY{k + 1}") for k, dy in enumerate(dys)]
    formals = [*items, *captured]
    wanted = [i for i, v in enumerate(inputs) if holds_floats(v)]
    xs = [formals[i] for i in wanted]
    found = gradients_through(op, instantiate(body, items, captured), seeds, xs)
    grads = {i: g for i, g in zip(wanted, found, strict=True) if g is not None}
    if not grads:
        return ()
    part, outside = inside.body("step_back", list(grads.values()))
    made = op.SequenceMap(*inputs[:n], *(dy for dy in dys if dy is not None), *outside, body=part)
    result = dict(zip(grads, made if isinstance(made, tuple) else [made], strict=True))
    return tuple(_total(op, result.get(i), v) for i, v in enumerate(inputs))


def _total(op, gradients, like):
    """Return the gradient of an operand: a sequence of gradients, or their sum if it was the same for all tensors."""
    if gradients is None or schema.is_container(like.dtype):
        return gradients
    return op.shaped(op.ReduceSum(op.ConcatFromSequence(gradients, axis=0, new_axis=1), [0], keepdims=0), like)
