"""The gradient of a convolution with respect to its kernel.

dw[m, c, k] = sum over n, o of response[n, m, o] * image[n, c, o * stride - begin + k * dilation]

This is a product of matrices per sample, response (M, O) times columns (O, C * K), once the pixels that each window
sees have been laid out as a column (im2col), summed over the samples. The textbook form, a convolution with batch and
channels, strides and dilations swapped, has a kernel as large as the response and is 1.5 to 5 times slower on
onnxruntime's CPU provider. Groups are one more batch axis of the product.

Columns take K times the memory of the image, and the products of all samples N times that of the kernel. Where a sample
has much of either, as far as sizes are known, a few samples at a time are laid out, multiplied and added to the sum (a
Scan), so that no more is held than these need. Where it has few pixels for a large kernel, there is one product, which
sums over pixels and samples.
"""

from __future__ import annotations

import functools

import numpy as np

from renom_onnx.gradients.window import pixel_count
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import unknown_dim

FEW_CHANNELS = 4
"""Up to here columns are joined from slices, one per tap; more channels are gathered, one whole pixel at a time."""

FEW_IN_STEPS = 8
"""The same (of a group) where samples are laid out by and by, and slices have runs of `LONG_ROW` pixels."""

LONG_ROW = 14
"""From here on a run of pixels is copied faster than as many pixels of few channels."""

ROW_WINDOWS_PER_TAP = 12
"""Up to here the product over rows saves more than it computes for nothing, measured for widths 7 to 56."""

MOST_BYTES = 256 << 10
"""The most that the columns or the product of a sample take where all of a batch are laid out."""

BATCH_BYTES = 16 << 20
"""The most that those of a batch of known size take; with fewer samples, each may have more."""

STEP_BYTES = 4 << 20
"""The most that those of one step take, where samples are laid out by and by, unless a single one has more: on a CPU,
steps of 16 MiB are slower, and those of less are no faster."""

ROOM = 16 << 20
"""What a sample may have where a device takes the steps of all samples at once."""

SUM_OVER_SAMPLES = "renom_onnx.sum_over_samples"
"""Name of the body that adds the gradient of some samples to a sum; it is right for any number of them. A device may
run it once, for all."""

SUM_OVER_LARGE_SAMPLES = "renom_onnx.sum_over_large_samples"
"""Name of the same where a sample has more than `ROOM`."""


def kernel_gradient(op, image, response, windows, group, w):
    """Return dw, in the shape of w (M, C / group, *K)."""
    m, c = w.shape[0] // group, w.shape[1]
    padded = windows.pad(op, image)
    if m == 1 and c == 1 and group > 1:
        depthwise = _by_rows if _has_short_rows(windows) else _by_taps
        return op.reshape_like(depthwise(op, padded, response, windows), w)
    form = _form(op, image, response, windows, group, w)
    is_in_steps = form not in (_batched, _joined)
    is_sliced = windows.n_taps == 1 or c <= (FEW_IN_STEPS if is_in_steps and _has_runs(windows) else FEW_CHANNELS)
    numbers = None if is_sliced else _pixel_numbers(op, padded, response, windows)
    dw = form(op, padded, response, windows, group, w, numbers)
    if is_sliced:
        return op.reshape_like(dw, w)
    dw = op.Reshape(dw, [group * m, windows.n_taps, c])
    return op.reshape_like(op.Transpose(dw, perm=[0, 2, 1]), w)


def _form(op, image, response, windows, group, w):
    """Return the function that makes the gradient."""
    n = image.shape[0] if image.shape is not None else None
    size, channels = image.dtype.itemsize, group * w.shape[1]
    n_pixels = np.prod(windows.response) if windows.has_sizes else np.inf
    pixel = channels * windows.n_taps * size
    columns = pixel * n_pixels if windows.n_taps > 1 else 0
    product = np.prod(w.shape) * size
    most = MOST_BYTES
    if windows.has_sizes:
        most = max(most, (channels * np.prod(windows.image) + w.shape[0] * n_pixels) * size)
    if isinstance(n, int) and n > 0:
        most = max(most, BATCH_BYTES // n)
    if n in (0, 1) or max(columns, product) <= most:
        return _batched
    if columns <= most and n_pixels < w.shape[0] // group:
        return _joined
    if columns < np.inf:
        sample = max(columns, product)
        name = SUM_OVER_SAMPLES if sample <= ROOM else SUM_OVER_LARGE_SAMPLES
        step = op.constant([max(1, int(STEP_BYTES / sample))], np.int64)
    else:
        name = SUM_OVER_SAMPLES
        step = op.Div(op.constant([STEP_BYTES // pixel], np.int64), op.Max(pixel_count(op, response), 1))
        step = op.Max(op.Min(step, STEP_BYTES // product), 1)
    return functools.partial(_summed, image=image, step=step, name=name)


def _batched(op, padded, response, windows, group, w, numbers):
    """One product for each sample, and their sum: (group, M / group, C / group * K), with K first where gathered."""
    m, c = w.shape[0] // group, w.shape[1]
    rows = op.Reshape(response, op.vector([0, group, m], pixel_count(op, response)))
    if numbers is None:
        columns = op.Transpose(_sliced_columns(op, padded, response, windows, group, c), perm=[0, 1, 3, 2])
    else:
        pixels = _gathered_pixels(op, padded, numbers, group, c)
        columns = op.Reshape(pixels, op.vector([0, group], pixel_count(op, response), [windows.n_taps * c]))
    return op.ReduceSum(op.MatMul(rows, columns), [0], keepdims=0)


def _joined(op, padded, response, windows, group, w, numbers, total=None):
    """One product, which sums over pixels and samples, and adds what is given: (group,) M / group, C / group * K."""
    m, c = w.shape[0] // group, w.shape[1]
    groups = [] if group == 1 else [group]
    rows = op.Reshape(response, op.vector([0, group, m], pixel_count(op, response)))
    rows = op.Reshape(op.Transpose(rows, perm=[1, 2, 0, 3]), [*groups, m, -1])
    if numbers is None:
        columns = op.Transpose(_sliced_columns(op, padded, response, windows, group, c), perm=[1, 2, 0, 3])
        columns = op.Reshape(columns, [*groups, windows.n_taps * c, -1])
    else:
        pixels = _gathered_pixels(op, padded, numbers, group, c, groups_first=group > 1)
        columns = op.Reshape(pixels, [*groups, -1, windows.n_taps * c])
    if group == 1:
        return op.Gemm(rows, columns, total, transB=int(numbers is None))
    product = op.MatMul(rows, op.Transpose(columns, perm=[0, 2, 1]) if numbers is None else columns)
    return product if total is None else op.Add(total, product)


def _summed(op, padded, response, windows, group, w, numbers, *, image, step, name):
    """One of these for some samples at a time, as many as ``step`` says, added to the sum of those before."""
    parts = w.shape[0] // group, w.shape[1] * windows.n_taps
    shape = parts if group == 1 else (group, *parts)
    source = image if windows.has_sizes else padded  # where sizes are known, samples are padded when their turn comes
    inside = Inside(op)
    total, start = inside.input(w.dtype, shape, "total"), inside.input(np.dtype(np.int64), (), "start")
    start = op.Unsqueeze(start, [0])
    end = op.Add(start, inside.see(step))
    some, dy = (op.Slice(inside.see(v), start, end, [0]) for v in (source, response))
    some.shape, dy.shape = (v.shape and (unknown_dim(), *v.shape[1:]) for v in (source, response))
    some = windows.pad(op, some) if windows.has_sizes else some
    operands = (some, dy, windows, group, w, None if numbers is None else inside.see(numbers))
    if numbers is None:  # few channels: their products are small, and to lay out columns anew takes longer
        following = op.Add(total, op.Reshape(_batched(op, *operands), list(shape)))
    else:
        following = _joined(op, *operands, total)
    body, outside = inside.body(name, [op.shaped(following, total)])
    n = op.Max(op.size_of(image, [0]), 1)  # runtimes refuse a Scan without a step
    starts = op.Range(0, op.Squeeze(n, [0]), op.Squeeze(step, [0]))
    return op.Scan(_zeros(op, w, shape), starts, *outside, body=body, num_scan_inputs=1)


def _zeros(op, w, shape):
    """Return zeros that are made in every run: a runtime would keep a constant, of the size of the kernel, for good."""
    first = op.Slice(w, [0] * w.rank, [1] * w.rank)
    zero = op.Cast(op.Greater(first, first), to=w.dtype)  # even where the weight is not a number
    return op.Expand(op.Reshape(zero, [1]), list(shape))


def _sliced_columns(op, padded, response, windows, group, c):
    """Return (N, group, C / group * K, O): one strided slice of the image per tap."""
    taps = [op.Unsqueeze(windows.tap(op, padded, offset), [2]) for offset in windows.offsets()]
    joined = op.Concat(*taps, axis=2) if len(taps) > 1 else taps[0]
    return op.Reshape(joined, op.vector([0, group, c * len(taps)], pixel_count(op, response)))


def _gathered_pixels(op, padded, numbers, group, c, *, groups_first=False):
    """Return what windows see, (N, group, O * K, C / group): channels last, so that a pixel is one run of memory.

    With ``groups_first`` the first two axes are one, (group * N, O * K, C / group).
    """
    channels_first = op.Reshape(padded, op.vector([0, group, c], pixel_count(op, padded)))
    if groups_first:
        channels_first = op.Transpose(channels_first, perm=[1, 0, 2, 3])
        joined = op.Reshape(channels_first, op.vector([-1, c], pixel_count(op, padded)))
        return op.Gather(op.Transpose(joined, perm=[0, 2, 1]), numbers, axis=1)
    return op.Gather(op.Transpose(channels_first, perm=[0, 1, 3, 2]), numbers, axis=2)


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


def _has_runs(windows):
    """Whether a slice has long runs of pixels, as far as is known."""
    row = windows.response[-1]
    return windows.has_unit_strides and isinstance(row, int) and row >= LONG_ROW
