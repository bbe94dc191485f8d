"""Gradients of Conv and ConvTranspose.

Both are linear in each input. Conv reads an image through windows; its gradient with respect to the image puts every
element of dy back where it came from, which is a ConvTranspose, and vice versa. The gradient with respect to the kernel
correlates image and dy (`kernel_gradient`). Source: Dumoulin & Visin 2016, arXiv:1603.07285.
"""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.kernel_gradient import kernel_gradient
from renom_onnx.gradients.registry import gradient
from renom_onnx.gradients.window import lay_transposed_windows, lay_windows

MANY_CHANNELS = 32
"""From here on onnxruntime's Conv is faster than its ConvTranspose, measured on CPU."""


@gradient("Conv", linear_in_each=True)
def conv(op, dy, y, x, w, b=None, *, strides, pads, dilations, group, auto_pad, kernel_shape):
    """y[n, m, o] = b[m] + sum over c, k of x[n, c, o * stride - begin + k * dilation] * w[m, c, k].

    dx collects, at every pixel, w * dy of all windows that saw it; dw[m, c, k] = sum over n, o of
    dy[n, m, o] * x[n, c, o * stride - begin + k * dilation]; db sums dy.
    """
    kernel = _sizes("Conv", w)[2:]
    windows = lay_windows(op, x, dy, kernel=kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad)
    dx = conv_adjoint(op, dy, w, windows, group, x)
    dw = kernel_gradient(op, x, dy, windows, group, w)
    return dx, dw, None if b is None else op.ReduceSum(dy, [0, *windows.axes], keepdims=0)


@gradient("ConvTranspose", linear_in_each=True)
def conv_transpose(
    op, dy, y, x, w, b=None, *, strides, pads, dilations, group, auto_pad, kernel_shape, output_padding, output_shape
):
    """The mirror of `conv`: its y is what `conv` calls dx. So dx is Conv of dy, and dw correlates dy with x."""
    kernel = _sizes("ConvTranspose", w)[2:]
    windows = lay_transposed_windows(
        op,
        dy,
        x,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        output_padding=output_padding,
        output_shape=output_shape,
    )
    image = dy if windows.pads is not None else windows.pad(op, dy)
    dx = op.Conv(image, w, pads=windows.pads, strides=windows.strides, dilations=windows.dilations, group=group)
    dw = kernel_gradient(op, dy, x, windows, group, w)
    return op.shaped(dx, x), dw, None if b is None else op.ReduceSum(dy, [0, *windows.axes], keepdims=0)


def _sizes(op_type, w):
    if w.shape is None or not all(isinstance(d, int) for d in w.shape):
        raise GradientError(
            f"{op_type}: the gradient must know the sizes of w, got w is {w}. Give w a shape of numbers in the model."
        )
    return w.shape


def conv_adjoint(op, dy, w, windows, group, image):
    """Return the gradient of Conv with respect to its image, from the gradient ``dy`` of its response.

    It is a ConvTranspose. With stride 1 it is also a Conv of dy with the kernel turned around, channels swapped and
    padding extent - 1 - pad; that is faster for kernels of one tap, for groups, and where there are many channels, if
    this padding is small.
    """
    pads = _pads_of_turned_kernel(windows)
    gains = windows.n_taps == 1 or group > 1 or min(w.shape[:2]) >= MANY_CHANNELS
    if pads is not None and max(pads) <= 1 and gains:
        turned = _swap_channels(op, _turn(op, w, windows), group)
        return op.shaped(op.Conv(dy, turned, dilations=windows.dilations, pads=pads, group=group), image)
    return put_back(op, dy, w, windows, group, image)


def put_back(op, dy, w, windows, group, image):
    """Return the sum, at every pixel of ``image``, of w * dy over the windows that cover it."""
    attributes = dict(strides=windows.strides, dilations=windows.dilations, group=group)
    begins, ends = windows.begins, windows.ends
    if windows.is_exact:
        cut, kept = [max(end, 0) for end in ends], [max(-end, 0) for end in ends]
        dx = op.ConvTranspose(dy, w, pads=[*begins, *cut], output_padding=kept, **attributes)
        return op.shaped(dx, image)
    # The number of pixels is known only at run time: make as many as there can be, and cut off the rest.
    most = [stride - 1 for stride in windows.strides]
    starts, stops = [0 for _ in most], op.size_of(image, windows.axes)
    if isinstance(begins, tuple):
        dx = op.ConvTranspose(dy, w, pads=[*begins, *starts], output_padding=most, **attributes)
    else:
        dx = op.ConvTranspose(dy, w, output_padding=most, **attributes)
        starts, stops = begins, op.Add(begins, stops)
    return op.shaped(op.Slice(dx, starts, stops, windows.axes), image)


def _pads_of_turned_kernel(windows):
    """Return the padding with which a Conv puts back, or None where none can."""
    if not windows.has_unit_strides:
        return None
    pads = [
        e - 1 - pad for side in (windows.begins, windows.ends) for e, pad in zip(windows.extents, side, strict=True)
    ]
    return pads if min(pads) >= 0 else None


def _turn(op, w, windows):
    """Return w with its spatial axes reversed."""
    axes = [axis for axis, k in zip(windows.axes, windows.kernel, strict=True) if k > 1]
    if not axes:
        return w
    back = [-1] * len(axes)
    return op.Slice(w, back, [-1 - w.shape[axis] for axis in axes], axes, back)


def _swap_channels(op, w, group):
    """Return w with its two channel axes swapped within each group: (M, C / group, *K) to (C, M / group, *K)."""
    m, c, *kernel = w.shape
    if m == group and c == 1:
        return w
    taps = range(3, 3 + len(kernel))
    if group == 1:
        return op.Transpose(w, perm=[1, 0, *(axis - 1 for axis in taps)])
    grouped = op.Reshape(w, op.constant([group, m // group, c, *kernel], np.int64))
    swapped = op.Transpose(grouped, perm=[0, 2, 1, *taps])
    return op.Reshape(swapped, op.constant([group * c, m // group, *kernel], np.int64))


@gradient("Col2Im", linear_in_each=True)
def col2im(op, dy, y, x, image_shape, block_shape, *, dilations, pads, strides):
    """x holds the blocks of an image, y sums them where they overlap: dx = the blocks of dy."""
    rank = len(strides or dilations or ()) or (len(pads) // 2 if pads else image_shape.shape and image_shape.shape[0])
    if not isinstance(rank, int):
        raise GradientError("Col2Im: the gradient must know the rank of the image, got none. Give it a shape.")
    pads, axes = tuple(pads or (0,) * 2 * rank), list(range(2, 2 + rank))
    padded = op.Pad(dy, op.constant(pads, np.int64), None, axes) if any(pads) else dy
    sizes = op.size_of(padded, axes)
    place = op.constant(0, np.int64)
    for a in range(
        rank
    ):  # the number of a pixel, rows first, in every block (later axes) at every place (earlier ones)
        dilation, stride = (values[a] if values else 1 for values in (dilations, strides))
        size, block = (op.Squeeze(op.Slice(v, [a], [a + 1]), [0]) for v in (sizes, block_shape))
        room = op.Sub(size, op.Add(op.Mul(op.Sub(block, 1), dilation), 1))
        offsets, starts = op.Range(0, block, 1), op.Range(0, op.Add(op.Div(room, stride), 1), 1)
        pixel = op.Add(op.Mul(op.Unsqueeze(offsets, [1]), dilation), op.Mul(starts, stride))
        pixel = op.Unsqueeze(pixel, [b for b in range(2 * rank) if b not in {a, rank + a}])
        place = op.Add(op.Mul(place, size), pixel)
    flat = op.Reshape(padded, [0, 0, -1])
    return op.reshape_like(op.Gather(flat, op.Reshape(place, [-1]), axis=2), x)
