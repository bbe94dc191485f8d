"""The tree as a person sees it: the walk of `print_tree`.

A line is printed after the lines of its inputs; then the walk goes on to those followers that lie exactly one level
deeper. A gradient node that serves several operands has one line for each.
"""

from __future__ import annotations

from collections.abc import Iterator

from renom_onnx.graph.node import BACKWARD, FORWARD, UPDATE, Constant, Mutable, Node, State, Value
from renom_onnx.graph.splice import Hole

Line = tuple[Node, int]
"""A node, and the operand's position for a gradient node (0 otherwise)."""

_PRINTED = {"ReduceSum": "Sum", "ReduceMean": "Mean", "Ones": "Constant"}


def printed_name(node: Node) -> str:
    """Return what `print_tree` calls a node: ONNX's name or the original's, with (F) or (B)."""
    if node.label:
        return node.label
    if node.tag == UPDATE:
        return "Update"
    if node.tag == FORWARD:
        return f"{_PRINTED.get(node.op_type, node.op_type)} (F)"
    forward = node.forward if node.function is not None and node.op_type != "Ones" else None
    of = node if forward is None else forward.origin or forward
    name = of.label or of.op_type
    return f"{_PRINTED.get(name, name)} (B)"


def line_text(line: Line) -> str:
    """Return one line of `print_tree`."""
    node = line[0]
    return f"I am a {printed_name(node)} at depth {node.depth} with tags: ['{node.tag}']"


def lines(start: Value) -> list[Line]:
    """Return the lines of the tree that an element is part of, in the order of the walk."""
    found: list[Line] = []
    first = _line(start)
    seen = {first}
    stack: list[tuple[Line, Iterator[Line], bool]] = [(first, _inputs(first), False)]
    while stack:
        line, rest, is_printed = stack[-1]
        following = next((other for other in rest if other not in seen), None)
        if following is not None:
            seen.add(following)
            stack.append((following, _inputs(following), False))
        elif is_printed:
            stack.pop()
        else:
            found.append(line)
            stack[-1] = (line, _followers(line), True)
    return found


def _line(value: Value) -> Line:
    node = value.node.origin or value.node  # what a node is in training is not another element
    return (node, value.index) if node.tag == BACKWARD and not node.is_leaf else (node, 0)


def _inputs(line: Line) -> Iterator[Line]:
    if line[0].is_cut:
        return
    for value in line[0].inputs:
        if value is not None and not _is_hidden(value.node):
            yield _line(value)


def _is_hidden(node: Node) -> bool:
    """Constants, holes, optimizer state and the numbers that all updates share are no elements."""
    return (
        isinstance(node, Constant | Hole | State)
        or type(node) is Mutable
        or (node.tag == UPDATE and node.forward is None)
    )


def _followers(line: Line) -> Iterator[Line]:
    node, index = line
    values = [node.outputs[index]] if node.tag == BACKWARD and not node.is_leaf else list(node.outputs)
    copies = [copy for ref in node.training_copies if (copy := ref()) is not None]
    values += [value for copy in copies for value in copy.outputs]
    followers = dict.fromkeys(f for value in values for f in value.followers if f.origin is None and not _is_hidden(f))
    for follower in sorted(followers, key=lambda n: n.depth):
        if follower.depth != node.depth + 1:
            continue
        if follower.tag == BACKWARD:
            yield from ((follower, i) for i in range(len(follower.outputs)))
        else:
            yield (follower, 0)
