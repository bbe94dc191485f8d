"""Variants: other nodes with the same meaning, for a device that does better, or only, with these.

A file holds portable bodies. What a device runs instead is written here, by operator or by name of a function; the
attributes and operands of the node are those of the file. A variant is there because a provider lacks a kernel, or
because a measurement on that device says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.step_graph import attribute
from renom_onnx.gradients.kernel_gradient import SUM_OVER_SAMPLES

Nodes = list[onnx.NodeProto]
Variant = Callable[[onnx.NodeProto, str], "Nodes | None"]
"""Called with a node and a prefix for new names; returns the nodes in its place, or None where it does not serve."""

VARIANTS: dict[str, dict[tuple[str, str], Variant]] = {"cpu": {}, "cuda": {}}
"""By kind of device, then by domain and operator (or function)."""


def for_device(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Return the model with the variants of a kind of device, in its graph and in its functions."""
    variants = VARIANTS[kind]
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    if not any((node.domain, node.op_type) in variants for nodes in bodies for node in nodes):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for i, nodes in enumerate([changed.graph.node, *(function.node for function in changed.functions)]):
        replaced = list(_replaced(nodes, variants, f"variant{i}"))
        del nodes[:]
        nodes.extend(replaced)
    return changed


def _replaced(
    nodes: Iterable[onnx.NodeProto], variants: dict[tuple[str, str], Variant], prefix: str
) -> Iterable[onnx.NodeProto]:
    for i, node in enumerate(nodes):
        variant = variants.get((node.domain, node.op_type))
        made = None if variant is None else variant(node, f"{prefix}.{i}.{node.output[0]}")
        yield from [node] if made is None else made


class Writer:
    """Writes the nodes of a variant.

    Args:
        prefix: of the names of new values, which nothing else in the model has.

    Attributes:
        nodes: what was written.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: Nodes = []

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Write a node with one output and return its name."""
        name = output or f"{self._prefix}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def op_of_three(self, op_type: str, *inputs: str, output: str, **attributes: Any) -> list[str]:
        """Write a node with three outputs and return the names of the second and the third."""
        name = f"{self._prefix}.{len(self.nodes)}"
        others = [f"{name}.2", f"{name}.3"]
        self.nodes.append(helper.make_node(op_type, list(inputs), [output or name, *others], name=name, **attributes))
        return others

    def halves(self, value: str, axis: int) -> list[str]:
        """Write a Split into two equal parts and return their names."""
        name = f"{self._prefix}.{len(self.nodes)}"
        parts = [f"{name}.1", f"{name}.2"]
        self.nodes.append(helper.make_node("Split", [value], parts, name=name, axis=axis, num_outputs=2))
        return parts

    def integers(self, values: Sequence[int]) -> str:
        """Write a constant and return its name."""
        return self.op("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))


def _unpool_by_scatter(node: onnx.NodeProto, prefix: str) -> Nodes | None:
    """MaxUnpool, for which CUDA has no kernel: zeros of its output's size, with x at the indices.

    The indices count the elements of the whole output, of (in - 1) stride + kernel - pads elements along each axis.
    """
    if len(node.input) > 2 and node.input[2]:
        return None  # indices count the elements of one size, the output has another
    op = Writer(prefix)
    x, indices = node.input[:2]
    kernel = list(attribute(node, "kernel_shape", []))
    strides = list(attribute(node, "strides", [1] * len(kernel)))
    pads = list(attribute(node, "pads", [0] * (2 * len(kernel))))
    rest = [k - s - b - e for k, s, b, e in zip(kernel, strides, pads[: len(kernel)], pads[len(kernel) :], strict=True)]
    image = op.op("Mul", op.op("Shape", x, start=2), op.integers(strides))
    shape = op.op("Concat", op.op("Shape", x, end=2), op.op("Add", image, op.integers(rest)), axis=0)
    zeros = op.op("CastLike", op.op("ConstantOfShape", op.op("ReduceProd", shape, keepdims=1)), x)
    flat = op.integers([-1])
    scattered = op.op("ScatterElements", zeros, op.op("Reshape", indices, flat), op.op("Reshape", x, flat), axis=0)
    op.op("Reshape", scattered, shape, output=node.output[0])
    return op.nodes


VARIANTS["cuda"]["", "MaxUnpool"] = _unpool_by_scatter


def _samples_at_once(node: onnx.NodeProto, prefix: str) -> Nodes | None:
    """The steps of a Scan over some samples each, which spare a CPU's caches, as one step for all.

    A GPU is kept busy by large kernels and waits for control flow, which no CUDA graph can record.
    """
    body = attribute(node, "body", None)
    if body is None or body.name != SUM_OVER_SAMPLES:
        return None
    op = Writer(prefix)
    total, start = (value.name for value in body.input)
    outside = {total: node.input[0]}
    for tensor in body.initializer:
        outside[tensor.name] = op.op("Constant", value=tensor)
    of_step = {start}
    for inner in body.node:
        if of_step.isdisjoint(inner.input):
            here = onnx.NodeProto()
            here.CopyFrom(inner)
            here.input[:] = [outside.get(name, name) for name in inner.input]
            here.output[:] = [f"{prefix}.{name}" for name in inner.output]
            outside.update(zip(inner.output, here.output, strict=True))
            op.nodes.append(here)
        elif inner.op_type == "Slice":  # of the samples of a step
            outside[inner.output[0]] = outside.get(inner.input[0], inner.input[0])
        else:
            of_step.update(inner.output)
    op.op("Identity", outside[body.output[0].name], output=node.output[0])
    return op.nodes


VARIANTS["cuda"]["", "Scan"] = _samples_at_once
