"""`Prepared`: a batch that is on its device before its step is taken, and the memory that such batches use in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
Slot = TypeVar("Slot")


class Slots(Generic[Slot]):
    """Input memory for batches of one size: as many as are prepared at the same time, each used again."""

    def __init__(self) -> None:
        self._free: list[Slot] = []
        self._lock = threading.Lock()
        self.made = 0

    def take(self, make: Callable[[], Slot]) -> Slot:
        """Return one that nobody uses."""
        with self._lock:
            if self._free:
                return self._free.pop(0)
            self.made += 1
        return make()

    def give(self, slot: Slot) -> None:
        """Take one back."""
        with self._lock:
            self._free.append(slot)


class Prepared:
    """A batch that `prepare` copied to the device; `step` takes it, once.

    Args:
        content: what the session runs.
        settings: learning rate and the like, which count from its step on.
        release: gives the memory back.
    """

    __slots__ = ("_release", "content", "settings")

    def __init__(self, content: Any, settings: Mapping[str, Array], release: Callable[[], None]) -> None:
        self.content = content
        self.settings = settings
        self._release: Callable[[], None] | None = release

    @property
    def is_used(self) -> bool:
        """Whether its step was taken, or its memory was given back."""
        return self._release is None

    def release(self) -> None:
        """Give the memory back; a batch that nobody steps on is released when it is dropped."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __del__(self) -> None:
        self.release()
