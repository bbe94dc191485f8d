"""Feeding: the batches that an executor gives to its session, and the loss of an epoch of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.resident import ROWS
from renom_onnx.converters.tree import data_names
from renom_onnx.errors import ConversionError
from renom_onnx.graph.distributor import Distributor, Stream
from renom_onnx.graph.node import Node, Static, Value
from renom_onnx.graph.site import created_at

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

    def batches(self, data: Distributor | None = None) -> Generator[Feeds, None, None]:
        """Yield the feeds of one epoch, of another distributor if one is given."""
        source = data if data is not None else next(iter(self.distributors), None)
        if source is None:
            yield self.arrays
            return
        indices = sorted(set(self.columns.values()))
        for batch in source.batches(indices):
            yield self._named(dict(zip(indices, batch, strict=True)))

    def whole(self) -> Feeds | None:
        """Return all rows of the inputs that a distributor of arrays in memory deals; None where there is none."""
        if not self._columns or type(self.distributors[0]).batches is not Distributor.batches:
            return None
        rows = {name: self.distributors[0].rows_of(index) for name, index in self._columns.items()}
        in_memory = all(isinstance(a, np.ndarray) and not isinstance(a, np.memmap) and len(a) for a in rows.values())
        return {name: np.asarray(array) for name, array in rows.items()} if in_memory else None

    def row_numbers(self) -> Generator[Feeds, None, None]:
        """Yield for each batch of one epoch the numbers of its rows, and the arrays that no distributor feeds."""
        dealer = self.distributors[0]
        dealer.reset()
        try:
            for _ in range(dealer.n_batches):
                yield self.next_row_numbers()
        finally:
            dealer.reset()

    def next_row_numbers(self) -> Feeds:
        """Return the numbers of the rows of the next batch, and let the distributor move on; see `next_batch`."""
        dealer = self.distributors[0]
        indices = sorted(set(self._columns.values()))
        rows = np.arange(len(dealer))[dealer.next_rows(indices)]
        dealer.advance(indices)
        if not len(rows):
            raise StopIteration
        return {**self.arrays, ROWS: rows}

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


def converted(feeds: Feeds, types: Mapping[str, np.dtype[Any]]) -> Feeds:
    """Return the feeds in the types of the file, which holds data as its layers want them."""
    return {n: a if a.dtype == types[n] else a.astype(types[n]) for n, a in feeds.items() if n in types}


class EpochLoss:
    """The loss of an epoch: the sum of sums, or the mean weighted by rows."""

    def __init__(self, root: Value) -> None:
        self._is_mean = root.node.reduction == "mean"
        self._sum = 0.0
        self._rows = 0

    def add(self, loss: float, feeds: Feeds) -> None:
        rows = max((len(a) for a in feeds.values() if a.ndim), default=1)
        self._sum += loss * (rows if self._is_mean else 1)
        self._rows += rows

    def value(self) -> float:
        return self._sum / max(self._rows, 1) if self._is_mean else self._sum
