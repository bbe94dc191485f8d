"""Control flow that computes what is read and nothing else: runtimes run If, Loop and Scan as they are written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from renom_onnx.graph.body import Body, attribute_bodies, captures, operand_count
from renom_onnx.graph.node import Node, Value, ancestors


def narrowed(outputs: Sequence[Value], stop: Collection[Node]) -> list[Value]:
    """Return the values as If, Loop and Scan compute them that give out nothing which nobody reads.

    Args:
        outputs: the values.
        stop: nodes that are left alone.
    """
    values, is_done = list(outputs), False
    while not is_done:  # what one node no longer reads, another one need not compute
        is_done = True
        nodes = ancestors(values, stop)
        read = {value for node in nodes for value in node.inputs} | set(values)
        made: dict[Value, Value] = {}
        for node in nodes:
            part = _part(node, {i for i, value in enumerate(node.outputs) if value in read})
            inputs = [None if v is None else made.get(v, v) for v in node.inputs]
            if part is not None:
                is_done = False
                made.update(part.node(node, inputs))
            elif any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
                made.update(zip(node.outputs, node.copy(inputs).outputs, strict=True))
        values = [made.get(v, v) for v in values]
    return values


@dataclass(frozen=True)
class _Part:
    """What is left of a node: attributes, positions of its operands, numbers of its outputs."""

    attributes: dict[str, Any]
    operands: list[int]
    outputs: list[int]

    def node(self, whole: Node, inputs: Sequence[Value | None]) -> dict[Value, Value]:
        """Return what stands for the outputs of the whole node that are left, over other inputs."""
        given = [inputs[i] for i in self.operands]
        start = operand_count(whole)
        for (body, _), (_, part) in zip(captures(whole), attribute_bodies(self.attributes), strict=True):
            outside = dict(zip(body.captures, inputs[start:], strict=False))
            given += [outside[formal] for formal in part.captures]
            start += len(body.captures)
        node = Node(
            whole.op_type,
            given,
            [(whole.outputs[i].dtype, whole.outputs[i].shape) for i in self.outputs],
            opset=whole.opset,
            attributes=self.attributes,
            tag=whole.tag,
            site=whole.site,
        )
        return {whole.outputs[i]: value for i, value in zip(self.outputs, node.outputs, strict=True)}


def _part(node: Node, read: set[int]) -> _Part | None:
    """Return what is left of a node if only these outputs are read; None if all is."""
    if node.op_type not in {"If", "Loop", "Scan"} or node.domain or len(read) == len(node.outputs):
        return None
    if node.op_type == "If":
        numbers = sorted(read)
        cut = {name: _cut(body, (), [body.outputs[i] for i in numbers]) for name, body in node.attributes.items()}
        return _Part(cut, [0], numbers)
    body: Body = node.attributes["body"]
    is_loop = node.op_type == "Loop"
    head = 2 if is_loop else 0
    goes_on, outs = (body.outputs[:1], body.outputs[1:]) if is_loop else ((), body.outputs)
    n_slices = node.attributes.get("num_scan_inputs", 0)
    states, slices = body.inputs[head : len(body.inputs) - n_slices], body.inputs[len(body.inputs) - n_slices :]
    while True:  # a state that is read alone, by what is left, is left
        numbers = sorted(read)
        ends = [*goes_on, *(outs[i] for i in numbers)]
        found = _formals(body, ends)
        more = {i for i, state in enumerate(states) if state in found} - read
        if not more:
            break
        read = read | more
    if len(numbers) == len(node.outputs):
        return None
    kept = [i for i in range(len(states)) if i in read]
    scanned = [j for j, x in enumerate(slices) if x in found] or [0][:n_slices]  # one of them tells how many steps
    inputs = [*body.inputs[:head], *(states[i] for i in kept), *(slices[j] for j in scanned)]
    attributes = {**node.attributes, "body": _cut(body, inputs, ends)}
    if not is_loop:
        attributes["num_scan_inputs"] = len(scanned)
        stacked = [i - len(states) for i in numbers if i >= len(states)]
        for kind, places in (("input", scanned), ("output", stacked)):
            for what in (f"scan_{kind}_axes", f"scan_{kind}_directions"):
                if what in attributes:
                    attributes[what] = tuple(attributes[what][i] for i in places)
    operands = [*range(head), *(head + i for i in kept), *(head + len(states) + j for j in scanned)]
    return _Part({k: v for k, v in attributes.items() if v != ()}, operands, numbers)


def _formals(body: Body, ends: Iterable[Value]) -> set[Value]:
    """Return the inputs and captures that some outputs need."""
    own = {value.node: value for value in (*body.inputs, *body.captures)}
    return {own[node] for node in ancestors(ends) if node in own}


def _cut(body: Body, inputs: Sequence[Value], ends: Sequence[Value]) -> Body:
    """Return the body of some of its outputs."""
    found = _formals(body, ends)
    formals = {value.node for value in (*body.inputs, *body.captures)}
    nodes = tuple(node for node in ancestors(ends) if node not in formals)
    return Body(body.name, tuple(inputs), tuple(c for c in body.captures if c in found), tuple(ends), nodes)
