"""Batch normalization in training by the operator's own kernel, which the CPU has and CUDA has not.

The file writes it out. The kernel of BatchNormalization with ``training_mode`` takes fewer passes over the batch; with
a momentum of 0 it returns mean and variance of the batch, of which next running statistics and gradient are made.

The kernel may write its running statistics into the buffers of those that go in, constants too, and onnxruntime shares
equal constants and equal expressions. So what goes in is zeros that each node computes from x by an expression that no
other node has.

In the gradient, the operator's kernel at rest makes k z + c in one pass, and where there are blocked kernels, a
depthwise convolution with a kernel as large as its image sums dy z as it multiplies: the elements of a channel lie one
behind the other, and every b-th of them is a channel of its own to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.batch_statistics import meant_number
from renom_onnx.converters.cpu.blocked_layout import BLOCKED
from renom_onnx.converters.cpu.contrib import declare
from renom_onnx.converters.cpu.known_shapes import KnownShapes, Sizes
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import functions_of, key_of, replace_all
from renom_onnx.converters.variants import Writer
from renom_onnx.graph.function import DOMAIN

_TRAIN = (DOMAIN, "BatchNormalizationTrain")
_GRADIENT = (DOMAIN, "BatchNormalizationTrainGrad")

Write = Callable[..., str]


@dataclass(frozen=True)
class _Statistics:
    """Names of the mean and of s = sqrt(variance + epsilon) of a batch, shaped to broadcast over x."""

    mean: str
    s: str


def with_batch_operators(model: onnx.ModelProto, shapes: KnownShapes, block: int = 0) -> onnx.ModelProto:
    """Return a step whose batch normalizations, in training, are the operator's.

    Args:
        model: a step; its graph is looked at, not what its functions call.
        shapes: of the step's values.
        block: channels of a block of the blocked layout, 0 where there are no kernels for it.
    """
    if not any((node.domain, node.op_type) == _TRAIN for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    functions = functions_of(model)
    found: dict[tuple[str, ...], _Statistics] = {}
    nodes: list[onnx.NodeProto] = []
    for i, node in enumerate(model.graph.node):
        op = Writer(f"batch{i}.{next(filter(None, node.output), '')}")
        if (node.domain, node.op_type) == _TRAIN and _is_served(node, shapes):
            found[tuple(node.input)] = _forward(op, node, shapes[node.input[0]], i)
        elif (node.domain, node.op_type) == _GRADIENT and key_of(node) in functions:
            function = functions[key_of(node)]
            actual = dict(zip(function.input, node.input, strict=False))
            statistics = found.get(tuple(node.input[-5:]))
            if statistics is not None and actual.get("dY") and not actual.get("dY2") and not actual.get("dY3"):
                outputs = dict(zip(function.output, node.output, strict=False))
                _backward(op, actual, outputs, shapes[actual["X"]], statistics, block)
        nodes += op.nodes or [node]
    replace_all(changed.graph.node, nodes)
    declare(changed, BLOCKED)
    return changed


def _is_served(node: onnx.NodeProto, shapes: KnownShapes) -> bool:
    """Whether all operands are float32 of known sizes, and there is a batch."""
    return all(name in shapes for name in node.input) and math.prod(shapes[node.input[0]]) > 0


def _forward(op: Writer, node: onnx.NodeProto, shape: Sizes, number: int) -> _Statistics:
    x, scale, bias = node.input[:3]
    epsilon, y = meant_number(node, "epsilon", 1e-5), node.output[0]
    zeros = _zeros(op, x, shape, number)
    batch = op.op_of_three(
        "BatchNormalization", x, scale, bias, zeros, op.op("Abs", zeros), output=y, training_mode=1, momentum=0.0,
        epsilon=epsilon,
    )  # fmt: skip
    write_running(op.op, node, batch, _count(shape))
    spread = op.integers([-1, *[1] * (len(shape) - 2)])
    mean, variance = (op.op("Reshape", value, spread) for value in batch)
    return _Statistics(mean, op.op("Sqrt", op.op("Add", variance, constant(op.op, epsilon))))


def _backward(
    op: Writer,
    actual: Mapping[str, str],
    outputs: Mapping[str, str],
    shape: Sizes,
    statistics: _Statistics,
    block: int,
) -> None:
    """Write dx = a dy + (k z + c) with z = x - mean, as the rule of the gradient does; here all are (C,)."""
    dy, x, scale = (actual[formal] for formal in ("dY", "X", "SCALE"))
    axes, channels = op.integers([0, *range(2, len(shape))]), op.integers([-1])
    z, s = op.op("Sub", x, statistics.mean), op.op("Reshape", statistics.s, channels)
    total, along = op.op("ReduceSum", dy, axes, keepdims=0), _along(op, dy, z, shape, block)
    for formal, value in (("dSCALE", op.op("Div", along, s)), ("dBIAS", total)):
        if outputs.get(formal):
            op.op("Reshape", value, channels, output=outputs[formal])
    if not outputs.get("dX"):
        return
    a = op.op("Div", scale, s)
    share = op.op("Mul", a, constant(op.op, -1 / _count(shape)))
    k, c = op.op("Mul", share, op.op("Div", along, op.op("Mul", s, s))), op.op("Mul", share, total)
    none, one = (op.op("Expand", constant(op.op, value), op.integers([shape[1]])) for value in (0, 1))
    moved = op.op("BatchNormalization", z, k, c, none, one, epsilon=0.0)
    spread = op.op("Reshape", a, op.integers([-1, *[1] * (len(shape) - 2)]))
    op.op("Add", op.op("Mul", dy, spread), moved, output=outputs["dX"])


def _along(op: Writer, dy: str, z: str, shape: Sizes, block: int) -> str:
    """Return the sum of dy z for each channel."""
    n, c, *rest = shape
    size = math.prod(rest)
    if not block or size % block or not rest:
        return op.op("ReduceSum", op.op("Mul", dy, z), op.integers([0, *range(2, len(shape))]), keepdims=0)
    lanes, row = n * c * block, size // block
    image = op.op("Reshape", z, op.integers([1, lanes, 1, row]))
    kernel = op.op("Reshape", dy, op.integers([lanes, 1, 1, row]))
    each = op.op("Conv", image, kernel, domain=BLOCKED, group=lanes, kernel_shape=[1, row], strides=[1, 1])
    return op.op("ReduceSum", op.op("Reshape", each, op.integers([n, c, block])), op.integers([0, 2]), keepdims=0)


def _zeros(op: Writer, x: str, shape: Sizes, number: int) -> str:
    """Return a zero for each channel in a buffer of its own: e - e, where e is an element of x times a number."""
    others = [axis for axis in range(len(shape)) if axis != 1]
    first = op.op("Slice", x, op.integers([0] * len(others)), op.integers([1] * len(others)), op.integers(others))
    e = op.op("Mul", op.op("Reshape", first, op.integers([-1])), constant(op.op, number + 2))
    return op.op("Sub", e, e)


def write_running(write: Write, node: onnx.NodeProto, batch: Sequence[str], count: int) -> None:
    """Write the next running mean and variance that a BatchNormalizationTrain is asked for.

    Args:
        write: writes a node and returns its output.
        node: that is asked.
        batch: names of mean and variance of the batch.
        count: elements of a channel.
    """
    momentum = meant_number(node, "momentum", 0.9)
    factor = count / max(count - 1, 1) if attribute(node, "unbiased", 0) else 1.0
    following = [*node.output, "", ""][1:3]
    for old, new, output, share in zip(node.input[3:], batch, following, (1.0, factor), strict=False):
        if output:
            kept = write("Mul", old, constant(write, momentum))
            write("Add", kept, write("Mul", new, constant(write, (1 - momentum) * share)), output=output)


def _count(shape: Sizes) -> int:
    """Return how many elements a channel has."""
    return math.prod(shape) // shape[1]


def constant(write: Write, value: float) -> str:
    """Return a float32 constant."""
    return write("Constant", value=numpy_helper.from_array(np.array(value, np.float32)))
