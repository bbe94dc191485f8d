"""Iterables as data: rows or batches that come one after the other, and whose number only their end tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, DTypeError, RunError, ShapeError
from renom_onnx.graph.distributor import Distributor, Part, Stream
from renom_onnx.graph.element import as_numbers
from renom_onnx.graph.node import type_text
from renom_onnx.graph.site import created_at, user_site

Array = np.ndarray[Any, Any]

MAX_LAG = 16
"""Batches that are kept for an output that is read later than another."""


def is_iterable_only(source: Any) -> bool:
    """Whether a source can be read one item after the other and in no other way."""
    return isinstance(source, Iterable) and not (hasattr(source, "__len__") and hasattr(source, "__getitem__"))


class IterableDistributor(Distributor):
    """Deals what an iterable gives, in its order.

    Args:
        kind: the user's class, for errors.
        sources: one iterable whose items are a row, or a tuple, list or dict of the rows of several outputs, or several
            iterables, of which each gives the rows of one output.
        names: of the outputs; default: the keys of a dict, else x, y, input3, ….
        batch_size: rows of a batch; None where the items are batches already.
    """

    has_numbered_rows = False

    def __init__(self, kind: str, sources: Sequence[Any], names: Sequence[str] | None, batch_size: int | None) -> None:
        self._kind = kind
        self._site = created_at(user_site())
        if batch_size is not None and batch_size < 1:
            raise ShapeError(f"{kind}: batch_size must be 1 or more, got {batch_size}. {self._site}")
        self._sources = sources
        self._n_rows_asked = batch_size
        self._iterator: Iterator[Any] | None = self._begin()
        first = next(self._iterator, None)
        if first is None:
            got = " and ".join(type(source).__name__ for source in sources)
            raise ShapeError(
                f"{kind}: an iterable must have a first item, which tells types and sizes, got an empty {got}. "
                f"{self._site}"
            )
        self._iterator = chain([first], self._iterator)
        self._keys = list(first) if isinstance(first, Mapping) else None
        parts = self._parts(first, None)
        self.names = tuple(names if names is not None else self._keys or default_names(len(parts)))
        if len(set(self.names)) != len(parts) or len(self.names) != len(parts):
            raise ConversionError(
                f"{kind}: names must be as many different ones as an item has parts, got {list(self.names)} for "
                f"{len(parts)}. {self._site}"
            )
        examples = [as_numbers(part, f"{kind}: {name}") for part, name in zip(parts, self.names, strict=True)]
        if batch_size is None:
            self._check_batch(examples)
        rows = [example if batch_size is None else example[None] for example in examples]
        self._forms = tuple(np.empty((0, *array.shape[1:]), array.dtype) for array in rows)
        self.arrays = self._forms
        self.batch_size = len(rows[0]) if batch_size is None else int(batch_size)
        self.shuffle = False
        self.epoch = 0
        self._n_batches: int | None = None
        self._positions = [0] * len(parts)
        self._streams = [Stream(self, i, a, n) for i, (a, n) in enumerate(zip(self._forms, self.names, strict=True))]
        self._forget()

    def _begin(self) -> Iterator[Any]:
        if len(self._sources) == 1:
            return iter(self._sources[0])
        return zip(*self._sources, strict=True)

    def _forget(self) -> None:
        self._kept: deque[tuple[Array, ...]] = deque()
        self._first = 0  # position of the first batch that is kept
        self._is_at_end = False

    def __len__(self) -> int:
        """Return nothing: an iterable does not tell.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self._kind}: only arrays have a number of rows, got an iterable. {self._site}")

    def rows_of(self, index: int) -> Any:
        """Return nothing: an iterable is read batch by batch.

        Raises:
            ConversionError: always.
        """
        raise ConversionError(
            f"{self._kind}: the outputs of an iterable must be fed together and in their order, got "
            f"{self.names[index]!r} apart. {self._site}"
        )

    @property
    def n_batches(self) -> int | None:  # type: ignore[override]
        """Number of batches with rows in the last epoch that came to its end, None before."""
        return self._n_batches

    def reset(self) -> None:
        """Begin again with the first item, at the next read."""
        if any(self._positions):
            self.epoch += 1
            self._iterator = None
            self._forget()
        self._positions = [0] * len(self._positions)

    def go_to(self, epoch: int, position: int) -> None:
        """Let the next batch be this one of this epoch, by reading those before it."""
        self.reset()
        self.epoch = epoch
        everything = range(len(self.names))
        for _ in range(position):
            self.batch(everything)
            self.advance(everything)

    def batch(self, indices: Sequence[int], part: slice | None = None) -> dict[int, Array]:
        """Return the next batch of some outputs, the same rows of each; `advance` makes it count.

        Args:
            indices: of the outputs.
            part: which of its rows to return; all are read.

        Raises:
            StopIteration: the data are at their end.
            RunError: an output was read so much later than another that its batch was dropped.
            ConversionError: the data were read once and cannot be read again.
            ShapeError, DTypeError: an item has another form than the first.
        """
        position = max(self._positions[i] for i in indices)
        while position >= self._first + len(self._kept):
            self._read()
        if position < self._first:
            names = ", ".join(self.names[i] for i in indices)
            raise RunError(
                f"{self._kind}: outputs must be read within {MAX_LAG} batches of each other, got {names} at batch "
                f"{position}, of which nothing before {self._first} is kept. {self._site}"
            )
        found = self._kept[position - self._first]
        return {i: found[i] if part is None else found[i][part] for i in indices}

    def advance(self, indices: Sequence[int]) -> None:
        """Move some outputs on to the batch after the one that they have in common."""
        super().advance(indices)
        behind = max(min(self._positions), max(self._positions) - MAX_LAG)
        while self._kept and self._first < behind:
            self._kept.popleft()
            self._first += 1

    def rest(self, indices: Sequence[int], part: Part | None = None, *, lazily: bool = False) -> Iterator[Any]:
        """Yield the batches from the next one to the end of the epoch; leaves the distributor reset."""
        try:
            while True:
                position = self.position(indices)
                try:
                    found = self.batch(indices)
                except StopIteration:
                    return
                self.advance(range(len(self.names)))  # what nobody reads is not kept
                if all(len(rows) for rows in found.values()):
                    wanted = slice(None) if part is None else part(position, len(found[indices[0]]))
                    yield tuple(found[i][wanted] for i in indices)
        finally:
            self.reset()

    def _read(self) -> None:
        """Keep one more batch."""
        if self._is_at_end:
            raise StopIteration
        if self._iterator is None:
            once = [source for source in self._sources if isinstance(source, Iterator)]
            if once:
                raise ConversionError(
                    f"{self._kind}: a second epoch must have data that can be read again, got a "
                    f"{type(once[0]).__name__}, which is at its end. Give an object whose __iter__ begins anew. "
                    f"{self._site}"
                )
            self._iterator = self._begin()
        position = self._first + len(self._kept)
        if self._n_rows_asked is None:
            item = next(self._iterator, None)
            if item is None:
                self._end(position)
                raise StopIteration
            batch = [self._fitting(np.asarray(part), i) for i, part in enumerate(self._parts(item, len(self._forms)))]
            self._check_batch(batch)
        else:
            items = self._items(self._n_rows_asked)
            if len(items) < self._n_rows_asked:  # a short batch is the last, and so is the empty one
                self._end(position + bool(items))
            batch = [self._rows(items, i) for i in range(len(self._forms))]
        self._kept.append(tuple(batch))

    def _end(self, n_batches: int) -> None:
        self._is_at_end = True
        self._n_batches = n_batches

    def _items(self, count: int) -> list[list[Any]]:
        assert self._iterator is not None
        try:
            return [self._parts(item, len(self._forms)) for item in islice(self._iterator, count)]
        except ValueError as e:
            if len(self._sources) == 1 or "zip()" not in str(e):
                raise
            raise ShapeError(
                f"{self._kind}: {' and '.join(self.names)} must have the same number of rows, got one that ends "
                f"before another. {self._site}"
            ) from e

    def _parts(self, item: Any, count: int | None) -> list[Any]:
        """Return what an item has for each output."""
        if isinstance(item, Mapping):
            keys = self._keys or []
            if set(item) != set(keys):
                raise ConversionError(
                    f"{self._kind}: every item must have the keys {keys} of the first, got {list(item)}. {self._site}"
                )
            return [item[key] for key in keys]
        parts = list(item) if _has_parts(item) else [item]
        if count is not None and len(parts) != count:
            raise ConversionError(
                f"{self._kind}: every item must have as many parts as the first, {count}, got {len(parts)}. "
                f"{self._site}"
            )
        return parts

    def _rows(self, items: Sequence[Sequence[Any]], index: int) -> Array:
        """Return the rows of an output as one array."""
        form = self._forms[index]
        if not items:
            return form
        rows = [np.asarray(parts[index]) for parts in items]
        for row in rows:
            if row.shape != form.shape[1:]:
                self._refuse_shape(row[None], index)
        return self._fitting(np.stack(rows), index)

    def _fitting(self, array: Array, index: int) -> Array:
        """Return an array in the type of the first item."""
        form = self._forms[index]
        if array.shape[1:] != form.shape[1:]:
            self._refuse_shape(array, index)
        if array.dtype != form.dtype and not np.can_cast(array.dtype, form.dtype, "same_kind"):
            raise DTypeError(
                f"{self._kind}: {self.names[index]} must hold {form.dtype} as in the first item, got {array.dtype}. "
                f"{self._site}"
            )
        return array.astype(form.dtype, copy=False)

    def _refuse_shape(self, array: Array, index: int) -> None:
        form = self._forms[index]
        raise ShapeError(
            f"{self._kind}: rows of {self.names[index]} must be {type_text(form.dtype, form.shape[1:])} as in the "
            f"first item, got {type_text(array.dtype, array.shape[1:])}. {self._site}"
        )

    def _check_batch(self, batch: Sequence[Array]) -> None:
        counts = [array.shape[0] if array.shape else None for array in batch]
        if None in counts or len(set(counts)) > 1:
            got = " and ".join(
                f"{type_text(array.dtype, array.shape)} of {name}"
                for array, name in zip(batch, self.names, strict=True)
            )
            raise ShapeError(f"{self._kind}: the parts of a batch must have the same rows, got {got}. {self._site}")


def _has_parts(item: Any) -> bool:
    """Whether an item is rows of several outputs: a tuple, or a list of arrays (PyTorch's loaders give lists)."""
    if isinstance(item, list):
        return any(hasattr(part, "__array__") and not isinstance(part, np.generic) for part in item)
    return isinstance(item, tuple)


def default_names(count: int) -> list[str]:
    """Return x, y, input3, input4, …."""
    return ["x", "y", *(f"input{i}" for i in range(3, count + 1))][:count]
