"""The distributor of the v2.0 API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from renom_onnx.graph.distributor import DistributorElement

Array = np.ndarray[Any, Any]


class NdarrayDistributor:
    """Deals two arrays in batches.

    Args:
        x: data, rows first.
        y: targets with as many rows.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> for x, y in rm.NdarrayDistributor(np.arange(3), np.arange(3)).batch(batch_size=2, shuffle=False):
        ...     print(x, y)
        [0 1] [0 1]
        [2] [2]
    """

    def __init__(self, x: Any, y: Any) -> None:
        self._x = x
        self._y = y
        self._shuffled = DistributorElement(x, y, batch_size=max(len(x), 1), shuffle=True)

    def __len__(self) -> int:
        return len(self._shuffled)

    def batch(self, batch_size: int = 64, shuffle: bool = True) -> Iterator[tuple[Array, Array]]:
        """Yield pairs of arrays; a shuffled pass has an order of its own each time."""
        data = DistributorElement(self._x, self._y, batch_size=batch_size, shuffle=shuffle)
        if shuffle:
            data.epoch = self._shuffled.epoch
            self._shuffled.epoch += 1
        yield from data.batches([0, 1])  # type: ignore[misc]  # two outputs, so pairs
