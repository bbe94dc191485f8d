"""Building bodies: `Inside` makes the formals of a new one, `instantiate` writes the nodes of another one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.body import Body
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.copying import copied
from renom_onnx.graph.function import without_calls
from renom_onnx.graph.node import Constant, Input, Shape, Value, ancestors, known_array


class Inside:
    """A body in the making: its formal inputs, and what it sees of the values outside.

    >>> from renom_onnx.graph.builder import Builder
    >>> op = Builder(18)
    >>> state, rows, scale = (Input(np.dtype("f"), shape, name="v").output for shape in [(2,), ("T", 2), ()])
    >>> inside = Inside(op)
    >>> s, row = inside.input(np.dtype("f"), (2,), "s"), inside.input(np.dtype("f"), (2,), "row")
    >>> body, captured = inside.body("sum", [op.Add(s, op.Mul(row, inside.see(scale)))])
    >>> str(op.Scan(state, rows, *captured, body=body, num_scan_inputs=1))
    'float32[2]'
    """

    def __init__(self, op: Builder) -> None:
        self._op = op
        self._inputs: list[Value] = []
        self._captures: dict[Value, Value] = {}

    def input(self, dtype: np.dtype[Any], shape: Shape | None, name: str) -> Value:
        """Return a new formal input."""
        self._inputs.append(Input(dtype, shape, name=name).output)
        return self._inputs[-1]

    def item(self, of: Value, name: str) -> Value:
        """Return a new formal input for the tensors of a sequence, or for a tensor that is the same for all of them."""
        return self.input(*(schema.item(of.dtype) or (of.dtype, of.shape)), name)

    def see(self, outside: Value) -> Value:
        """Return what stands in the body for a value from outside; a constant stands for itself."""
        if isinstance(outside.node, Constant):
            return outside
        if outside not in self._captures:
            name = outside.name or outside.node.op_type
            formal = Input(outside.dtype, outside.shape, name=name, known=known_array(outside))
            self._captures[outside] = formal.output
        return self._captures[outside]

    def body(
        self, name: str, outputs: Sequence[Value], inputs: Sequence[Value] | None = None
    ) -> tuple[Body, list[Value]]:
        """Return the body and the values outside that it captures.

        Args:
            name: of the graph.
            outputs: what it computes.
            inputs: the formal inputs; default: all that were made.
        """
        formals = self._inputs if inputs is None else inputs
        stop = {value.node for value in [*formals, *self._captures.values()]}
        ends: list[Value] = []
        for value in without_calls(self._op, outputs, stop):
            # Runtimes want outputs that a node of the body writes, each its own.
            ends.append(self._op.Identity(value) if value.node.is_leaf or value in ends else value)
        nodes = [node for node in ancestors(ends, stop) if node not in stop]
        assert not any(isinstance(node, Input) for node in nodes), "a body must see what it reads"
        read = {value for node in nodes for value in node.inputs}
        captured = {outside: formal for outside, formal in self._captures.items() if formal in read}
        return Body(name, tuple(formals), tuple(captured.values()), tuple(ends), tuple(nodes)), list(captured)


def instantiate(
    body: Body,
    inputs: Sequence[Value],
    captured: Sequence[Value],
    given: Mapping[Value, Value] | None = None,
) -> list[Value]:
    """Return the body's outputs as new nodes over the arguments, in the sizes of the arguments.

    Args:
        body: the body.
        inputs: for its formal inputs.
        captured: for its captures.
        given: what stands for some values of the body instead of the nodes that compute them.
    """
    made: dict[Value, Value | None] = dict(zip(body.inputs, inputs, strict=True))
    made.update(zip(body.captures, captured, strict=True))
    made = copied(body.nodes, {**made, **(given or {})}, is_inferred=True)
    return [made[value] for value in body.outputs]  # type: ignore[misc]
