"""Feeding: the batches that an executor gives to its session, and the loss of an epoch of them."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.resident import ROWS
from renom_onnx.converters.tree import data_names
from renom_onnx.errors import ConversionError
from renom_onnx.graph.distributor import Distributor, Stream
from renom_onnx.graph.node import Node, Static, Value
from renom_onnx.graph.site import created_at
from renom_onnx.runtime.shard import Deal, Shard

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


class Source:
    """The data leaves of a tree: batches of its distributor, or the arrays given to its layers."""

    def __init__(self, nodes: Sequence[Node], root: Value) -> None:
        streams = [node for node in nodes if isinstance(node, Stream)]
        self.distributors = list(dict.fromkeys(stream.distributor for stream in streams))
        names = data_names(nodes)
        self._named_leaves = {name: leaf for leaf, name in names.items()}
        self._leaves = {name: leaf for name, leaf in self._named_leaves.items() if isinstance(leaf, Static)}
        self._columns = {names[stream]: stream.index for stream in streams}
        if len(self.distributors) > 1:
            raise ConversionError(
                f"executor: the data must come from one distributor, got {len(self.distributors)}. "
                f"{created_at(root.node.site)}"
            )

    @property
    def arrays(self) -> Feeds:
        """Today's arrays of the leaves that no distributor feeds."""
        return {name: leaf.array for name, leaf in self._leaves.items()}

    @property
    def n_batches(self) -> int | None:
        """Steps of an epoch; None where only its end will tell."""
        return self.distributors[0].n_batches if self.distributors else 1

    @property
    def epoch(self) -> int | None:
        """Number of the distributor's epoch; None without one."""
        return self.distributors[0].epoch if self.distributors else None

    def begin(self) -> None:
        """Let the next batch be the first of an epoch."""
        for distributor in self.distributors:
            distributor.reset()

    @property
    def position(self) -> int:
        """Number of the next batch of the epoch."""
        indices = sorted(set(self._columns.values()))
        return self.distributors[0].position(indices) if self.distributors else 0

    def go_to(self, epoch: int, position: int) -> None:
        """Let the next batch be this one of this epoch."""
        for distributor in self.distributors:
            distributor.go_to(epoch, position)

    def batches(
        self, data: Distributor | None = None, deal: Deal | None = None, *, lazily: bool = False
    ) -> Generator[Feeds, None, None]:
        """Yield the feeds of the batches from the next one to the end of the epoch.

        Args:
            data: of another distributor, all batches.
            deal: what this process reads of each; an iterable is read whole. Default: everything.
            lazily: let rows be `Picked` where nothing is dealt; a training session takes them as arrays.
        """
        source = data if data is not None else next(iter(self.distributors), None)
        if source is None:
            yield self._static(deal)
            return
        if data is not None:
            data.reset()
        indices = sorted(set(self.columns.values()))
        if deal is not None and not source.has_numbered_rows:
            deal = None
        if deal is None:
            places = [(name, indices.index(index)) for name, index in self.columns.items()]
            others = [(name, leaf) for name, leaf in self._leaves.items() if name not in self.columns]
            for batch in source.rest(indices, lazily=lazily):
                feeds = {name: leaf.array for name, leaf in others}
                for name, place in places:
                    feeds[name] = batch[place]
                yield feeds
            return
        positions = itertools.count(source.position(indices))
        for position, batch in zip(positions, source.rest(indices, deal.part), strict=False):
            yield self._shard(dict(zip(indices, batch, strict=True)), deal, position, source.n_rows(position))

    def whole(self) -> Feeds | None:
        """Return all rows of the inputs that a distributor of arrays in memory deals; None where there is none."""
        if not self._columns or not self.distributors[0].has_numbered_rows:
            return None
        rows = {name: self.distributors[0].rows_of(index) for name, index in self._columns.items()}
        in_memory = all(isinstance(a, np.ndarray) and not isinstance(a, np.memmap) and len(a) for a in rows.values())
        return {name: np.asarray(array) for name, array in rows.items()} if in_memory else None

    def loaded(self, data: Distributor | None = None) -> Feeds:
        """Return all rows of the inputs whose data can be looked at without reading a file.

        Args:
            data: a distributor in the place of the tree's.
        """
        source = data if data is not None else next(iter(self.distributors), None)
        found = {} if data is not None else self.arrays
        if source is not None and source.has_numbered_rows:
            columns = {name: i for name, i in self.columns.items() if i < len(source.arrays)}
            found |= {name: np.asarray(rows) for name, i in columns.items() if _is_loaded(rows := source.rows_of(i))}
        return found

    def row_numbers(self, deal: Deal | None = None) -> Generator[Feeds, None, None]:
        """Yield for each batch from the next one on the numbers of its rows, and what no distributor feeds."""
        dealer = self.distributors[0]
        indices = sorted(set(self._columns.values()))
        try:
            while dealer.position(indices) < dealer.n_batches:
                yield self.next_row_numbers(deal)
        finally:
            dealer.reset()

    def next_row_numbers(self, deal: Deal | None = None) -> Feeds:
        """Return the numbers of the rows of the next batch, and let the distributor move on; see `next_batch`."""
        dealer = self.distributors[0]
        indices = sorted(set(self._columns.values()))
        position = dealer.position(indices)
        n_rows = dealer.n_rows(position)
        part = None if deal is None else deal.part(position, n_rows)
        rows = np.arange(len(dealer))[dealer.next_rows(indices, part)]
        dealer.advance(indices)
        if not n_rows:
            raise StopIteration
        feeds = {**self._static(deal, position, n_rows), ROWS: rows}
        return feeds if deal is None else Shard(feeds, n_rows)

    def taken(self, batch: Feeds) -> Feeds:
        """Return a batch whose rows may be numbers as the feeds that they stand for."""
        if ROWS not in batch:
            return batch
        rows = {name: self.distributors[0].rows_of(i)[batch[ROWS]] for name, i in self._columns.items()}
        return {**{name: array for name, array in batch.items() if name != ROWS}, **rows}

    def next_batch(self) -> Feeds:
        """Return the feeds of the next batch, and let the distributor move on to the one after it.

        Raises:
            StopIteration: the data are at their end.
        """
        if not self.distributors:
            return self.arrays
        indices = sorted(set(self.columns.values()))
        batch = self.distributors[0].batch(indices)
        self.distributors[0].advance(indices)
        if not any(len(rows) for rows in batch.values()):  # the empty batch that follows an even division
            raise StopIteration
        return self._named(batch)

    @property
    def columns(self) -> dict[str, int]:
        """Positions, in a distributor, of what each input is fed: x and y in this order where there is none yet."""
        return self._columns or {name: i for i, name in enumerate(self._leaves)}

    def places(self) -> dict[Node, int]:
        """Return the leaves behind `columns`, with their positions."""
        return {self._named_leaves[name]: index for name, index in self.columns.items()}

    def _named(self, batch: Mapping[int, Array]) -> Feeds:
        return {**self.arrays, **{name: batch[index] for name, index in self.columns.items()}}

    def _shard(self, batch: Mapping[int, Array], deal: Deal, position: int, n_rows: int) -> Shard:
        columns = {name: batch[index] for name, index in self.columns.items()}
        return Shard({**self._static(deal, position, n_rows), **columns}, n_rows)

    def _static(self, deal: Deal | None, position: int = 0, n_rows: int | None = None) -> Feeds:
        """Return the arrays that no distributor feeds, or this process's rows of them."""
        arrays = self.arrays
        if deal is None or not any(name in deal.names for name in arrays):
            return arrays
        if n_rows is None:
            n_rows = max(len(array) for name, array in arrays.items() if name in deal.names)
        part = deal.part(position, n_rows)
        return Shard({n: a[part] if n in deal.names else a for n, a in arrays.items()}, n_rows)


def _is_loaded(rows: Any) -> bool:
    if not isinstance(rows, np.ndarray) or not len(rows):
        return False
    owner: Any = rows
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return not isinstance(owner, np.memmap | mmap.mmap)


def converted(feeds: Feeds, types: Mapping[str, np.dtype[Any]]) -> Feeds:
    """Return the feeds in the types of the file, which holds data as its layers want them."""
    found = {n: a if a.dtype == types[n] else a.astype(types[n]) for n, a in feeds.items() if n in types}
    return found if type(feeds) is dict else Shard(found, feeds.n_rows) if isinstance(feeds, Shard) else found


class EpochLoss:
    """The loss of an epoch: the sum of sums, or the mean weighted by rows.

    Attributes:
        sum: of the batches' losses so far, weighted where it is a mean.
        n_rows: so far.
    """

    def __init__(self, root: Value, total: float = 0.0, n_rows: int = 0) -> None:
        self._is_mean = root.node.reduction == "mean"
        self.sum = total
        self.n_rows = n_rows

    def add(self, loss: float, n_rows: int) -> None:
        """Add a batch; one without rows does not count."""
        self.sum += loss * (n_rows if self._is_mean else n_rows > 0)
        self.n_rows += n_rows

    def value(self) -> float:
        """Return the loss of all batches."""
        return self.sum / max(self.n_rows, 1) if self._is_mean else self.sum
