"""Which values a session may write over while it runs.

onnxruntime does not know that an output is bound to the memory of an input. It is right nevertheless where everybody
who reads the old value has finished before the node that writes the new one, or is that node and works element by
element. Without this check a step that writes its weights in place computes wrong numbers and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import inliner

from renom_onnx.converters.importer import captured
from renom_onnx.converters.structure import every_node, subgraphs

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Exp", "Floor", "Identity", "Log", "Max", "Mean", "Min", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where",
}  # fmt: skip
_INDEXED = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "NegativeLogLikelihoodLoss": 1, "OneHot": 0, "ScatterElements": 1,
    "ScatterND": 1, "SoftmaxCrossEntropyLoss": 1,
}  # fmt: skip
"""Operators that stop where an index is out of range, and which operand it is."""
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_OF_SIZES = {"Shape", "Size"}
"""Operators that a session computes when it is opened, where sizes are known: they wait for nobody."""
_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators whose output may be the memory of their operand."""


def in_place(
    model: onnx.ModelProto,
    bindings: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] | None = None,
    *,
    survives_errors: bool = False,
) -> set[str]:
    """Return the inputs whose memory their next values may be written into.

    Args:
        model: what a session runs.
        bindings: output by input, of the same type and shape.
        aliases: other names of parts of an input's memory, by input.
        survives_errors: leave out what is written before the last index of the step was looked at, which may be out
            of range and end the step.
    """
    nodes = inliner.inline_local_functions(model).graph.node if model.functions else model.graph.node
    readers: dict[str, list[int]] = {}
    writers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in _reads(node):
            readers.setdefault(name, []).append(i)
        writers.update((name, i) for name in node.output if name)
    ancestors = _ancestors(nodes, writers)
    looked_up = _indexed(nodes, writers) if survives_errors else {}
    safe = set()
    for key, output in bindings.items():
        if output not in writers or output == key:
            continue
        writer = writers[output]
        before = ancestors[writer]
        own = _all_readers(nodes, readers, key)
        others = {i for name in (aliases or {}).get(key, ()) for i in _all_readers(nodes, readers, name)}
        may_write = writer not in own or (writer not in others and _reads_along(nodes[writer], key))
        if may_write and all(before >> i & 1 for i in own - {writer} | others) and _is_after(before, looked_up):
            safe.add(key)
    return safe


def _reads_along(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node reads each element of a value before it writes the one in its place."""
    return node.op_type in _ELEMENTWISE or (node.op_type == "Gemm" and name not in node.input[:2])


def _indexed(nodes: Sequence[onnx.NodeProto], writers: Mapping[str, int]) -> dict[int, str]:
    """Return the nodes that look at an index, and what it was before it got another shape."""
    found = {}
    for i, node in enumerate(nodes):
        if node.op_type in _INDEXED:
            name = node.input[_INDEXED[node.op_type]]
            while name in writers and nodes[writers[name]].op_type in {*_VIEWS, "Cast"}:
                name = nodes[writers[name]].input[0]
            found[i] = name
        elif node.op_type in _CONTROL_FLOW and not _is_plain_scan(node):
            found[i] = f"node {i}"  # whatever is in it, nobody else looks at the same
    return found


def _is_plain_scan(node: onnx.NodeProto) -> bool:
    """Whether a node is a Scan whose steps look at no index, as those of recurrent networks."""
    inner = {each.op_type for body in subgraphs(node) for each in every_node(body.node)}
    return node.op_type == "Scan" and not inner & {*_INDEXED, *_CONTROL_FLOW}


def _is_after(before: int, looked_up: Mapping[int, str]) -> bool:
    """Whether every index, or the same in another node, is looked at before."""
    seen = {name for i, name in looked_up.items() if before >> i & 1}
    return all(name in seen for name in looked_up.values())


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    return (name for name in [*node.input, *captured(node)] if name)


def _all_readers(nodes: Sequence[onnx.NodeProto], readers: Mapping[str, list[int]], name: str) -> set[int]:
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


def _ancestors(nodes: Sequence[onnx.NodeProto], writers: Mapping[str, int]) -> list[int]:
    """Return for each node those that it needs, as the bits of a number; the nodes are in order."""
    found: list[int] = []
    for node in nodes:
        bits = 0
        needs = () if node.op_type in _OF_SIZES else _reads(node)
        for i in {writers[name] for name in needs if name in writers}:
            bits |= found[i] | 1 << i
        found.append(bits)
    return found
