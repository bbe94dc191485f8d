"""Stages: a step that is cut where devices sum something, each piece a model of its own.

A value is computed in the last stage that may compute it, so that little is carried from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.step_graph import Exchange, StepGraph, operands, reads, written
from renom_onnx.errors import ConversionError


@dataclass(frozen=True)
class Buffer:
    """A flat array that every device writes and that is then replaced by the sum over all devices."""

    name: str
    size: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Stage:
    """One piece of a step.

    Attributes:
        model: what a session runs.
        inputs: names of what it reads: data, state, values of earlier stages, and buffers, which are sums by then.
        outputs: names of what it writes.
        buffer: the output that is summed when the stage has run; None for the last stage.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buffer: Buffer | None


def cut(graph: StepGraph, results: Sequence[str]) -> list[Stage]:
    """Return the stages of a step.

    Args:
        graph: the step with its exchanges, the last of which comes after all others.
        results: what the last stage gives out.
    """
    return _Cutter(graph, results).stages()


class _Cutter:
    def __init__(self, graph: StepGraph, results: Sequence[str]) -> None:
        graph.infer()
        self._graph = graph
        self._results = list(results)
        self._steps = graph.in_order(with_exchanges=True)
        self._levels = self._earliest()
        self._last = max(self._levels.values()) + 1
        self._places = self._latest()
        self._groups: list[list[Exchange]] = [[] for _ in range(self._last)]
        for exchange in graph.exchanges:
            self._groups[self._levels[exchange]].append(exchange)

    def _earliest(self) -> dict[Exchange, int]:
        """Return for each exchange how many must come before it."""
        levels: dict[Exchange, int] = {}
        values: dict[str, int] = {}
        for step in self._steps:
            level = max((values.get(name, 0) for name in operands(step)), default=0)
            if isinstance(step, Exchange):
                levels[step] = level
                level += 1
            values.update((name, level) for name in written(step))
        others = [level for exchange, level in levels.items() if not exchange.is_last]
        for exchange in levels:
            if exchange.is_last:
                levels[exchange] = max(others, default=-1) + 1
        return levels

    def _latest(self) -> dict[str, int]:
        """Return the stage that computes each value that somebody needs."""
        places = dict.fromkeys(self._results, self._last)
        for step in reversed(self._steps):
            if isinstance(step, Exchange):
                place = self._levels[step]
            else:
                found = [places[name] for name in step.output if name in places]
                if not found:
                    continue
                place = min(found)
                places.update((name, place) for name in step.output if name)
            for name in operands(step):
                places[name] = min(place, places.get(name, place))
        return places

    def stages(self) -> list[Stage]:
        nodes: list[list[onnx.NodeProto]] = [[] for _ in range(self._last + 1)]
        for step in self._steps:
            if not isinstance(step, Exchange):
                place = next((self._places[name] for name in step.output if name in self._places), None)
                if place is not None:
                    nodes[place].append(step)
        nodes[self._last] = self._alone(nodes[self._last])
        made = {name: i for i, found in reversed(list(enumerate(nodes))) for node in found for name in node.output}
        read = [{name for node in found for name in reads(node)} for found in nodes]
        for level, group in enumerate(self._groups):
            read[level].update(value for exchange in group for value in exchange.values)
        read[self._last].update(self._results)
        carried = {name for i, names in enumerate(read[:-1]) for name in names if made.get(name, i) != i}
        stages = []
        for i, found in enumerate(nodes):
            outputs = [name for name in self._in_order(found) if name in carried]
            whole = [*self._sums(i, read[i]), *found, *self._joined(i)]
            inputs = list(dict.fromkeys(self._operands(whole)))
            stages.append(self._stage(i, whole, inputs, outputs))
        return stages

    def _alone(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes of the last stage with all they need: a device without rows has nothing else to read."""
        producers = {name: step for step in self._steps for name in written(step) if name}
        needed = {name for node in nodes for name in node.output}
        stack = [*self._results, *needed]
        while stack:
            step = producers.get(stack.pop())
            for name in reads(step) if isinstance(step, onnx.NodeProto) else ():
                if name not in needed:
                    needed.add(name)
                    stack.append(name)
        return [s for s in self._steps if not isinstance(s, Exchange) and not needed.isdisjoint(s.output)]

    @staticmethod
    def _in_order(nodes: Sequence[onnx.NodeProto]) -> list[str]:
        return [name for node in nodes for name in node.output]

    def _operands(self, nodes: Sequence[onnx.NodeProto]) -> list[str]:
        """Return what the nodes read and do not write themselves, but for constants."""
        own = {name for node in nodes for name in node.output} | set(self._graph.initializers)
        return [name for node in nodes for name in reads(node) if name not in own]

    def _stage(self, i: int, nodes: list[onnx.NodeProto], inputs: Sequence[str], outputs: list[str]) -> Stage:
        graph = self._graph
        buffer = self._buffer(i) if i < self._last else None
        infos = [self._info(name) for name in inputs]
        if buffer is None:
            outputs = [*outputs, *self._results]
        results = [self._info(name) for name in outputs]
        if buffer is not None:
            results.append(graph.info(buffer.name, buffer.dtype, (buffer.size,)))
            outputs = [*outputs, buffer.name]
        model = graph.model(nodes, infos, results, f"stage{i}")
        return Stage(model, tuple(inputs), tuple(outputs), buffer)

    def _info(self, name: str) -> onnx.ValueInfoProto:
        for level in range(self._last):
            buffer = self._buffer(level)
            if buffer.name == name:
                return self._graph.info(name, buffer.dtype, (buffer.size,))
        if name in self._graph.inputs:
            info: onnx.ValueInfoProto = self._graph.inputs[name]
            return info
        if name not in self._graph.types:
            raise ConversionError(
                f"several devices: what one stage hands to the next must have a known type, got {name!r}."
            )
        dtype, shape = self._graph.types[name]
        known = None if shape is None else tuple(None if str(d).startswith(("?", "unk__")) else d for d in shape)
        return self._graph.info(name, dtype, known)  # type: ignore[arg-type]

    def _buffer(self, level: int) -> Buffer:
        group = self._groups[level]
        return Buffer(f"exchange{level}", sum(sum(exchange.sizes) for exchange in group), group[0].dtype)

    def _joined(self, level: int) -> list[onnx.NodeProto]:
        """Return the nodes that write the buffer of a level."""
        if level == self._last:
            return []
        vector = self._graph.constant([-1], np.int64, "flat")
        values = [value for exchange in self._groups[level] for value in exchange.values]
        flat = [self._graph.fresh(f"{value}.flat") for value in values]
        nodes = [helper.make_node("Reshape", [v, vector], [f], name=f) for v, f in zip(values, flat, strict=True)]
        name = self._buffer(level).name
        return [*nodes, helper.make_node("Concat", flat, [name], name=name, axis=0)]

    def _sums(self, stage: int, read: set[str]) -> list[onnx.NodeProto]:
        """Return the nodes that take the sums that a stage reads out of the buffers."""
        nodes = []
        for level, group in enumerate(self._groups[:stage]):
            pieces = [piece for e in group for piece in zip(e.sums, e.sizes, e.shapes, strict=True)]
            if not any(name in read for name, _, _ in pieces):
                continue
            flat = [self._graph.fresh(f"{name}.flat") for name, _, _ in pieces]
            sizes = self._graph.constant([size for _, size, _ in pieces], np.int64, "sizes")
            name = self._buffer(level).name
            nodes.append(helper.make_node("Split", [name, sizes], flat, name=f"{name}.split", axis=0))
            for piece, (name, _, shape) in zip(flat, pieces, strict=True):
                if name in read:
                    sizes = self._graph.constant(shape, np.int64, f"{name}.shape")
                    nodes.append(helper.make_node("Reshape", [piece, sizes], [name], name=name))
        return nodes
