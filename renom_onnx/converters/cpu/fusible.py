"""Nodes of a step written anew so that onnxruntime fuses them, or computes once what two of them ask for.

A file states layers as they are, one node for each. Where a session knows that its runtime would do less for another
form of the same node, it writes that form: here those that need no sizes and no kernels of their own.
"""

from __future__ import annotations

import onnx

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.structure import replace_all
from renom_onnx.converters.variants import Writer
from renom_onnx.graph.function import DOMAIN


def with_fusible_nodes(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose normalizations and biases are shared and fused.

    Args:
        model: a step; its graph is looked at, not what its functions call.
        shapes: of the step's values.
    """
    used = {node.op_type for node in model.graph.node}
    if not used & {"LayerNormalization", "MatMul"}:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _state_statistics(changed.graph)
    if {"MatMul", "Add"} <= used:
        _flatten_biases(changed.graph, shapes)
    return changed


def _state_statistics(graph: onnx.GraphProto) -> None:
    """Let a layer normalization put out the mean and the 1 / s that its gradient asks the same operator for."""
    gradients = [node for node in graph.node if _is(node, DOMAIN, "LayerNormalizationGrad")]
    asked = {tuple(node.input[-n:]) for node in gradients for n in (2, 3)}
    for node in graph.node:
        if _is(node, "", "LayerNormalization") and len(node.output) == 1 and tuple(node.input) in asked:
            node.output.extend(f"fused.{node.output[0]}.{name}" for name in ("mean", "reciprocal"))


def _flatten_biases(graph: onnx.GraphProto, shapes: KnownShapes) -> None:
    """Write x w + b with b (1, n) as x w + b (n), which becomes one Gemm for x of more than two axes too."""
    products = {node.output[0] for node in graph.node if _is(node, "", "MatMul")}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if _is(node, "", "Add"):
            for i, bias in enumerate(node.input):
                y = shapes.get(node.input[1 - i], ())
                if node.input[1 - i] in products and len(y) > 2 and shapes.get(bias) == (1, y[-1]):
                    op = Writer(f"fused.{node.output[0]}.bias")
                    node.input[i] = op.op("Reshape", bias, op.integers([-1]))
                    nodes += op.nodes
        nodes.append(node)
    replace_all(graph.node, nodes)


def _is(node: onnx.NodeProto, domain: str, op_type: str) -> bool:
    return (node.domain, node.op_type) == (domain, op_type)
