"""`BySize`: sessions whose shapes are all known, for the sizes that come often enough."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_FIXED_SESSIONS = 3
"""Sets of sizes that get a session of their own; further ones share one without fixed sizes."""


class BySize(Generic[T]):
    """One thing for each of the first sizes that are asked for, and one for all others.

    Args:
        limit: how many sizes get one of their own.

    Example:
        >>> made = BySize(1)
        >>> [made.get({"N": n}, lambda dims: dims) for n in (8, 5, 8, 0)]
        [{'N': 8}, None, {'N': 8}, None]
    """

    def __init__(self, limit: int = MAX_FIXED_SESSIONS) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._fixed: dict[tuple[tuple[str, int], ...], T] = {}
        self._other: list[T] = []

    def get(self, sizes: Mapping[str, int], make: Callable[[dict[str, int] | None], T]) -> T:
        """Return what serves these sizes of symbols; ``make`` is called with them, or with None for any sizes."""
        key = tuple(sorted(sizes.items()))
        with self._lock:
            if key in self._fixed:
                return self._fixed[key]
            if len(self._fixed) < self._limit and all(size > 0 for size in sizes.values()):
                return self._fixed.setdefault(key, make(dict(sizes)))
            if not self._other:
                self._other.append(make(None))
            return self._other[0]

    def __len__(self) -> int:
        """Return how many were made."""
        return len(self._fixed) + len(self._other)
