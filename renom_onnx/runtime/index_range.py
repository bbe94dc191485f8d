"""`IndexRanges`: labels and indices that are out of range, told as such.

Kernels of the CPU stop at most of them, in words of their own; those of CUDA compute something. Nothing is looked at
in a step that goes well: data are checked when they become known, and a failure is explained by what was fed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from renom_onnx.converters.index_read import IndexRead, index_reads, indexing_part
from renom_onnx.converters.signature import ModelProto
from renom_onnx.errors import IndexRangeError, RunError
from renom_onnx.graph.site import created_at

Array = np.ndarray[Any, Any]

_STOPPED = re.compile("out of data bounds|Out of range value in index")
"""What onnxruntime says of an index that is out of range."""

_TOLD = re.compile(r"idx=(-?\d+)")
"""The index that it tells, if it does."""


class IndexRanges:
    """How far the integers in the feeds of a model may go.

    Args:
        model: the model.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = indexing_part(model)
        self._reads: list[IndexRead] | None = None

    def check(self, feeds: Mapping[str, Any]) -> None:
        """Look at data before they are run, where all of an input is used.

        Raises:
            IndexRangeError: an integer is out of range.
        """
        if self._model is not None:
            if self._reads is None:
                self._reads = [read for read in index_reads(self._model, {}) if read.is_whole]
            _refuse(self._reads, feeds)

    def explain(self, error: RunError, feeds: Mapping[str, Any], first_row: int = 0) -> RunError:
        """Return what to raise for an error of onnxruntime: that of an index if it is one.

        Args:
            error: as it is known.
            feeds: what was run.
            first_row: number of their first row.
        """
        if self._model is None or not is_of_index(error):
            return error
        shapes = {name: np.shape(array) for name, array in feeds.items()}
        reads = index_reads(self._model, shapes)
        reads.sort(key=lambda read: (f"'{read.node}'" not in str(error), not read.is_whole))
        told = _TOLD.search(str(error))
        try:
            _refuse(reads, feeds, first_row, None if told is None else int(told[1]))
        except IndexRangeError as e:
            return e
        return error


def is_of_index(error: RunError) -> bool:
    """Whether onnxruntime stopped at an index."""
    return _STOPPED.search(str(error)) is not None


def _refuse(reads: list[IndexRead], feeds: Mapping[str, Any], first_row: int = 0, told: int | None = None) -> None:
    """Raise IndexRangeError for the first of some reads that is out of range.

    Args:
        reads: where integers go.
        feeds: arrays by name.
        first_row: number of their first row.
        told: the integer that onnxruntime stopped at, which counts where not all of an input is read.
    """
    for read in reads:
        array = np.asarray(feeds.get(read.feed, ()))
        if array.dtype.kind not in "iu" or not array.size:
            continue
        lowest, highest = int(array.min()), int(array.max())
        if lowest >= read.lowest and highest < read.size:
            continue
        counts = array if read.ignored is None else array[array != read.ignored]
        counts = counts if read.is_whole or told is None else counts[counts == told]
        if counts.size and (counts.min() < read.lowest or counts.max() >= read.size):
            raise IndexRangeError(_message(read, array, int(counts.min()), int(counts.max()), first_row))


def _message(read: IndexRead, array: Array, lowest: int, highest: int, first_row: int) -> str:
    if read.are_classes:
        rule = f"labels must be 0 to {read.size - 1}, for {read.size} classes"
        also = "" if read.ignored is None else f", or {read.ignored}, which is ignored"
    else:
        place = f"{read.size} along axis {read.axis} of {read.operand!r}"
        rule, also = f"indices must be {read.lowest} to {read.size - 1}, for {place}", ""
    ends = [lowest] * (lowest < read.lowest) + [highest] * (highest >= read.size)
    got = " and ".join(f"{end}{_row(array, end, first_row)}" for end in ends)
    advice = _advice(read, lowest, highest)
    return f"{read.operator}: {rule}{also}, got {read.feed!r} with {got}. {advice} {created_at((read.node, 0))}"


def _row(array: Array, value: int, first_row: int) -> str:
    return f" in row {int(np.argwhere(array == value)[0][0]) + first_row}" if array.ndim else ""


def _advice(read: IndexRead, lowest: int, highest: int) -> str:
    if not read.are_classes:
        return f"Indices count from 0: correct them, or make {read.operand!r} larger."
    if lowest >= 1 and highest == read.size:
        return "Labels count from 0: subtract 1."
    if highest >= read.size:
        return f"Labels count from 0: correct them, or give {read.operand!r} {highest + 1} classes."
    return f"Labels count from 0: correct them, or leave those out with ignore_index={lowest}."
