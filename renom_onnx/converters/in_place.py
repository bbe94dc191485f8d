"""Which values a session may write over while it runs.

onnxruntime does not know that an output is bound to the memory of an input. It is right nevertheless where everybody
who reads the old value has finished before the node that writes the new one, or is that node and works element by
element. Without this check a step that writes its weights in place computes wrong numbers and says nothing.

A step may also end with an error, and must then have changed nothing. What can end one batch and not another of its
size is an index that is out of range; so what is written over is written after all of these were looked at. An index
that no batch changes, being made of constants and sizes, is right in every step or in none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import inliner, numpy_helper

from renom_onnx.converters.importer import captured
from renom_onnx.converters.index_read import SAME
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import subgraphs

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Exp", "Floor", "Identity", "Log", "Max", "Mean", "Min", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where",
}  # fmt: skip
_INDEXED = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "NegativeLogLikelihoodLoss": 1, "OneHot": 0, "ScatterElements": 1,
    "ScatterND": 1, "SoftmaxCrossEntropyLoss": 1,
}  # fmt: skip
"""Operators that stop where an index is out of range, and which operand it is."""
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
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
    try:
        graph = inliner.inline_local_functions(model).graph if model.functions else model.graph
    except RuntimeError:
        return set()  # calls that do not fit their functions, of which onnxruntime will tell
    nodes = [_Node(node) for node in graph.node]
    readers: dict[str, list[int]] = {}
    writers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.reads:
            readers.setdefault(name, []).append(i)
        writers.update((name, i) for name in node.outputs if name)
    if any(writers.get(name, -1) >= i for i, node in enumerate(nodes) for name in node.reads):
        return set()  # nodes out of order, of which onnxruntime will tell
    ancestors = _ancestors(nodes, writers)
    looks = _looks(nodes, writers, graph) if survives_errors else []
    safe = set()
    for key, output in bindings.items():
        if output not in writers or output == key:
            continue
        writer = writers[output]
        before = ancestors[writer]
        own = _all_readers(nodes, readers, key)
        others = {i for name in (aliases or {}).get(key, ()) for i in _all_readers(nodes, readers, name)}
        may_write = writer not in own or (writer not in others and _reads_along(nodes[writer], key))
        if may_write and all(before >> i & 1 for i in own - {writer} | others) and _is_after(before, looks):
            safe.add(key)
    return safe


class _Node:
    """A node, and what of it is asked for many times."""

    def __init__(self, proto: onnx.NodeProto) -> None:
        self.proto = proto
        self.op_type: str = proto.op_type
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.reads = [name for name in [*self.inputs, *captured(proto)] if name]


def _reads_along(node: _Node, name: str) -> bool:
    """Whether a node reads each element of a value before it writes the one in its place."""
    along = {"Gemm": node.inputs[2:], "GatedAdd": node.inputs[:2]}.get(node.op_type, [])
    return node.op_type in _ELEMENTWISE or (name in along and node.inputs.count(name) == 1)


@dataclass(frozen=True)
class _Look:
    """A node that looks at an index.

    Attributes:
        place: of the node.
        name: of the index, as it was before it got another shape.
        limit: how far it may go, where that is known.
    """

    place: int
    name: str
    limit: int | None


def _looks(nodes: Sequence[_Node], writers: Mapping[str, int], graph: onnx.GraphProto) -> list[_Look]:
    """Return who looks at the indices that a batch changes."""
    fixed = {tensor.name for tensor in graph.initializer}
    dims = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    found = []
    for i, node in enumerate(nodes):
        if node.op_type in _CONTROL_FLOW:
            if not _is_plain_scan(node.proto, fixed):
                found.append(_Look(i, f"node {i}", None))  # whatever is in it, nobody else looks at the same
        elif _is_fixed(node.op_type, node.reads, fixed):
            fixed.update(node.outputs)
        elif node.op_type in _INDEXED:
            name = node.inputs[_INDEXED[node.op_type]]
            while name in writers and nodes[writers[name]].op_type in SAME:
                name = nodes[writers[name]].inputs[0]
            is_right = _is_place_of_maximum(node, name, nodes, writers, fixed) or _is_in(
                node, name, nodes, writers, graph
            )
            if name not in fixed and not is_right:
                found.append(_Look(i, name, _limit(node, dims)))
    return found


def _is_place_of_maximum(
    node: _Node, index: str, nodes: Sequence[_Node], writers: Mapping[str, int], fixed: set[str]
) -> bool:
    """Whether an index is the positions that MaxPool found, and something is put there into zeros of its size."""
    pool = nodes[writers[index]] if index in writers else None
    is_position = pool is not None and pool.op_type == "MaxPool" and index in pool.outputs[1:]
    return is_position and node.op_type == "ScatterElements" and node.inputs[0] in fixed


def _is_in(node: _Node, index: str, nodes: Sequence[_Node], writers: Mapping[str, int], graph: onnx.GraphProto) -> bool:
    """Whether a node gathers from a constant, at an index that is cut off where the constant ends."""
    clip = nodes[writers[index]] if node.op_type == "Gather" and index in writers else None
    if clip is None or clip.op_type != "Clip":
        return False
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in [node.inputs[0], *clip.inputs]}
    bounds = [numpy_helper.to_array(constants[name]) for name in clip.inputs[1:] if name in constants]
    table = constants.get(node.inputs[0])
    if len(bounds) < 2 or any(bound.size != 1 for bound in bounds) or table is None or node.proto.attribute:
        return False
    return bool(bounds[0] >= 0 and len(table.dims) and bounds[1] < table.dims[0])


def _limit(node: _Node, dims: Mapping[str, Sequence[onnx.TensorShapeProto.Dimension]]) -> int | None:
    """Return the size of the axis of an input of the step that a node looks into."""
    axes, axis = dims.get(node.inputs[0], ()), attribute(node.proto, "axis", 0)
    if node.op_type not in ("Gather", "GatherElements", "ScatterElements") or not isinstance(axis, int):
        return None
    is_known = -len(axes) <= axis < len(axes) and axes[axis].HasField("dim_value")
    return axes[axis].dim_value if is_known else None


def _is_plain_scan(node: onnx.NodeProto, fixed: Collection[str]) -> bool:
    """Whether a node is a Scan whose steps look at no index that a batch changes, as those of recurrent networks."""
    if node.op_type != "Scan":
        return False
    (body,) = subgraphs(node)
    known = {*fixed, *(tensor.name for tensor in body.initializer)} - {value.name for value in body.input}
    for each in body.node:
        if each.op_type in _CONTROL_FLOW or not known.issuperset(_index(each)):
            return False
        if _is_fixed(each.op_type, filter(None, each.input), known):
            known.update(each.output)
    return True


def _index(node: onnx.NodeProto) -> list[str]:
    """Return the index that a node looks at, if it does."""
    return [node.input[_INDEXED[node.op_type]]] if node.op_type in _INDEXED else []


def _is_fixed(op_type: str, reads: Iterable[str], fixed: Collection[str]) -> bool:
    """Whether what a node gives depends on constants and sizes alone."""
    return op_type in _OF_SIZES or (op_type not in _RANDOM and all(name in fixed for name in reads))


def _is_after(before: int, looks: Sequence[_Look]) -> bool:
    """Whether every index, or the same in another node with no wider limit, is looked at before."""
    seen: dict[str, list[int | None]] = {}
    for look in looks:
        if before >> look.place & 1:
            seen.setdefault(look.name, []).append(look.limit)
    return all(any(_is_as_strict(limit, look.limit) for limit in seen.get(look.name, ())) for look in looks)


def _is_as_strict(limit: int | None, other: int | None) -> bool:
    return limit is None or other is None or limit <= other


def _all_readers(nodes: Sequence[_Node], readers: Mapping[str, list[int]], name: str) -> set[int]:
    """Return who reads a value, or a view of it."""
    found: set[int] = set()
    stack = [name]
    while stack:
        for i in readers.get(stack.pop(), ()):
            if i not in found:
                found.add(i)
                if nodes[i].op_type in _VIEWS:
                    stack += nodes[i].outputs
    return found


def _ancestors(nodes: Sequence[_Node], writers: Mapping[str, int]) -> list[int]:
    """Return for each node those that it needs, as the bits of a number; the nodes are in order."""
    found: list[int] = []
    for node in nodes:
        bits = 0
        for i in {writers[name] for name in node.reads if name in writers} if node.op_type not in _OF_SIZES else ():
            bits |= found[i] | 1 << i
        found.append(bits)
    return found
