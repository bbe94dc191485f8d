"""Rows that are read when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.graph.element import as_numbers

Array = np.ndarray[Any, Any]


class Rows:
    """A sequence of rows as an array that is read when it is indexed."""

    def __init__(self, source: Any, what: str) -> None:
        self._source = source
        self._what = what
        first = as_numbers(source[0], what)
        self.dtype = first.dtype
        self.shape = (len(source), *first.shape)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: slice | Array) -> Array:
        indices = range(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        if not len(indices):
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.stack([np.asarray(self._source[int(i)], self.dtype) for i in indices])


class Picked:
    """Some rows of an array, by number, that are copied once: to where they are wanted.

    A batch is thus gathered in the memory that a session reads, and not in an array of its own before.

    Args:
        array: has the rows.
        rows: numbers of rows that it has.

    Example:
        >>> picked = Picked(np.array([[1, 2], [3, 4], [5, 6]]), np.array([2, 0]))
        >>> picked.shape, np.asarray(picked).tolist()
        ((2, 2), [[5, 6], [1, 2]])
    """

    __slots__ = ("_array", "_rows", "dtype", "shape")

    def __init__(self, array: Array, rows: Array) -> None:
        self._array, self._rows = array, rows
        self.dtype = array.dtype
        self.shape: tuple[int, ...] = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found: Array = self._array.take(self._rows, axis=0)
        return found if dtype is None else found.astype(dtype, copy=False)

    def astype(self, dtype: Any) -> Array:
        """Return the rows in another type."""
        return self.__array__(dtype)

    def copy_to(self, memory: Array) -> None:
        """Write the rows into an array of their shape and type."""
        self._array.take(self._rows, axis=0, out=memory, mode="clip")  # NumPy buffers the output in other modes
