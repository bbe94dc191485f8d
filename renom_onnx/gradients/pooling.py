"""Gradients of pooling. Operators: https://onnx.ai/onnx/operators/.

The gradient of a maximum goes to the first element that has it, as in PyTorch. A window sum (AveragePool, LpPool) is a
depthwise convolution with ones, and so is its gradient.
"""

from __future__ import annotations

import numpy as np

from renom_onnx.gradients.convolution import conv_adjoint
from renom_onnx.gradients.registry import gradient
from renom_onnx.gradients.window import lay_windows, pixel_count


@gradient("MaxPool", all_outputs=True)
def max_pool(op, dys, ys, x, *, kernel_shape, strides, pads, dilations, auto_pad, ceil_mode, storage_order):
    """dx = dy at the first maximum of each window, summed where windows overlap.

    The body asks MaxPool for the positions of the maxima, which count the elements of the whole tensor, unless the
    model has them already.
    """
    dy = dys[0]
    if len(ys) > 1 and not storage_order:
        indices = ys[1]
    else:
        _, indices = op.MaxPool(
            x,
            outputs=2,
            kernel_shape=kernel_shape,
            strides=strides,
            pads=pads,
            dilations=dilations,
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
        )
    windows = lay_windows(
        op, x, dy, kernel=kernel_shape, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    if windows.are_disjoint and windows.has_sizes and x.dtype == np.float32:
        return _unpool(op, dy, indices, windows, x)
    return _scatter(op, dy, indices, x)


def _unpool(op, dy, indices, windows, x):
    """MaxUnpool overwrites instead of adding, so no two windows may share a pixel; it is five times faster.

    Its kernel and padding do nothing but state the size of its output, (O - 1) * stride + kernel - begin - end, where
    a padding must be smaller than the kernel.
    """
    sizes = zip(windows.image, windows.response, windows.strides, strict=True)
    last = [size - (count - 1) * stride for size, count, stride in sizes]
    kernel = [n if n > 0 else 2 - n for n in last]
    pads = [0 if n > 0 else 1 - n for n in last] * 2
    return op.shaped(op.MaxUnpool(dy, indices, kernel_shape=kernel, strides=windows.strides, pads=pads), x)


def _scatter(op, dy, indices, x):
    """Add dy to zeros at the indices; half precision in float32, in which alone every provider adds rightly."""
    dtype = x.dtype if x.dtype.itemsize >= 4 else np.dtype(np.float32)
    zeros = op.ConstantOfShape(op.shape_of(x), value=np.zeros(1, dtype))
    updates = op.Reshape(dy if dy.dtype == dtype else op.Cast(dy, to=dtype), [-1])
    flat = op.ScatterElements(op.Reshape(zeros, [-1]), op.Reshape(indices, [-1]), updates, reduction="add")
    return op.reshape_like(flat if dtype == x.dtype else op.Cast(flat, to=x.dtype), x)


@gradient("MaxUnpool", linear_in_each=True)
def max_unpool(op, dy, y, x, indices, output_shape=None):
    """dx = dy at the indices, which count the elements of the whole tensor."""
    return op.Gather(op.Reshape(dy, [-1]), indices)


@gradient("GlobalMaxPool")
def global_max_pool(op, dy, y, x):
    """dx = dy at the first maximum of each channel."""
    flat = op.Reshape(x, op.vector([0, 0], pixel_count(op, x)))
    zeros = op.ConstantOfShape(op.Shape(flat), value=np.zeros(1, x.dtype))
    first = op.ArgMax(flat, axis=2)
    return op.reshape_like(op.ScatterElements(zeros, first, op.Reshape(dy, [0, 0, 1]), axis=2), x)


@gradient("AveragePool", linear_in_each=True)
def average_pool(op, dy, y, x, *, kernel_shape, strides, pads, dilations, auto_pad, ceil_mode, count_include_pad):
    """dx = sum of dy / count over the windows that cover the pixel; count is the number of pixels that y averaged."""
    windows = lay_windows(
        op, x, dy, kernel=kernel_shape, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    is_padded = auto_pad.startswith("SAME") or (auto_pad == "NOTSET" and any(pads or ()))
    if not ceil_mode and (count_include_pad or not is_padded):
        return _spread(op, op.Div(dy, windows.n_taps), windows, x)
    ends = [0] * len(kernel_shape)
    if count_include_pad and auto_pad == "NOTSET" and pads:
        ends = pads[len(kernel_shape) :]
    for axis in range(len(kernel_shape)):
        dy = op.Div(dy, _count(op, dy, x, windows, axis, ends[axis], bool(count_include_pad)))
    return _spread(op, dy, windows, x)


def _count(op, dy, x, windows, axis, end, count_include_pad):
    """Return how many taps of each window along one axis are averaged, shaped to divide dy.

    Those inside the image; with count_include_pad also those in its padding, but not those that ceil_mode lets hang
    over it.
    """
    rank, begins = len(windows.kernel), windows.begins
    taps = np.arange(windows.kernel[axis]) * windows.dilations[axis]
    size, number = windows.image[axis], windows.response[axis]
    if isinstance(size, int) and isinstance(number, int) and isinstance(begins, tuple):
        low, high = (-begins[axis], size + end) if count_include_pad else (0, size)
        seen = np.arange(number)[:, None] * windows.strides[axis] - begins[axis] + taps
        counts = ((seen >= low) & (seen < high)).sum(axis=1)
        return op.constant(counts.reshape([-1] + [1] * (rank - 1 - axis)), dy.dtype)
    begin = op.Gather(begins, axis) if not isinstance(begins, tuple) else op.constant(begins[axis], np.int64)
    size, number = (op.Squeeze(op.size_of(v, [2 + axis]), [0]) for v in (x, dy))
    starts = op.Sub(op.Mul(op.Range(0, number, 1), windows.strides[axis]), begin)
    seen = op.Add(op.Unsqueeze(starts, [1]), op.constant(taps, np.int64))
    low, high = (op.Neg(begin), op.Add(size, end)) if count_include_pad else (op.constant(0, np.int64), size)
    inside = op.And(op.GreaterOrEqual(seen, low), op.Less(seen, high))
    counts = op.ReduceSum(op.Cast(inside, to=dy.dtype), [1], keepdims=0)
    return op.Reshape(counts, [-1] + [1] * (rank - 1 - axis))


def _spread(op, dy, windows, x):
    """Return the sum of dy over the windows that cover each pixel: what a depthwise kernel of ones puts back."""
    channels = x.shape[1] if x.shape is not None else None
    if isinstance(channels, int):
        ones = op.constant(np.ones((channels, 1, *windows.kernel)), dy.dtype)
        return conv_adjoint(op, dy, ones, windows, channels, x)
    # A group must be a number: where it is not known, every channel is a sample of its own.
    ones = op.constant(np.ones((1, 1, *windows.kernel)), dy.dtype)
    single = op.Reshape(dy, op.vector([-1, 1], op.size_of(dy, windows.axes)))
    like = op.Reshape(x, op.vector([-1, 1], op.size_of(x, windows.axes)))
    return op.reshape_like(conv_adjoint(op, single, ones, windows, 1, like), x)


@gradient("GlobalAveragePool", linear_in_each=True)
def global_average_pool(op, dy, y, x):
    """dx = dy / n, repeated; n is the number of pixels."""
    return op.expand_like(op.Div(dy, op.Cast(pixel_count(op, x), to=dy.dtype)), x)


@gradient("LpPool")
def lp_pool(op, dy, y, x, *, p, kernel_shape, strides, pads, dilations, auto_pad):
    """y = (sum of |x|^p)^(1/p):  dx = sign(x) |x|^(p-1), times the sum of dy y^(1-p) over the windows of the pixel."""
    windows = lay_windows(
        op, x, dy, kernel=kernel_shape, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    return op.Mul(_power(op, x, p), _spread(op, _over_power(op, dy, y, p), windows, x))


@gradient("GlobalLpPool")
def global_lp_pool(op, dy, y, x, *, p):
    """y = (sum of |x|^p)^(1/p):  dx = dy sign(x) |x|^(p-1) y^(1-p)."""
    return op.Mul(_power(op, x, p), _over_power(op, dy, y, p))


def _power(op, x, p):
    """Return sign(x) |x|^(p-1)."""
    if p == 2:
        return x
    return op.Sign(x) if p == 1 else op.Mul(op.Sign(x), op.Pow(op.Abs(x), op.constant(p - 1, x.dtype)))


def _over_power(op, dy, y, p):
    """Return dy y^(1-p); where y is 0, so is x, and dy may stay as it is."""
    if p == 1:
        return dy
    safe = op.Add(y, op.Cast(op.Equal(y, 0), to=y.dtype))
    return op.Div(dy, safe if p == 2 else op.Pow(safe, op.constant(p - 1, y.dtype)))
