"""`DataInput`: ReNom 3.0's data pipeline, which says step by step how data are dealt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from renom_onnx.errors import ConversionError
from renom_onnx.graph.distributor import Distributor
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.iteration import IterableDistributor, default_names, is_iterable_only
from renom_onnx.graph.site import created_at, user_site


class DataInput:
    """Data for a tree: ``DataInput([x, y]).shuffle().batch(32).get_output_graphs()``.

    The rows come in order after `index`, in an order of their own for each epoch after `shuffle`; without either they
    are shuffled. Without `batch`, a batch is one row. A short last batch is kept. (ReNom drops it, and casts everything
    to float32; here the dtype is kept.)

    Any other iterable is a source too: a generator, a file, a loader of another library. Its items are read one after
    the other, one batch ahead at most, and come in its own order. What can be read only once, such as a generator, has
    one epoch. Types and sizes are those of the first item, which is read at once.

    Args:
        inputs: one source or several with as many rows: arrays, memory-mapped arrays, objects with ``len()`` whose
            ``[i]`` is a row, or iterables of rows. The items of a single iterable may also be tuples, dicts or
            lists of arrays, which are rows of several outputs.
        names: of the outputs; default ``x`` for one, ``x``, ``y``, ``input3`` and so on for several, or the keys.

    Raises:
        ShapeError, DTypeError, ConversionError: as `DistributorElement`; an item that has another form than the first
            is found when it is read.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x, y = rm.graph.DataInput([np.arange(3), np.arange(3) * 2]).index().batch(2).get_output_graphs()
        >>> print(x, y)
        [0 1] [0 2]
        >>> squares = ((n, n * n) for n in range(3))
        >>> x, y = rm.graph.DataInput(squares).batch(2).get_output_graphs()
        >>> print(x, y)
        [0 1] [0 1]
    """

    def __init__(self, inputs: Any, *, names: Sequence[str] | None = None) -> None:
        self._sources = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        self._names = None if names is None else list(names)
        self._is_iterable = any(is_iterable_only(source) for source in self._sources)
        self._is_shuffled: bool | None = None
        self._batch_size: int | None = 1
        self._distributor: Distributor | None = None

    def index(self) -> DataInput:
        """Deal the rows in order."""
        return self._ordered(False)

    def shuffle(self) -> DataInput:
        """Deal the rows in a new order for each epoch.

        Raises:
            ConversionError: a source is an iterable, whose rows have no numbers.
        """
        if self._is_iterable:
            raise ConversionError(
                f"DataInput: rows that are shuffled must have numbers, got an iterable. Shuffle it where it is made. "
                f"{created_at(user_site())}"
            )
        return self._ordered(True)

    def _ordered(self, is_shuffled: bool) -> DataInput:
        if self._is_shuffled is not None:
            raise ConversionError(
                f"DataInput: the order must be given once, by index or shuffle, got a second time. "
                f"{created_at(user_site())}"
            )
        self._is_shuffled = is_shuffled
        return self

    def batch(self, batch_size: int | None = 64) -> DataInput:
        """Deal this many rows at a time; None deals the items of an iterable as the batches that they are.

        Raises:
            ConversionError: there is no size for arrays.
        """
        if batch_size is None and not self._is_iterable:
            raise ConversionError(f"DataInput: a batch of arrays must have a size, got None. {created_at(user_site())}")
        self._batch_size = batch_size
        return self

    def get_output_graphs(self) -> Any:
        """Return an element for one source, a tuple of elements for several."""
        if self._distributor is None:
            if self._is_iterable:
                self._distributor = IterableDistributor("DataInput", self._sources, self._names, self._batch_size)
            else:
                names = self._names if self._names is not None else default_names(len(self._sources))
                shuffle = self._is_shuffled is not False
                size = self._batch_size or 1
                self._distributor = Distributor("DataInput", self._sources, names, size, shuffle)
        elements: tuple[GraphElement, ...] = self._distributor.get_output_graphs()
        return elements[0] if len(elements) == 1 else elements

    def reset(self) -> None:
        """Begin again with the first row, in the order of the next epoch."""
        if self._distributor is not None:
            self._distributor.reset()

    def __len__(self) -> int:
        """Return the number of batches.

        Raises:
            TypeError: a source is an iterable, which does not tell.
        """
        if self._is_iterable:
            raise TypeError("DataInput: only arrays have a number of batches, got an iterable.")
        size = self._batch_size or 1
        return (len(self._sources[0]) + size - 1) // size
