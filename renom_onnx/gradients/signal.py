"""Gradients of Fourier transforms. Operators: https://onnx.ai/onnx/operators/.

The transform is a linear map of pairs (real, imaginary); its adjoint is the inverse transform times the length n.
"""

import numpy as np

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.node import known_array


@gradient("DFT", linear_in_each=True)
def dft(op, dy, y, x, length=None, along=None, *, axis, inverse, onesided):
    """dx = n times the inverse transform of dy, cut to the length of x; of an inverse one, the transform over n."""
    if op.opset < 20:
        along = op.constant(axis, np.int64)
    elif along is None:
        along = op.constant(-2, np.int64)
    axes = op.Reshape(op.Cast(along, to=np.int64), [1])
    size, n = (op.Gather(op.shape_of(v), axes) for v in (x, y))
    if length is not None:
        n = op.Reshape(op.Cast(length, to=np.int64), [1])
    elif onesided and not inverse:
        n = size
    if onesided and not inverse:  # the other half is not there, so it has no gradient
        dy = op.Pad(dy, op.vector([0], op.Sub(n, op.Gather(op.shape_of(dy), axes))), None, axes)
    count = op.Cast(n, to=x.dtype)
    dx = _transform(op, dy, along, 1 - inverse)
    dx = op.Div(dx, count) if inverse else op.Mul(dx, count)
    if length is not None or onesided:  # x was cut or prolonged by zeros to n, or is one half
        dx = op.Slice(dx, [0], size, axes)
        dx = op.Pad(dx, op.vector([0], op.Sub(size, op.Gather(op.Shape(dx), axes))), None, axes)
    dx = op.shaped(op.Slice(dx, [0], op.size_of(x, [-1]), [-1]), x)
    return op.Mul(dx, _repeats(op, n, along, x)) if onesided and inverse else dx


def _repeats(op, n, along, x):
    """Return how often the whole spectrum of n frequencies has what its half has in this place: once or twice."""
    one = op.constant(1, x.dtype)
    k = op.CumSum(op.Expand(one, op.shape_of(x)), along, exclusive=1)
    once = op.Or(op.Equal(k, op.zero(x)), op.Equal(op.Add(k, k), op.Cast(n, to=x.dtype)))
    return op.Sub(op.constant(2, x.dtype), op.Cast(once, to=x.dtype))


def _transform(op, x, along, inverse, onesided=0):
    if op.opset >= 20:
        return op.DFT(x, None, along, inverse=inverse, onesided=onesided)
    known = known_array(along)
    assert known is not None
    return op.DFT(x, axis=int(known), inverse=inverse, onesided=onesided)


@gradient("STFT")
def stft(op, dy, y, signal, frame_step, window=None, frame_length=None, *, onesided):
    """y = the transforms of the windowed frames: back through transform, window and frames, which overlap and add."""
    n = op.size_of(window, [0]) if frame_length is None else op.Reshape(op.Cast(frame_length, to=np.int64), [1])
    frames, one = op.size_of(y, [1]), op.constant(1, np.int64)
    starts, offsets = (op.Range(op.zero(one), op.Squeeze(v, [0]), one) for v in (frames, n))
    place = op.Add(op.Mul(op.Unsqueeze(starts, [1]), op.Cast(frame_step, to=np.int64)), offsets)
    framed = op.Gather(signal, place, axis=1)
    if window is not None:
        framed = op.Mul(framed, op.Unsqueeze(window, [1]))
    transformed = _transform(op, framed, op.constant(2, np.int64), 0, onesided)
    wanted = [signal, window]
    d_signal, d_window = gradients_through(op, [transformed], [dy], wanted)
    return d_signal, None, d_window
