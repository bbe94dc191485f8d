"""The gradient of a convolution with respect to its kernel, as a convolution in the blocked layout.

dw[m, c, k, l] = sum over n, o, p of dy[n, m, o, p] x[n, c, o s + k d, p s + l d], with x padded

**Dense.** b samples are the channels of a block; every row o of the response is a channel block of its own, and every
row of the image that a row of the kernel meets there, for every c, is a line of one image. So the kernel is dy, one
row high and as long as a row of the response; it slides along lines by l, with stride and dilation in each other's
place, and the sum over samples and rows is that over channels. The response holds L elements for each k and c. A part
of the kernel is read from the cache for all lines before the next part comes. (With whole images in the place of rows,
batch and channels swapped, the kernel is all of dy, and is read from memory for every c.)

**Depthwise.** Every channel of every sample is an image of its own, whose kernel is the response, of which the gradient
is as large as the kernel.
"""

from __future__ import annotations

import math

import numpy as np

from renom_onnx.converters.blocked_layout import BlockedWriter, Convolution

FEW_CHANNELS = 4
"""Up to here the portable form is faster."""
MOST_FILLED = 1.25
"""Samples are filled up to whole blocks if that makes no more than this many of one."""


def gains_blocked_kernel(found: Convolution, block: int) -> bool:
    """Whether the gradient is faster in the blocked form. Two blocks of M and two taps along a row keep it busy."""
    if found.is_depthwise:
        return found.fits(block)
    m, c, _, width = found.w
    n = found.x[0]
    is_filled = math.ceil(n / block) * block <= MOST_FILLED * n
    return found.group == 1 and c > FEW_CHANNELS and width > 1 and m % block == 0 and m > block and is_filled


def dense_kernel(op: BlockedWriter, dy: str, x: str, found: Convolution, output: str) -> None:
    """Write the gradient of a dense kernel."""
    b = op.block
    n, c, *image = found.x
    m, _, height, width = found.w
    rows, row = found.y[2:]
    blocks = math.ceil(n / b)
    extents = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(
        found.y[2:], found.strides, found.w[2:], found.dilations, strict=True
    )]  # fmt: skip
    begins = found.pads[:2]
    ends = [extent - size - begin for extent, size, begin in zip(extents, image, begins, strict=True)]

    def filled(value: str) -> str:
        """Return a batch with samples of zeros behind it, for whole blocks."""
        pads = op.integers([0, blocks * b - n])
        return value if n % b == 0 else op.standard("Pad", value, pads, "", op.integers([0]))

    batch = op.op("ReorderInput", op.reshape(filled(x), [1, blocks * b, c * image[0], image[1]]))
    lines = op.reshape(batch, [blocks * c, image[0], image[1] * b])
    if any((*begins, *ends)):
        pads = op.integers([begins[0], begins[1] * b, ends[0], ends[1] * b])
        lines = op.standard("Pad", lines, pads, "", op.integers([1, 2]))
    block, start, tap, channel = np.ogrid[:blocks, :rows, :height, :c]
    met = (block * c + channel) * extents[0] + start * found.strides[0] + tap * found.dilations[0]
    lines = op.reshape(lines, [blocks * c * extents[0], extents[1] * b])
    lines = op.standard("Gather", lines, op.integers(met.ravel()))
    wide = Convolution(
        (1, blocks * b * rows, height * c, extents[1]),
        (m, blocks * b * rows, 1, row),
        (1, m, height * c, width),
        (1, found.dilations[1]),
        (1, found.strides[1]),
        (0, 0, 0, 0),
        1,
    )
    by_sample = op.reshape(filled(op.image(dy)), [blocks, b, m // b, rows, row, b])
    kernel = op.reshape(op.standard("Transpose", by_sample, perm=[2, 0, 3, 4, 1, 5]), wide.w)
    blocked = op.op("Conv", op.reshape(lines, wide.x), kernel, **wide.attributes())
    each = op.standard("Transpose", op.reshape(blocked, [m // b, height, c, width * b]), perm=[0, 2, 1, 3])
    taps = op.reshape(each, [m // b, c * height * width, b])
    op.reshape(op.standard("Transpose", taps, perm=[0, 2, 1]), found.w, output)


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
