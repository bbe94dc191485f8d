"""Batch normalization over the batch of all devices: the graph is cut where its sums are taken.

Forward, every device sends rows, sum and centred sum of squares of each channel; backward, the sums of dy and of dy u,
u = (x - mean) r. With the sums of all devices,

    y = u scale + bias,   dx = scale r (dy - sum(dy) / n - u sum(dy u) / n),

the gradients of scale and bias are each device's own sums, which are added up with all other gradients. The squares are
combined in float64, where the cancellation of Chan, Golub & LeVeque 1983 (doi:10.1080/00031305.1983.10483115) does no
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.step_graph import StepGraph, attribute
from renom_onnx.errors import ConversionError
from renom_onnx.graph.function import DOMAIN

_WRITTEN_OUT = "BatchNormalizationTrain"
_OPERATOR = "BatchNormalization"


@dataclass(frozen=True)
class _Statistics:
    """What the backward pass needs of the forward one: names of mean, r and n of all devices, float64."""

    mean: str
    r: str
    count: str


def synchronize(graph: StepGraph) -> int:
    """Let every batch normalization of a step take its statistics over all devices.

    Returns:
        How many there are.

    Raises:
        ConversionError: sizes are not known, or a gradient through the running statistics is asked for.
    """
    found: dict[tuple[str, ...], _Statistics] = {}
    for node in list(graph.in_order()):
        if _is_training(node):
            found[tuple(node.input)] = _forward(graph, node)
    for node in list(graph.nodes):
        if (node.domain, node.op_type) in {(DOMAIN, f"{_WRITTEN_OUT}Grad"), (DOMAIN, f"{_OPERATOR}Grad")}:
            operands = tuple(node.input[-5:])
            if operands in found:
                _backward(graph, node, found[operands])
    return len(found)


def _is_training(node: onnx.NodeProto) -> bool:
    if (node.domain, node.op_type) == (DOMAIN, _WRITTEN_OUT):
        return True
    return (node.domain, node.op_type) == ("", _OPERATOR) and bool(attribute(node, "training_mode", 0))


class _Channels:
    """Sums over all axes but the channels' of values shaped like x, and what undoes them."""

    def __init__(self, graph: StepGraph, x: str, scale: str) -> None:
        self.graph = graph
        dtype, shape = graph.types.get(x, (np.dtype(np.float32), None))
        if shape is None:
            raise ConversionError(f"several devices: x of a batch normalization must have a known rank, got {x!r}.")
        self.dtype = np.dtype(np.float32) if np.dtype(dtype).itemsize < 4 else np.dtype(dtype)
        self.own_dtype = np.dtype(dtype)
        self.size = graph.dims(scale, "scale of a batch normalization")[0]
        self.axes = graph.constant([0, *range(2, len(shape))], np.int64, f"{x}.axes")
        self._spread = graph.constant([-1, *[1] * (len(shape) - 2)], np.int64, f"{x}.channels")
        self._vector = graph.constant([-1], np.int64, f"{x}.vector")

    def wide(self, name: str) -> str:
        """Return a value in the type in which statistics are taken."""
        return name if self.own_dtype == self.dtype else self.graph.cast(name, self.dtype)

    def narrow(self, name: str, output: str) -> None:
        """Give a value the name and type that others read."""
        to = onnx.helper.np_dtype_to_tensor_dtype(self.own_dtype)
        self.graph.nodes.append(onnx.helper.make_node("Cast", [name], [output], name=output, to=to))

    def sum(self, name: str) -> str:
        """Return the sum of each channel, (C,)."""
        return self.graph.op("ReduceSum", name, self.axes, keepdims=0)

    def spread(self, name: str, dtype: Any = None) -> str:
        """Return one number per channel so that it broadcasts, in the type of statistics."""
        return self.graph.op("Reshape", self.graph.cast(name, dtype or self.dtype), self._spread)

    def count(self, name: str) -> str:
        """Return how many elements a channel has, float64."""
        sizes = self.graph.op("Gather", self.graph.op("Shape", name), self.axes)
        return self.graph.cast(self.graph.op("ReduceProd", sizes, keepdims=0), np.float64)


def _forward(graph: StepGraph, node: onnx.NodeProto) -> _Statistics:
    x, scale, bias, *running = node.input
    channels = _Channels(graph, x, scale)
    wide = channels.wide(x)
    mean = graph.op("ReduceMean", wide, channels.axes, keepdims=1)
    centred = graph.op("Sub", wide, mean)
    flat = graph.op("Reshape", graph.cast(mean, np.float64), channels._vector)
    count = channels.count(x)
    total = graph.op("Mul", flat, count)
    within = graph.cast(channels.sum(graph.op("Mul", centred, centred)), np.float64)
    squares = graph.op("Add", within, graph.op("Mul", total, flat))
    c = channels.size
    n, total, squares = graph.exchange([count, total, squares], [(), (c,), (c,)])
    mean = graph.op("Div", total, n)
    variance = graph.op("Sub", graph.op("Div", squares, n), graph.op("Mul", mean, mean))
    variance = graph.op("Max", variance, graph.constant(0, np.float64))
    epsilon = graph.constant(meant_number(node, "epsilon", 1e-5), np.float64, "epsilon")
    r = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", variance, epsilon)))
    slope = graph.op("Mul", graph.cast(scale, np.float64), r)
    again = graph.op("Sub", channels.wide(x), channels.spread(mean))
    y = graph.op("Mul", again, channels.spread(slope))
    channels.narrow(graph.op("Add", y, channels.spread(bias)), node.output[0])
    if attribute(node, "unbiased", 0):
        less = graph.op("Max", graph.op("Sub", n, graph.constant(1, np.float64)), graph.constant(1, np.float64))
        variance = graph.op("Mul", variance, graph.op("Div", n, less))
    momentum = meant_number(node, "momentum", 0.9)
    for old, new, output in zip(running, (mean, variance), node.output[1:], strict=False):
        if output:
            _blend(graph, old, new, output, momentum)
    graph.drop(node)
    return _Statistics(mean, r, n)


def meant_number(node: onnx.NodeProto, name: str, default: float) -> float:
    """Return a number as it was meant: 0.9, where a file holds the float32 next to it."""
    return float(str(np.float32(attribute(node, name, default))))


def _blend(graph: StepGraph, old: str, new: str, output: str, momentum: float) -> None:
    """Write the next running statistic, momentum old + (1 - momentum) new, in the type of the old one."""
    dtype = graph.types[old][0]
    kept = graph.op("Mul", old, graph.constant(momentum, dtype, "momentum"))
    added = graph.op("Mul", graph.cast(new, dtype), graph.constant(1 - momentum, dtype, "rest"))
    graph.nodes.append(onnx.helper.make_node("Add", [kept, added], [output], name=output))


def _backward(graph: StepGraph, node: onnx.NodeProto, statistics: _Statistics) -> None:
    dy, x, scale = node.input[0], node.input[-5], node.input[-4]
    if any(node.input[1 : (len(node.input) - 5) // 2]):
        raise ConversionError(
            f"several devices: a batch normalization's running statistics must have no gradient, got one in node "
            f"{node.name!r}. Train with statistics of each device."
        )
    channels = _Channels(graph, x, scale)
    dy = channels.wide(dy)
    centred = graph.op("Sub", channels.wide(x), channels.spread(statistics.mean))
    u = graph.op("Mul", centred, channels.spread(statistics.r))
    db, d_scale = channels.sum(dy), channels.sum(graph.op("Mul", dy, u))
    c = channels.size
    values = [graph.cast(db, np.float64), graph.cast(d_scale, np.float64)]
    sums = graph.exchange(values, [(c,), (c,)])
    along, across = (channels.spread(graph.op("Div", total, statistics.count)) for total in sums)
    again = graph.op("Sub", channels.wide(x), channels.spread(statistics.mean))
    rest = graph.op("Add", along, graph.op("Mul", graph.op("Mul", again, channels.spread(statistics.r)), across))
    slope = channels.spread(graph.op("Mul", graph.cast(scale, np.float64), statistics.r))
    dx = graph.op("Mul", slope, graph.op("Sub", dy, rest))
    for formal, output in zip(_formal_outputs(graph, node), node.output, strict=False):
        if output:
            _write(graph, {"dX": dx, "dSCALE": d_scale, "dB": db, "dBIAS": db}, formal, output, node)
    graph.drop(node)


def _formal_outputs(graph: StepGraph, node: onnx.NodeProto) -> Sequence[str]:
    key = (node.domain, node.op_type, node.overload)
    return next(list(f.output) for f in graph.functions if (f.domain, f.name, f.overload) == key)


def _write(graph: StepGraph, gradients: dict[str, str], formal: str, output: str, node: onnx.NodeProto) -> None:
    found = {name.lower(): value for name, value in gradients.items()}.get(formal.lower())
    if found is None:
        raise ConversionError(
            f"several devices: a batch normalization must ask for gradients of x, scale and bias alone, got {formal} "
            f"in node {node.name!r}. Train with statistics of each device."
        )
    operand = {"dx": node.input[-5], "dscale": node.input[-4]}.get(formal.lower(), node.input[-3])
    to = onnx.helper.np_dtype_to_tensor_dtype(graph.types[operand][0])
    graph.nodes.append(onnx.helper.make_node("Cast", [found], [output], name=output, to=to))
