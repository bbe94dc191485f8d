"""Which values a session may write over while it runs.

onnxruntime does not know that an output is bound to the memory of an input. It is right nevertheless where everybody
who reads the old value has finished before the node that writes the new one, or is that node and works element by
element. Without this check a step that writes its weights in place computes wrong numbers and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import inliner

from renom_onnx.converters.importer import captured

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Exp", "Floor", "Identity", "Log", "Max", "Mean", "Min", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where",
}  # fmt: skip
_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators whose output may be the memory of their operand."""


def in_place(model: onnx.ModelProto, bindings: Mapping[str, str]) -> set[str]:
    """Return the inputs whose memory their next values may be written into.

    Args:
        model: what a session runs.
        bindings: output by input, of the same type and shape.
    """
    nodes = inliner.inline_local_functions(model).graph.node if model.functions else model.graph.node
    readers: dict[str, list[int]] = {}
    writers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in _reads(node):
            readers.setdefault(name, []).append(i)
        writers.update((name, i) for name in node.output if name)
    safe = set()
    for key, output in bindings.items():
        if output not in writers or output == key:
            continue
        writer = writers[output]
        before = _ancestors(nodes, writers, writer)
        found = _all_readers(nodes, readers, key)
        if all(i in before or (i == writer and nodes[i].op_type in _ELEMENTWISE) for i in found):
            safe.add(key)
    return safe


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    return (name for name in [*node.input, *captured(node)] if name)


def _all_readers(nodes: list[onnx.NodeProto], readers: Mapping[str, list[int]], name: str) -> set[int]:
    """Return who reads a value, or a view of it."""
    found: set[int] = set()
    stack = [name]
    while stack:
        for i in readers.get(stack.pop(), ()):
            if i not in found:
                found.add(i)
                if nodes[i].op_type in _VIEWS:
                    stack += nodes[i].output
    return found


def _ancestors(nodes: list[onnx.NodeProto], writers: Mapping[str, int], start: int) -> set[int]:
    """Return the nodes that a node needs, without itself."""
    found: set[int] = set()
    stack = [start]
    while stack:
        for name in _reads(nodes[stack.pop()]):
            i = writers.get(name)
            if i is not None and i not in found:
                found.add(i)
                stack.append(i)
    return found
