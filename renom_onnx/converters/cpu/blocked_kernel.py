"""The gradient of a convolution with respect to its kernel, as a convolution in the blocked layout.

dw[m, c, k, l] = sum over n, o, p of dy[n, m, o, p] x[n, c, o s + k d, p s + l d], with x padded

**Dense.** b samples are the channels of a block; every row o of the response is a channel block of its own, and every
row of the image that a row of the kernel meets there, for every c, is a line of one image. So the kernel is dy, one
row high and as long as a row of the response; it slides along lines by l, with stride and dilation in each other's
place, and the sum over samples and rows is that over channels. The response holds L elements for each k and c. A part
of the kernel is read from the cache for all lines before the next part comes. (With whole images in the place of rows,
batch and channels swapped, the kernel is all of dy, and is read from memory for every c.) Groups are groups there too,
each with all parts.

**Depthwise.** Every channel of every sample is an image of its own, whose kernel is the response, of which the gradient
is as large as the kernel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from renom_onnx.converters.cpu.blocked_layout import BlockedWriter, Convolution

FEW_CHANNELS = 4
"""Up to here the portable form is faster."""
MOST_FILLED = 1.25
"""Samples and channels are filled up to whole blocks if that makes no more than this many of one."""
MOST_BYTES = 16 << 20
"""The most that is gathered at once, about; more is gathered and multiplied in steps, which takes no longer."""


def gains_blocked_kernel(found: Convolution, block: int) -> bool:
    """Whether the gradient is faster in the blocked form.

    Two blocks of M and two taps along a row keep it busy. One block of a group is enough, as its other form is slower.
    """
    if found.is_depthwise:
        return found.fits(block)
    m, c, _, width = found.w
    is_filled = all(_filled(size, block) <= MOST_FILLED * size for size in (m, found.x[0]))
    is_busy = m > block if found.group == 1 else m // found.group % block == 0
    return c > FEW_CHANNELS and width > 1 and is_busy and is_filled


def _filled(size: int, block: int) -> int:
    """Return the size of whole blocks that hold so many."""
    return math.ceil(size / block) * block


def dense_kernel(op: BlockedWriter, dy: str, x: str, found: Convolution, output: str) -> None:
    """Write the gradient of a dense kernel."""
    b = op.block
    m, c, height, width = found.w
    lanes, n = (_filled(size, b) for size in (m, found.x[0]))
    rows, row = found.y[2:]
    parts = n // b * rows
    by_row = op.reshape(_response(op, dy, found, n, lanes), [lanes // b, parts, row * b * b])
    lines, met = _lines(op, x, found, n)
    n_steps = min(math.ceil(4 * met.size * b * (found.x[3] + width) / MOST_BYTES), parts)
    blocked = ""
    for numbers in np.array_split(np.arange(parts), n_steps):
        wide = Convolution(
            (
                1,
                found.group * len(numbers) * b,
                height * c,
                (row - 1) * found.strides[1] + (width - 1) * found.dilations[1] + 1,
            ),
            (lanes, len(numbers) * b, 1, row),
            (1, lanes, height * c, width),
            (1, found.dilations[1]),
            (1, found.strides[1]),
            (0, 0, 0, 0),
            found.group,
        )
        kernel = by_row
        if n_steps > 1:
            first, last = op.integers([numbers[0]]), op.integers([numbers[-1] + 1])
            kernel = op.standard("Slice", by_row, first, last, op.integers([1]))
        image = op.standard("Gather", lines, op.integers(met[:, numbers].ravel()))
        step = op.op("Conv", op.reshape(image, wide.x), op.reshape(kernel, wide.w), **wide.attributes())
        blocked = op.standard("Add", blocked, step) if blocked else step  # as Sum of Conv, all would be gathered first
    each = op.standard("Transpose", op.reshape(blocked, [lanes // b, height, c, width * b]), perm=[0, 2, 1, 3])
    taps = op.reshape(each, [lanes // b, c * height * width, b])
    kernels = op.reshape(op.standard("Transpose", taps, perm=[0, 2, 1]), [lanes, *found.w[1:]])
    ends = (op.integers([0]), op.integers([m]), op.integers([0]))
    op.standard(*(("Identity", kernels) if lanes == m else ("Slice", kernels, *ends)), output=output)


def _response(op: BlockedWriter, dy: str, found: Convolution, n: int, lanes: int) -> str:
    """Return dy with samples and channels of zeros behind it, as (lanes / b, n / b, rows, row, b of n, b of lanes)."""
    b = op.block
    more = lanes - found.w[0]
    blocked = op.op("ReorderInput", _with_zeros(op, dy, 1, more)) if more else op.image(dy)
    by_sample = op.reshape(_with_zeros(op, blocked, 0, n - found.x[0]), [n // b, b, lanes // b, *found.y[2:], b])
    return op.standard("Transpose", by_sample, perm=[2, 0, 3, 4, 1, 5])


def _lines(op: BlockedWriter, x: str, found: Convolution, n: int) -> tuple[str, np.ndarray[Any, Any]]:
    """Return the padded rows of blocks of samples, and those that a row of the response meets: by group, tap and c."""
    b = op.block
    _, c, *image = found.x
    extents = [
        (o - 1) * s + (k - 1) * d + 1
        for o, s, k, d in zip(found.y[2:], found.strides, found.w[2:], found.dilations, strict=True)
    ]
    begins = found.pads[:2]
    ends = [extent - size - begin for extent, size, begin in zip(extents, image, begins, strict=True)]
    batch = op.reshape(_with_zeros(op, x, 0, n - found.x[0]), [1, n, c * image[0], image[1]])
    lines = op.reshape(op.op("ReorderInput", batch), [n // b * c, image[0], image[1] * b])
    if any((*begins, *ends)):
        pads = op.integers([begins[0], begins[1] * b, ends[0], ends[1] * b])
        lines = op.standard("Pad", lines, pads, "", op.integers([1, 2]))
    block, start, tap, channel = np.ogrid[: n // b, : found.y[2], : found.w[2], :c]
    met = (block * c + channel) * extents[0] + start * found.strides[0] + tap * found.dilations[0]
    met = met.reshape(-1, found.w[2], found.group, found.w[1]).transpose(2, 0, 1, 3)
    return op.reshape(lines, [n // b * c * extents[0], extents[1] * b]), met


def _with_zeros(op: BlockedWriter, value: str, axis: int, count: int) -> str:
    """Return a value with zeros behind it along an axis."""
    return op.standard("Pad", value, op.integers([0, count]), "", op.integers([axis])) if count else value


def depthwise_kernel(op: BlockedWriter, dy: str, x: str, found: Convolution, output: str) -> None:
    """Write the gradient of a depthwise kernel."""
    n, c, *image = found.x
    taps, response = found.w[2:], found.y[2:]
    per_axis = zip(image, response, taps, found.strides, found.dilations, found.pads[:2], strict=True)
    ends = [max((o - 1) * s + (k - 1) * d + 1 - size - begin, 0) for size, o, k, s, d, begin in per_axis]
    wide = Convolution(
        (1, n * c, *image),
        (n * c, 1, *response),
        (),
        found.dilations,
        found.strides,
        (*found.pads[:2], *ends),
        n * c,
    )
    sizes = zip(image, response, wide.dilations, wide.strides, wide.pads[:2], ends, strict=True)
    made = [(size + begin + end - (o - 1) * s - 1) // d + 1 for size, o, s, d, begin, end in sizes]
    blocked = op.op("Conv", op.reshape(op.image(x), wide.x), op.reshape(op.image(dy), wide.w), **wide.attributes())
    each = op.reshape(blocked, [n, c // op.block, *made, op.block])
    if made != list(taps):  # there are pixels behind the last window
        each = op.standard("Slice", each, op.integers([0, 0]), op.integers(taps), op.integers([2, 3]))
    summed = op.standard("ReduceSum", each, op.integers([0]), keepdims=0)
    op.reshape(op.standard("Transpose", summed, perm=[0, 3, 1, 2]), found.w, output)
