"""Distributors: data that a tree takes batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph import seed
from renom_onnx.graph.element import GraphElement, as_numbers
from renom_onnx.graph.node import BATCH, Leaf
from renom_onnx.graph.rows import Picked, Rows
from renom_onnx.graph.site import created_at, user_site

Array = np.ndarray[Any, Any]
Part = Callable[[int, int], slice]
"""Called with the number of a batch and the number of its rows, returns which of the rows are read."""


def as_rows(source: Any, what: str) -> Array | Rows:
    """Return an array as it is, and another object with a length and rows as `Rows`."""
    is_sequence = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not is_sequence or isinstance(source, list | tuple) or hasattr(source, "__array__"):
        return as_numbers(source, what)
    return Rows(source, what) if len(source) else as_numbers(list(source), what)


def _taken(array: Array | Rows, rows: slice | Array) -> Array:
    """Return rows of an array; `take` is faster than an index where they are numbers."""
    if type(array) is np.ndarray and not isinstance(rows, slice):
        taken: Array = array.take(rows, axis=0)
        return taken
    return array[rows]


def _picked(array: Array | Rows, rows: slice | Array) -> Array | Picked:
    """Return rows of an array, to be copied later where that is a copy."""
    if type(array) is np.ndarray and not isinstance(rows, slice):
        return Picked(array, rows)
    return array[rows]


class Stream(Leaf):
    """One output of a distributor: the leaf whose value is the batch at its position."""

    __slots__ = ("distributor", "index")
    label = "Data Dispatcher"

    def __init__(self, distributor: Distributor, index: int, array: Array | Rows, name: str) -> None:
        super().__init__(array.dtype, (BATCH, *array.shape[1:]), name=name)
        self.distributor = distributor
        self.index = index

    def fresh(self) -> Stream:
        """Return a leaf of the same output."""
        return Stream(self.distributor, self.index, self.distributor.arrays[self.index], str(self.name))


class Distributor:
    """Deals sources in batches to the trees that read its outputs; the base of `DistributorElement` and `DataInput`.

    Args:
        kind: the user's class, for errors.
        sources: arrays, rows first (memory-mapped ones are read batch by batch), or objects with ``len()`` whose
            ``[i]`` is a row.
        names: of the outputs.
        batch_size: rows of a batch.
        shuffle: whether the order of the rows is drawn for each epoch.
    """

    has_numbered_rows = True
    """Whether rows can be read one without the others."""

    def __init__(self, kind: str, sources: Sequence[Any], names: Sequence[str], batch_size: int, shuffle: bool) -> None:
        site = created_at(user_site())
        if len(set(names)) != len(sources) or len(names) != len(sources):
            raise ConversionError(
                f"{kind}: names must be as many different ones as there are sources, got {list(names)} for "
                f"{len(sources)}. {site}"
            )
        self.arrays: tuple[Array | Rows, ...] = tuple(
            as_rows(source, f"{kind}: {name}") for source, name in zip(sources, names, strict=True)
        )
        for array, name in zip(self.arrays, names, strict=True):
            if not array.shape:
                raise ShapeError(f"{kind}: {name} must have rows, got a single number. {site}")
        if any(len(array) != len(self.arrays[0]) for array in self.arrays):
            counts = " and ".join(f"{len(a)} of {n}" for a, n in zip(self.arrays, names, strict=True))
            raise ShapeError(f"{kind}: {' and '.join(names)} must have the same number of rows, got {counts}. {site}")
        if batch_size < 1:
            raise ShapeError(f"{kind}: batch_size must be 1 or more, got {batch_size}. {site}")
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.names = tuple(names)
        self.epoch = 0
        self._seed = seed.seed()
        self._positions = [0] * len(self.arrays)
        self._order: tuple[int, Array] | None = None
        self._streams = [Stream(self, i, a, n) for i, (a, n) in enumerate(zip(self.arrays, self.names, strict=True))]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.arrays[0])

    @property
    def n_batches(self) -> int:
        """Number of batches with rows in an epoch."""
        return -(-len(self) // self.batch_size)

    def n_rows(self, position: int) -> int:
        """Return the number of rows of a batch."""
        return max(0, min(self.batch_size, len(self) - position * self.batch_size))

    def rows_of(self, index: int) -> Array | Rows:
        """Return all rows of an output, in the order of the source."""
        return self.arrays[index]

    def get_output_graphs(self) -> tuple[GraphElement, ...]:
        """Return the outputs as elements: (data, target)."""
        return tuple(GraphElement(stream.output) for stream in self._streams)

    getOutputGraphs = get_output_graphs

    def reset(self) -> None:
        """Begin again with the first row, in the order of the next epoch."""
        if any(self._positions):
            self.epoch += 1
        self._positions = [0] * len(self.arrays)

    def rows(self, position: int) -> slice | Array:
        """Return what selects the rows of a batch."""
        start = position * self.batch_size
        if not self.shuffle:
            return slice(start, start + self.batch_size)
        if self._order is None or self._order[0] != self.epoch:
            self._order = (self.epoch, seed.permutation(len(self), self.epoch, self._seed))
        return self._order[1][start : start + self.batch_size]

    def batch(self, indices: Sequence[int], part: slice | None = None) -> dict[int, Array]:
        """Return the next batch of some outputs, the same rows of each; `advance` makes it count.

        Args:
            indices: of the outputs.
            part: which of the batch's rows to read; default: all.

        Raises:
            StopIteration: the data are at their end.
        """
        rows = self.next_rows(indices, part)
        return {i: _taken(self.arrays[i], rows) for i in indices}

    def next_rows(self, indices: Sequence[int], part: slice | None = None) -> slice | Array:
        """Return what selects the rows of the next batch of some outputs, or a part of them.

        Raises:
            StopIteration: the data are at their end.
        """
        position = self.position(indices)
        if position * self.batch_size > len(self):  # the batch that begins at the last row's end is the empty one
            raise StopIteration
        return self._part_of(self.rows(position), part)

    def _part_of(self, rows: slice | Array, part: slice | None) -> slice | Array:
        if part is None:
            return rows
        if isinstance(rows, slice):
            numbers = range(*rows.indices(len(self)))[part]
            return slice(numbers.start, numbers.stop)
        return rows[part]

    def position(self, indices: Sequence[int]) -> int:
        """Return the number of the next batch of some outputs."""
        return max([self._positions[i] for i in indices])

    def advance(self, indices: Sequence[int]) -> None:
        """Move some outputs on to the batch after the one that they have in common."""
        position = self.position(indices)
        for i in indices:
            self._positions[i] = position + 1

    def go_to(self, epoch: int, position: int) -> None:
        """Let the next batch be this one of this epoch."""
        self.epoch = epoch
        self._positions = [position] * len(self._positions)

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Array, ...]]:
        """Yield the batches of one epoch from the first row, without the empty one; leaves the distributor reset."""
        self.reset()
        yield from self.rest(indices)

    def rest(self, indices: Sequence[int], part: Part | None = None, *, lazily: bool = False) -> Iterator[Any]:
        """Yield the batches from the next one to the end of the epoch; leaves the distributor reset.

        Args:
            indices: of the outputs.
            part: tells which rows of each batch to read; default: all.
            lazily: let rows that are numbered be `Picked`.

        Yields:
            A tuple of arrays.
        """
        take = _picked if lazily else _taken
        arrays, n_batches = [self.arrays[i] for i in indices], self.n_batches
        try:
            while (position := self.position(indices)) < n_batches:
                rows = self.rows(position)
                if part is not None:
                    rows = self._part_of(rows, part(position, self.n_rows(position)))
                found = tuple([take(array, rows) for array in arrays])
                for i in indices:
                    self._positions[i] = position + 1
                yield found
        finally:
            self.reset()


class DistributorElement(Distributor):
    """Deals arrays in batches to the trees that read its outputs.

    Each output has its own position, and an evaluation moves it on by one batch, however many paths read it; outputs
    that occur in the same evaluation give the same rows. A batch shorter than `batch_size` is the last. If the rows
    divide evenly, one empty batch follows; then evaluating raises StopIteration until `reset`.

    Args:
        x: data, rows first. The dtype is kept; lists become arrays, memory-mapped arrays are read batch by batch.
        y: targets with as many rows.
        batch_size: rows of a batch.
        shuffle: deal the rows in an order that is a function of (seed, epoch); every `reset` begins the next epoch.
        names: names of the outputs, which the inputs of an exported model have.

    Raises:
        ShapeError: x and y have different numbers of rows, or batch_size is not positive.
        DTypeError: an array holds something else than numbers.
        ConversionError: the names are not two different ones.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> data = rm.graph.DistributorElement(np.arange(3), np.arange(3) * 2, batch_size=2, shuffle=False)
        >>> x, y = data.get_output_graphs()
        >>> print(x, y)
        [0 1] [0 2]
        >>> print(x + y)
        [6]
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        batch_size: int = 64,
        shuffle: bool = True,
        *,
        names: Sequence[str] = ("x", "y"),
    ) -> None:
        super().__init__("DistributorElement", (x, y), names, batch_size, shuffle)
