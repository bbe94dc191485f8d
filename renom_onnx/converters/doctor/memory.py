"""Memory: weights, what an optimizer keeps beside them, and activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from renom_onnx.graph.function import read_by
from renom_onnx.graph.meter import Meter
from renom_onnx.graph.node import Node, Value

STATE = {"SGD": 0, "momentum": 1, "Adam": 2}
"""What an optimizer keeps for every weight, in copies of it."""


@dataclass(frozen=True)
class Bytes:
    """A number of bytes, and the values whose sizes are not known and so not in it."""

    known: int
    unknown: tuple[str, ...] = ()


def inference_peak(nodes: Sequence[Node], outputs: Iterable[Value], meter: Meter) -> Bytes:
    """Return the most that activations take at once, each freed after its last reader, in the file's order.

    Weights are not among them. A runtime that reorders nodes or writes in place takes another amount.
    """
    last_read: dict[Value, int] = {}
    for position, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                last_read[value] = position
    kept = set(outputs)
    freed: dict[int, list[Value]] = {}
    for value, position in last_read.items():
        freed.setdefault(position, []).append(value)
    size, peak = 0, 0
    live: dict[Value, int] = {}
    unknown: dict[str, None] = {}
    for position, node in enumerate(nodes):
        for value in node.outputs:
            live[value] = n_bytes(value, meter)
            size += live[value]
            if meter.shape(value) is None and value.name:
                unknown[value.name] = None
        peak = max(peak, size)
        gone = [*freed.get(position, ()), *(v for v in node.outputs if v not in last_read)]
        for value in gone:
            if value not in kept:
                size -= live.pop(value, 0)
    return Bytes(peak, tuple(unknown))


def kept_for_gradients(forward: Iterable[Node], backward: Iterable[Node], meter: Meter) -> Bytes:
    """Return how much of the forward pass must stay in memory until the gradient nodes have read it.

    A gradient node lists every operand of its forward node, but its body reads only some.
    """
    made = {value for node in forward for value in node.outputs}
    read = {value for node in backward for value in read_by(node) if value in made}
    unknown = [str(value.name) for value in read if meter.shape(value) is None]
    return Bytes(sum(n_bytes(value, meter) for value in read), tuple(sorted(unknown)))


def n_bytes(value: Value, meter: Meter) -> int:
    """Return the bytes of a value; 0 where its sizes are not known."""
    count = meter.n_elements(value)
    return 0 if count is None else count * value.dtype.itemsize
