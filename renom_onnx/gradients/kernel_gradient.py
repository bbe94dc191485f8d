"""The gradient of a convolution with respect to its kernel.

dw[m, c, k] = sum over n, o of response[n, m, o] * image[n, c, o * stride - begin + k * dilation]

This is a product of matrices per sample, response (M, O) times columns (O, C * K), once the pixels that each window
sees have been laid out as a column (im2col), summed over the samples. The textbook form, a convolution with batch and
channels, strides and dilations swapped, has a kernel as large as the response and is 1.5 to 5 times slower on
onnxruntime's CPU provider. Groups are one more batch axis of the product.
"""

from __future__ import annotations

import numpy as np

from renom_onnx.gradients.window import pixel_count

FEW_CHANNELS = 4
"""Up to here columns are joined from slices, one per tap; more channels are gathered, one whole pixel at a time."""

ROW_WINDOWS_PER_TAP = 12
"""Up to here the product over rows saves more than it computes for nothing, measured for widths 7 to 56."""


def kernel_gradient(op, image, response, windows, group, w):
    """Return dw, in the shape of w (M, C / group, *K)."""
    m, c = w.shape[0] // group, w.shape[1]
    padded = windows.pad(op, image)
    if m == 1 and c == 1 and group > 1:
        depthwise = _by_rows if _has_short_rows(windows) else _by_taps
        return op.reshape_like(depthwise(op, padded, response, windows), w)
    rows = op.Reshape(response, op.vector([0, group, m], pixel_count(op, response)))
    if windows.n_taps == 1 or c <= FEW_CHANNELS:
        columns = _sliced_columns(op, padded, response, windows, group, c)
        product = op.MatMul(rows, op.Transpose(columns, perm=[0, 1, 3, 2]))
        return op.reshape_like(op.ReduceSum(product, [0], keepdims=0), w)
    product = op.MatMul(rows, _gathered_columns(op, padded, response, windows, group, c))
    dw = op.Reshape(op.ReduceSum(product, [0], keepdims=0), [group * m, windows.n_taps, c])
    return op.reshape_like(op.Transpose(dw, perm=[0, 2, 1]), w)


def _sliced_columns(op, padded, response, windows, group, c):
    """Return (N, group, C / group * K, O): one strided slice of the image per tap."""
    taps = [op.Unsqueeze(windows.tap(op, padded, offset), [2]) for offset in windows.offsets()]
    joined = op.Concat(*taps, axis=2) if len(taps) > 1 else taps[0]
    return op.Reshape(joined, op.vector([0, group, c * len(taps)], pixel_count(op, response)))


def _gathered_columns(op, padded, response, windows, group, c):
    """Return (N, group, O, K * C / group): channels last, so that each gathered pixel is one run of memory."""
    channels_first = op.Reshape(padded, op.vector([0, group, c], pixel_count(op, padded)))
    pixels = op.Transpose(channels_first, perm=[0, 1, 3, 2])
    columns = op.Gather(pixels, _pixel_numbers(op, padded, response, windows), axis=2)
    return op.Reshape(columns, op.vector([0, group], pixel_count(op, response), [windows.n_taps * c]))


def _pixel_numbers(op, padded, response, windows):
    """Return int64[O * K]: for every window and tap, the number of the pixel in the flattened padded image."""
    rank = len(windows.kernel)
    numbers = None
    for i, axis in enumerate(windows.axes):
        along = np.arange(windows.kernel[i]) * windows.dilations[i]
        taps = op.constant(along.reshape([-1 if a == rank + i else 1 for a in range(2 * rank)]), np.int64)
        here = op.Add(_window_starts(op, response, windows, i), taps)
        numbers = here if numbers is None else op.Add(op.Mul(numbers, op.size_of(padded, [axis])), here)
    return op.Reshape(numbers, [-1])


def _window_starts(op, response, windows, i):
    """Return the first pixel of every window along one axis, shaped to broadcast over (*O, *K)."""
    shape = [-1 if axis == i else 1 for axis in range(2 * len(windows.kernel))]
    count, stride = windows.response[i], windows.strides[i]
    if isinstance(count, int):
        return op.constant((np.arange(count) * stride).reshape(shape), np.int64)
    number = op.Range(0, op.Squeeze(op.size_of(response, [2 + i]), [0]), 1)
    return op.Reshape(op.Mul(number, stride), shape)


def _by_taps(op, padded, response, windows):
    """Depthwise: one product and sum over the image per tap."""
    axes = [0, *windows.axes]
    taps = [op.Mul(windows.tap(op, padded, offset), response) for offset in windows.offsets()]
    sums = [op.Unsqueeze(op.ReduceSum(tap, axes, keepdims=0), [1]) for tap in taps]
    return op.Concat(*sums, axis=1) if len(sums) > 1 else sums[0]


def _by_rows(op, padded, response, windows):
    """Depthwise in two dimensions: (C, W, N O) x (C, N O, O) per row of the kernel, of which the diagonals are taps.

    The product multiplies every pixel of an image row with every element of the response row, of which only K are
    needed; still it takes half the time of `_by_taps`, because it reads the image once per row and not once per tap.
    """
    width = windows.response[1]
    image = op.Transpose(padded, perm=[1, 0, 2, 3])
    dy = op.Reshape(op.Transpose(response, perm=[1, 0, 2, 3]), [0, -1, width])
    (height, _), (stride, step), (k, _) = windows.response, windows.strides, windows.kernel
    products = []
    for start in range(0, k * windows.dilations[0], windows.dilations[0]):
        rows = op.Slice(image, [start], [start + (height - 1) * stride + 1], [2], [stride])
        rows = op.Reshape(rows, [0, -1, padded.shape[3]])
        product = op.MatMul(op.Transpose(rows, perm=[0, 2, 1]), dy)
        products.append(op.Reshape(product, [0, 1, -1]))
    taps, windows_of_row = np.arange(windows.kernel[1])[:, None] * windows.dilations[1], np.arange(width)
    diagonals = (windows_of_row * step + taps) * width + windows_of_row
    joined = op.Concat(*products, axis=1) if k > 1 else products[0]
    return op.ReduceSum(op.Gather(joined, op.constant(diagonals, np.int64), axis=2), [3], keepdims=0)


def _has_short_rows(windows):
    if len(windows.kernel) != 2 or windows.n_taps == 1 or not windows.has_sizes:
        return False
    return windows.response[1] <= ROW_WINDOWS_PER_TAP * windows.kernel[1]
