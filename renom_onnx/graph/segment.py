"""Segments: where to cut a graph that has no layers, so that the backward pass computes one part after the other again.

What crosses a cut is kept; the rest of a segment is computed again when its gradient arrives. The last segment is not,
because its gradient arrives at once. Of n equal operators in a row, about sqrt(n) segments take the least memory: as
many values are kept as a segment has.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

import bisect
import fnmatch
import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from renom_onnx.graph.checkpoint import mark
from renom_onnx.graph.node import Node, Value
from renom_onnx.graph.parameter import Parameter

UNKNOWN_SIZE = 64
"""Stands for a size that only the run will know; that of the batch is a factor of all."""


class Chain:
    """The nodes between the first weight that trains and the loss, in order, and what their values take.

    Args:
        nodes: all nodes before the loss, inputs before readers.
        roots: values that are read from outside.
        kept: values that gradients read, and so stay in memory where nothing is computed again.
    """

    def __init__(self, nodes: Sequence[Node], roots: Iterable[Value], kept: Collection[Value]) -> None:
        moving: set[Node] = set()
        for node in nodes:
            is_weight = isinstance(node, Parameter) and node.trainable
            if is_weight or any(value is not None and value.node in moving for value in node.inputs):
                moving.add(node)
        self.nodes = [node for node in nodes if node in moving and not node.is_leaf]
        n = len(self.nodes)
        readers = dict.fromkeys(roots, n)
        for place, node in enumerate(self.nodes):
            readers.update((v, max(place, readers.get(v, 0))) for v in node.inputs if v is not None)
        self._values = [
            (place, readers.get(value, place), _n_bytes(value), value in kept)
            for place, node in enumerate(self.nodes)
            for value in node.outputs
        ]
        sizes, changes, more = [0] * n, [0] * (n + 1), [0] * (n + 1)
        for place, reader, size, is_kept in self._values:
            sizes[place] += size * is_kept
            changes[place] += size
            changes[reader] -= size
            more[place] += size * (not is_kept)
            more[reader] -= size * (not is_kept)
        self._before = [0, *itertools.accumulate(sizes)]
        self._crossing = list(zip(itertools.accumulate(changes), itertools.accumulate(more), strict=True))

    def cuts_at(self, patterns: Sequence[str]) -> tuple[list[int], list[str]]:
        """Return the cuts behind the nodes that patterns name, by a node's name or an output's, and what means none."""
        cuts: set[int] = set()
        lost = []
        for pattern in patterns:
            found = {place for place, node in enumerate(self.nodes) if _is_named(node, pattern)}
            if not found:
                lost.append(pattern)
            cuts |= found
        return sorted(cuts), lost

    def cuts_into(self, n_segments: int) -> list[int]:
        """Return the cuts into so many segments of like size, or fewer, at which the least has to be kept."""
        n, whole = len(self.nodes), self._before[-1]
        cuts: list[int] = []
        for i in range(1, n_segments):
            begin, end = (
                bisect.bisect_left(self._before, whole * (2 * i + side) / (2 * n_segments)) - 1 for side in (-1, 1)
            )
            middle = whole * i / n_segments
            places = range(max(begin, cuts[-1] + 1 if cuts else 0), min(end, n - 1))
            if places:
                cuts.append(min(places, key=lambda p: (*self._crossing[p], abs(self._before[p + 1] - middle))))
        return cuts

    def best_cuts(self) -> list[int]:
        """Return the cuts that take the least memory, of those into up to twice sqrt(n) segments of like size."""
        most = 2 * math.ceil(math.sqrt(len(self.nodes)))
        return min((self.cuts_into(n) for n in range(1, most + 1)), key=self.peak)

    def peak(self, cuts: Sequence[int]) -> tuple[int, int]:
        """Return what is in memory at most while the gradients of one segment after the other are computed.

        That is what is kept of the segments before, which is freed on the way back, what the gradients of the segment
        read, and two gradients; and, to tell between equals, the same without gradients.
        """
        kept, read, largest = ([0] * (len(cuts) + 1) for _ in range(3))
        for place, reader, size, is_kept in self._values:
            segment = bisect.bisect_left(cuts, place)
            if segment < len(cuts) and cuts[segment] < reader:
                kept[segment] += size
            else:
                read[segment] += size * is_kept
            largest[segment] = max(largest[segment], size)
        columns = list(zip(itertools.accumulate(kept), read, largest, strict=True))
        return max(held + own + 2 * gradient for held, own, gradient in columns), max(a + b for a, b, _ in columns)

    def mark(self, cuts: Sequence[int]) -> int:
        """Let what is between the cuts be computed again, but for what follows the last one; return how many."""
        segments = [self.nodes[a + 1 : b + 1] for a, b in itertools.pairwise([-1, *cuts])]
        segments = [segment for segment in segments if len(segment) > 1]
        for segment in segments:
            mark(segment)
        return len(segments)


def _is_named(node: Node, pattern: str) -> bool:
    names: Collection[str | None] = [node.note.name if node.note is not None else "", *(v.name for v in node.outputs)]
    return any(name and fnmatch.fnmatchcase(name, pattern) for name in names)


def _n_bytes(value: Value) -> int:
    sizes = [size if isinstance(size, int) else UNKNOWN_SIZE for size in value.shape or ()]
    return math.prod(sizes) * value.dtype.itemsize if value.shape is not None else 0
