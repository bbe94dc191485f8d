"""Sizes that symbolic inference leaves open, found with numbers: a reshape by what `Shape` found, for one.

Every symbol stands for three different numbers at a time. A size that comes out as the same number each time is that
number; one that comes out as a symbol's three numbers is the symbol; any other stays unknown. One of the three lets all
symbols be 1, so that what is cut to a length (``x[:512]``) is not taken for that length.
"""

from __future__ import annotations

from collections.abc import Sequence

from renom_onnx.graph.body import attribute_bodies
from renom_onnx.graph.meter import Meter
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Node, Shape, Value, unknown_dim

_STARTS = ((1, 0), (10_007, 2), (50_021, 6))
"""First number and step of each of the three."""


class Resolution:
    """Resolves the sizes of nodes, inputs before readers."""

    def __init__(self) -> None:
        self._meters = [Meter() for _ in _STARTS]
        self._symbols: dict[tuple[int, ...], str] = {}
        self._seen: set[str] = set()

    def resolve(self, node: Node) -> None:
        """Give the outputs of a node the sizes that can be found."""
        for value in node.inputs:
            self._see(value)
        if node.function is None and not node.is_leaf and not attribute_bodies(node.attributes):
            for meter in self._meters:
                meter.measure(node)
            for value in node.outputs:
                if value.shape is None or any(_is_open(d) for d in value.shape):
                    self._improve(value)
        for value in node.outputs:
            self._see(value)

    def _see(self, value: Value | None) -> None:
        """Let the symbols of a value stand for numbers."""
        for dim in (value.shape or ()) if value is not None else ():
            if isinstance(dim, str) and dim not in self._seen:
                self._seen.add(dim)
                numbers = tuple(first + step * len(self._seen) for first, step in _STARTS)
                self._symbols[numbers] = dim
                for meter, number in zip(self._meters, numbers, strict=True):
                    meter.let(dim, number)

    def _improve(self, value: Value) -> None:
        shapes = [meter.shape(value) for meter in self._meters]
        found = [shape for shape in shapes if shape is not None]
        if len(found) < len(shapes) or len({len(shape) for shape in found}) > 1:
            return
        numbers = list(zip(*found, strict=True))
        known: Sequence[Dim | None] = value.shape if value.shape is not None else [None] * len(numbers)
        if len(known) != len(numbers):
            return
        value.shape = self._merged(known, numbers)

    def _merged(self, known: Sequence[Dim | None], numbers: Sequence[tuple[int, ...]]) -> Shape:
        shape: list[Dim] = []
        for dim, triple in zip(known, numbers, strict=True):
            if dim is not None and not _is_open(dim):
                shape.append(dim)
            elif len(set(triple)) == 1:
                shape.append(triple[0])
            else:
                shape.append(self._symbols.get(triple) or dim or unknown_dim())
        return tuple(shape)


def _is_open(dim: Dim) -> bool:
    return isinstance(dim, str) and dim.startswith(UNKNOWN_DIM)
