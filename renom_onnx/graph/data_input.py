"""`DataInput`: ReNom 3.0's data pipeline, which says step by step how data are dealt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from renom_onnx.errors import ConversionError
from renom_onnx.graph.distributor import Distributor
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.site import created_at, user_site


class DataInput:
    """Data for a tree: ``DataInput([x, y]).shuffle().batch(32).get_output_graphs()``.

    The rows come in order after `index`, in an order of their own for each epoch after `shuffle`; without either they
    are shuffled. Without `batch`, a batch is one row. A short last batch is kept. (ReNom drops it, and casts everything
    to float32; here the dtype is kept.)

    Args:
        inputs: one source or several with as many rows: arrays, memory-mapped arrays, or objects with ``len()`` whose
            ``[i]`` is a row.
        names: of the outputs; default ``x`` for one, ``x``, ``y``, ``input3`` and so on for several.

    Raises:
        ShapeError, DTypeError, ConversionError: as `DistributorElement`.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x, y = rm.graph.DataInput([np.arange(3), np.arange(3) * 2]).index().batch(2).get_output_graphs()
        >>> print(x, y)
        [0 1] [0 2]
    """

    def __init__(self, inputs: Any, *, names: Sequence[str] | None = None) -> None:
        self._sources = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        default = ["x", "y", *(f"input{i}" for i in range(3, len(self._sources) + 1))]
        self._names = list(names) if names is not None else default[: len(self._sources)]
        self._is_shuffled: bool | None = None
        self._batch_size = 1
        self._distributor: Distributor | None = None

    def index(self) -> DataInput:
        """Deal the rows in order."""
        return self._ordered(False)

    def shuffle(self) -> DataInput:
        """Deal the rows in a new order for each epoch."""
        return self._ordered(True)

    def _ordered(self, is_shuffled: bool) -> DataInput:
        if self._is_shuffled is not None:
            raise ConversionError(
                f"DataInput: the order must be given once, by index or shuffle, got a second time. "
                f"{created_at(user_site())}"
            )
        self._is_shuffled = is_shuffled
        return self

    def batch(self, batch_size: int = 64) -> DataInput:
        """Deal this many rows at a time."""
        self._batch_size = batch_size
        return self

    def get_output_graphs(self) -> Any:
        """Return an element for one source, a tuple of elements for several."""
        if self._distributor is None:
            shuffle = self._is_shuffled is not False
            self._distributor = Distributor("DataInput", self._sources, self._names, self._batch_size, shuffle)
        elements: tuple[GraphElement, ...] = self._distributor.get_output_graphs()
        return elements[0] if len(elements) == 1 else elements

    def reset(self) -> None:
        """Begin again with the first row, in the order of the next epoch."""
        if self._distributor is not None:
            self._distributor.reset()

    def __len__(self) -> int:
        """Return the number of batches."""
        return (len(self._sources[0]) + self._batch_size - 1) // self._batch_size
