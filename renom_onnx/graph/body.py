"""`Body`: the graph that is the value of an attribute of If, Loop and Scan.

Besides its formal inputs a body reads values from outside, its captures. A node with bodies has them among its inputs:
first the operands of the operator, then what each body captures, body after body by the name of the attribute. Whoever
walks the inputs of a node thus sees everything that it reads, and a copy over other inputs needs no new body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Node, Shape, Value, unknown_dim

Type = tuple[np.dtype[Any], Shape | None]

WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""The operators whose outputs are those of their bodies."""


@dataclass(eq=False, frozen=True)
class Body:
    """A graph of its own names.

    Attributes:
        name: of the graph.
        inputs: the formal inputs, each an `Input` leaf.
        captures: `Input` leaves that stand for the values from outside.
        outputs: in order; unlike a function's, they may be inputs, captures, and one value twice.
        nodes: inputs before readers, constants among them; formal inputs and captures are not.
        note: of a body that was read from a file: all that it says there beside nodes and data, encoded.
    """

    name: str
    inputs: tuple[Value, ...]
    captures: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    note: bytes | None = None


def attribute_bodies(attributes: Mapping[str, Any]) -> list[tuple[str, Body]]:
    """Return the bodies among the attributes, with the attribute's name, in the order of their captures."""
    found: list[tuple[str, Body]] = []
    if not attributes:
        return found
    for name, value in sorted(attributes.items()):
        found += [(name, body) for body in (value if isinstance(value, tuple) else (value,)) if isinstance(body, Body)]
    return found


def operand_count(node: Node) -> int:
    """Return how many of the node's inputs are operands of its operator, and no captures."""
    return len(node.inputs) - sum(len(body.captures) for _, body in attribute_bodies(node.attributes))


def captures(node: Node) -> list[tuple[Body, tuple[Value | None, ...]]]:
    """Return the node's bodies, each with the inputs of the node that it captures."""
    found, start = [], operand_count(node)
    for _, body in attribute_bodies(node.attributes):
        stop = start + len(body.captures)
        found.append((body, node.inputs[start:stop]))
        start = stop
    return found


def formal_types(op_type: str, attributes: Mapping[str, Any], operands: Sequence[Type | None]) -> list[Type | None]:
    """Return what is known of the formal inputs of the operator's body, from the types of the operands."""
    if op_type == "Loop":
        states = [None if t is None else (t[0], None) for t in operands[2:]]  # a state may change its shape
        return [(np.dtype(np.int64), ()), (np.dtype(np.bool_), ()), *states]
    if op_type == "Scan":
        n_scanned = min(int(attributes.get("num_scan_inputs", 0)), len(operands))  # a broken file may say any number
        n_states = len(operands) - n_scanned
        axes = attributes.get("scan_input_axes") or (0,) * n_scanned
        scanned = [t and (t[0], without(t[1], axis)) for t, axis in zip(operands[n_states:], axes, strict=False)]
        return [*operands[:n_states], *scanned]
    if op_type == "SequenceMap":
        return [None if t is None else schema.item(t[0]) or t for t in operands]
    return []


def output_types(op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Type | None]) -> list[Type]:
    """Return element types and shapes of the outputs of an operator with bodies, from those of the node's inputs."""
    if op_type == "SequenceMap":
        return [(schema.sequence_of(v.dtype, v.shape), None) for v in attributes["body"].outputs]
    outer = {d for t in inputs if t is not None for d in t[1] or ()}
    renamed: dict[Dim, Dim] = {}

    def outside(dim: Dim) -> Dim:
        is_inner = isinstance(dim, str) and dim.startswith(UNKNOWN_DIM) and dim not in outer
        return renamed.setdefault(dim, unknown_dim()) if is_inner else dim

    types = _if_types(attributes) if op_type == "If" else _step_types(op_type, attributes, inputs)
    return [(dtype, None if shape is None else tuple(map(outside, shape))) for dtype, shape in types]


def _if_types(attributes: Mapping[str, Any]) -> list[Type]:
    branches = [attributes[name].outputs for name in ("then_branch", "else_branch")]
    return [
        (b.dtype if _is_unknown(a) else a.dtype, common_shape(a.shape, b.shape))
        for a, b in zip(*branches, strict=False)
    ]


def _is_unknown(value: Value) -> bool:
    """Whether nobody knows the type, as where inference fails in a branch that is never taken."""
    return schema.encoded_type(value.dtype) == b""


def _step_types(op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Type | None]) -> list[Type]:
    """Return the states at the end, then the outputs of all steps; states that no step touched are as they were."""
    body: Body = attributes["body"]
    steps: Dim = unknown_dim()
    if op_type == "Loop":
        before, after = body.inputs[2:], body.outputs[1:]
        axes: Sequence[int] = (0,) * len(after)
    else:
        n_scanned = int(attributes["num_scan_inputs"])
        before, after = body.inputs[: len(body.inputs) - n_scanned], body.outputs
        scanned = zip(inputs[len(before) :], attributes.get("scan_input_axes") or (0,) * n_scanned, strict=False)
        sizes = [t[1][axis] for t, axis in scanned if t is not None and t[1]]
        steps = next((d for d in sizes if isinstance(d, int)), sizes[0] if sizes else steps)
        axes = attributes.get("scan_output_axes") or (0,) * len(after)
    states = [(y.dtype, common_shape(x.shape, y.shape)) for x, y in zip(before, after, strict=False)]
    stacked = zip(after[len(before) :], axes, strict=False)
    return [*states, *((y.dtype, _with(y.shape, axis, steps)) for y, axis in stacked)]


def without(shape: Shape | None, axis: int) -> Shape | None:
    """Return the shape of a slice along an axis."""
    if not shape:
        return None
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _with(shape: Shape | None, axis: int, size: Dim) -> Shape | None:
    if shape is None:
        return None
    axis %= len(shape) + 1
    return (*shape[:axis], size, *shape[axis:])


def common_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    """Return the shape on which both agree, with new symbols for sizes that differ."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else unknown_dim() for m, n in zip(a, b, strict=True))


def split_captures(bodies: Mapping[str, Any], captured: Sequence[Any]) -> list[Sequence[Any]]:
    """Return what each of the bodies captures, by the name of its attribute, of the captures of all of them."""
    found, start = [], 0
    for _, body in attribute_bodies(bodies):
        found.append(captured[start : start + len(body.captures)])
        start += len(body.captures)
    return found
