"""Reductions: how the buffers of one process's devices become their sum.

The order is that of the devices, so that the same devices give the same bits, and every device gets the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]

CHUNK = 1 << 15
"""Elements that are added at a time: few enough to stay in a core's cache."""


class Reduction(ABC):
    """Adds and copies buffers of several devices."""

    @abstractmethod
    def sum(self, buffers: Sequence[Tensor]) -> None:
        """Replace every buffer by the sum of all."""

    @abstractmethod
    def copy(self, buffers: Sequence[Tensor]) -> None:
        """Replace every buffer by the first."""


class HostReduction(Reduction):
    """Adds in host memory: in place for devices that live there, by way of it for others.

    Example:
        >>> from renom_onnx.runtime import parse_device
        >>> cpu = parse_device("cpu")
        >>> buffers = [Tensor.from_array(np.full(2, i, np.float32), cpu) for i in (1, 2, 4)]
        >>> HostReduction().sum(buffers)
        >>> [buffer.read().tolist() for buffer in buffers]
        [[7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]
    """

    def sum(self, buffers: Sequence[Tensor]) -> None:
        arrays = [buffer.view() for buffer in buffers]
        _sum(arrays)
        for buffer, array in zip(buffers, arrays, strict=True):
            buffer.commit(array)

    def copy(self, buffers: Sequence[Tensor]) -> None:
        first = buffers[0].read()
        for buffer in buffers[1:]:
            buffer.write(first)


def _sum(arrays: Sequence[Array]) -> None:
    """Replace flat arrays by their sum, added in their order."""
    for start in range(0, len(arrays[0]), CHUNK):
        pieces = [array[start : start + CHUNK] for array in arrays]
        total = pieces[0]
        for piece in pieces[1:]:
            np.add(total, piece, out=total)
        for piece in pieces[1:]:
            np.copyto(piece, total)
