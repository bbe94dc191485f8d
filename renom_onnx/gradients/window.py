"""Where the windows of a convolution or a pooling lie: the geometry that their gradients share.

Window o of an axis covers the pixels o * stride - begin + k * dilation of the image, for taps k = 0, 1, … of the
kernel. The image is the side that is slid over (x of Conv, y of ConvTranspose), the response the side with one element
per window. Source: Dumoulin & Visin 2016, arXiv:1603.07285.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Dim, Value


@dataclass(frozen=True)
class Windows:
    """The windows over the spatial axes of an image (N, C, *S) whose response is (N, M, *O).

    Attributes:
        kernel, strides, dilations: per spatial axis.
        begins: pixels of padding before the image; a value where only the run knows them.
        ends: pixels of padding behind it, negative where the last pixels are in no window.
        is_exact: whether ``ends`` is that exactly, so that (O - 1) * stride + extent = begin + S + end; else up to
            stride - 1 pixels of it are in no window.
        image, response: S and O.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...] | Value
    ends: tuple[int, ...] | Value
    is_exact: bool
    image: tuple[Dim, ...]
    response: tuple[Dim, ...]

    @property
    def axes(self) -> list[int]:
        """The spatial axes of a tensor with batch and channels."""
        return list(range(2, 2 + len(self.kernel)))

    @property
    def extents(self) -> tuple[int, ...]:
        """From the first to the last pixel of a window, both included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def n_taps(self) -> int:
        """Number of elements of the kernel."""
        return int(np.prod(self.kernel))

    @property
    def has_sizes(self) -> bool:
        """Whether S and O are numbers."""
        return all(isinstance(d, int) for d in (*self.image, *self.response))

    @property
    def has_unit_strides(self) -> bool:
        """Whether the window moves by one pixel along every axis."""
        return set(self.strides) == {1}

    @property
    def are_disjoint(self) -> bool:
        """Whether no pixel is in two windows."""
        return all(s >= e for s, e in zip(self.strides, self.extents, strict=True))

    @property
    def pads(self) -> tuple[int, ...] | None:
        """Padding for the attribute of a Conv that makes one element per window, None where only Pad can do it."""
        if not isinstance(self.begins, tuple) or not isinstance(self.ends, tuple):
            return None
        if any(end <= -stride for end, stride in zip(self.ends, self.strides, strict=True)):
            return None
        return *self.begins, *(max(end, 0) for end in self.ends)

    def pad(self, op: Builder, image: Value) -> Value:
        """Return the image with its padding of zeros, at least as far as windows reach."""
        if self.pads is not None and not any(self.pads):
            return image
        return op.Pad(image, op.vector(self.begins, self.ends), None, self.axes)  # type: ignore[no-any-return]

    def tap(self, op: Builder, padded: Value, offset: Sequence[int]) -> Value:
        """Return what one tap of the kernel sees of the padded image: the pixel at ``offset`` in every window.

        Counted from the end, because there may be up to stride - 1 pixels more, of which the steps take no notice.
        """
        if self.n_taps == 1 and self.has_unit_strides:
            return padded
        starts = [k * d for k, d in zip(offset, self.dilations, strict=True)]
        behind = [e - 1 - start for e, start in zip(self.extents, starts, strict=True)]
        ends = [-n if n else np.iinfo(np.int64).max for n in behind]
        return op.Slice(padded, starts, ends, self.axes, list(self.strides))  # type: ignore[no-any-return]

    def offsets(self) -> list[tuple[int, ...]]:
        """Return the taps of the kernel, last axis fastest."""
        return list(np.ndindex(self.kernel))


def pixel_count(op: Builder, value: Value) -> Value:
    """Return the number of elements of one channel of one sample as int64[1]: a constant where it is known.

    Reshape is told this number and not "the rest", -1, because there is no rest to divide in an empty batch.
    """
    spatial = value.shape[2:] if value.shape is not None else ("?",)
    sizes = [d for d in spatial if isinstance(d, int)]
    if len(sizes) == len(spatial):
        return op.constant([np.prod(sizes)], np.int64)
    return op.ReduceProd(op.Shape(value, start=2))  # type: ignore[no-any-return]


def lay_windows(
    op: Builder,
    image: Value,
    response: Value,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Windows:
    """Return the windows of Conv or a pooling: ``image`` is x, ``response`` is y or dy."""
    geometry = _Axes(op, image, response, kernel, strides, dilations)
    rank = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return geometry.split(auto_pad, overhang=[0] * rank)
    explicit = tuple(pads) if pads and auto_pad != "VALID" else (0,) * (2 * rank)
    return geometry.at(explicit[:rank], explicit[rank:])


def lay_transposed_windows(
    op: Builder,
    image: Value,
    response: Value,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    output_padding: Sequence[int] | None,
    output_shape: Sequence[int] | None,
) -> Windows:
    """Return the windows of ConvTranspose: ``image`` is y or dy, ``response`` is x."""
    geometry = _Axes(op, image, response, kernel, strides, dilations)
    rank = len(kernel)
    overhang = list(output_padding or [0] * rank)
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return geometry.split(auto_pad, overhang)
    explicit = tuple(pads) if pads and auto_pad != "VALID" else (0,) * (2 * rank)
    ends = tuple(end - over for end, over in zip(explicit[rank:], overhang, strict=True))
    return geometry.at(explicit[:rank], ends, is_exact=True)


class _Axes:
    """Kernel, strides, dilations and sizes, from which the padding follows."""

    def __init__(self, op: Builder, image: Value, response: Value, kernel: Any, strides: Any, dilations: Any) -> None:
        rank = len(kernel)
        self._op = op
        self._values = image, response
        self.kernel = tuple(kernel)
        self.strides = tuple(strides or (1,) * rank)
        self.dilations = tuple(dilations or (1,) * rank)
        self.image, self.response = ((v.shape or ("?",) * (2 + rank))[2:] for v in (image, response))

    def at(self, begins: Any, ends: Any, is_exact: bool = False) -> Windows:
        """Return the windows for known padding; ``ends`` becomes exact where the sizes allow it."""
        if isinstance(begins, tuple):
            needed = self._needed()
            if needed is not None:
                ends = tuple(n - begin for n, begin in zip(needed, begins, strict=True))
            is_exact = is_exact or needed is not None or set(self.strides) == {1}
        return Windows(self.kernel, self.strides, self.dilations, begins, ends, is_exact, self.image, self.response)

    def split(self, auto_pad: str, overhang: Sequence[int]) -> Windows:
        """Return the windows whose padding is divided between both sides, an odd pixel as the operator says."""
        totals = self._needed(overhang)
        if totals is None and set(self.strides) == {1} and not any(overhang):
            totals = [(k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True)]
        if totals is not None:
            halves = [max(total, 0) // 2 for total in totals]
            begins = [h if auto_pad == "SAME_UPPER" else max(t, 0) - h for h, t in zip(halves, totals, strict=True)]
            ends = tuple(t - begin - o for t, begin, o in zip(totals, begins, overhang, strict=True))
            return self.at(tuple(begins), ends)
        return self._split_at_run_time(auto_pad, overhang)

    def _needed(self, overhang: Sequence[int] | None = None) -> list[int] | None:
        """Return (O - 1) * stride + extent + overhang - S, the padding of both sides; None where sizes are symbols."""
        sizes = zip(self.image, self.response, self.kernel, self.strides, self.dilations, strict=True)
        totals = [
            (o - 1) * stride + (k - 1) * dilation + 1 - s
            for s, o, k, stride, dilation in sizes
            if isinstance(s, int) and isinstance(o, int)
        ]
        if len(totals) < len(self.kernel):
            return None
        return [total + over for total, over in zip(totals, overhang or [0] * len(totals), strict=True)]

    def _split_at_run_time(self, auto_pad: str, overhang: Sequence[int]) -> Windows:
        op, axes = self._op, list(range(2, 2 + len(self.kernel)))
        image, response = (op.size_of(v, axes) for v in self._values)
        last = op.Mul(op.Sub(response, 1), op.constant(self.strides, np.int64))
        extents = [(k - 1) * d + 1 + o for k, d, o in zip(self.kernel, self.dilations, overhang, strict=True)]
        total = op.Max(op.Sub(op.Add(last, op.constant(extents, np.int64)), image), 0)
        half = op.Div(total, 2)
        begins = half if auto_pad == "SAME_UPPER" else op.Sub(total, half)
        return self.at(begins, op.Sub(op.Sub(total, begins), op.constant(overhang, np.int64)))
