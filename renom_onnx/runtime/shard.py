"""Shards: the rows of a batch that one of several processes reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.graph.distributor import Part

Array = np.ndarray[Any, Any]


class Shard(dict[str, Array]):
    """What one of several processes is fed of a batch: its own rows of what is made of rows, and all else.

    Args:
        feeds: arrays by name; ``session.own_rows(n_rows)`` tells which rows.
        n_rows: of the whole batch.

    Example:
        >>> images = np.zeros((64, 784), np.float32)
        >>> shard = Shard({"x": images[:32]}, 64)
        >>> len(shard["x"]), shard.n_rows
        (32, 64)
    """

    def __init__(self, feeds: Mapping[str, Array], n_rows: int) -> None:
        super().__init__(feeds)
        self.n_rows = n_rows


@dataclass(frozen=True)
class Deal:
    """How batches are dealt to processes.

    Attributes:
        names: of the feeds that are made of rows.
        part: which rows of a batch this process reads.
    """

    names: tuple[str, ...]
    part: Part


def batch_rows(feeds: Mapping[str, Array]) -> int:
    """Return the number of rows of the whole batch."""
    if isinstance(feeds, Shard):
        return feeds.n_rows
    return max([array.shape[0] for array in feeds.values() if array.shape], default=1)


def deal(n_rows: int, n_parts: int) -> list[slice]:
    """Return the rows of each part, in order, as even as can be; the first ones get one more.

    Example:
        >>> deal(5, 3)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size, rest = divmod(n_rows, n_parts)
    starts = [i * size + min(i, rest) for i in range(n_parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(starts)]
