"""Operators written out in simpler ones, and the gradients through what was written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.graph import guard, schema
from renom_onnx.graph.body import Body, Type, formal_types
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.formal import OperatorBody, Step
from renom_onnx.graph.inside import Inside
from renom_onnx.graph.node import Constant, Node, Value
from renom_onnx.graph.site import created_at


def expand(op: Builder, node: Node, xs: Sequence[Value | None]) -> list[Value]:
    """Return the outputs of an operator as the body in its schema makes them of ``xs``.

    Raises:
        GradientError: the schema has no body for operands of these types, because it asks for sizes they lack.
    """
    operator = schema.operator(node.op_type, op.opset, node.domain)
    types = [None if x is None else (x.dtype, x.shape) for x in xs]
    body = schema.operator_body(operator, op.opset, node.attributes, types, len(node.outputs))
    if body is None:
        raise GradientError(
            f"{node.op_type}: the gradient must know the sizes that the operator's definition asks for, got "
            f"{guard.operands_text(operator, types)}. Give the operands shapes in the model. {created_at(node.site)}"
        )
    scope = _Scope(op, dict(zip(body.inputs, xs, strict=False)))
    scope.run(body.steps)
    return [scope.find(name) for name in body.outputs[: len(node.outputs)]]  # type: ignore[misc]


_CONSTANTS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


class _Scope:
    """The values of a body by name; a body in it sees those around it."""

    def __init__(
        self, op: Builder, values: dict[str, Value | None], outer: _Scope | None = None, inside: Inside | None = None
    ) -> None:
        self._op = op
        self._values = values
        self._outer = outer
        self._inside = inside

    def find(self, name: str) -> Value | None:
        """Return a value; the body may name an operand that the node lacks."""
        if name not in self._values and self._outer is not None and self._inside is not None:
            outside = self._outer.find(name)
            self._values[name] = None if outside is None else self._inside.see(outside)
        return self._values.get(name)

    def run(self, steps: Sequence[Step]) -> None:
        """Add the nodes of the steps."""
        for step in steps:
            self._values.update(zip(step.outputs, self._outputs(step), strict=False))

    def _outputs(self, step: Step) -> Sequence[Value]:
        if step.op_type == "Constant":
            ((name, value),) = step.attributes.items()
            return [self._op.constant(value, _CONSTANTS.get(name))]
        inputs = [self.find(name) for name in step.inputs]
        attributes = dict(step.attributes)
        types = [None if x is None else (x.dtype, x.shape) for x in inputs]
        for name, graph in sorted(step.attributes.items()):
            if isinstance(graph, OperatorBody):
                attributes[name], captured = self._body(graph, formal_types(step.op_type, step.attributes, types))
                inputs += captured
        made = self._op.node(step.op_type, *inputs, outputs=len(step.outputs), **attributes)
        return made if isinstance(made, tuple) else (made,)

    def _body(self, graph: OperatorBody, types: Sequence[Type | None]) -> tuple[Body, list[Value]]:
        inside = Inside(self._op)
        formals = [
            inside.input(*(t or (schema.no_tensor(), None)), n) for n, t in zip(graph.inputs, types, strict=True)
        ]
        scope = _Scope(self._op, dict(zip(graph.inputs, formals, strict=True)), self, inside)
        scope.run(graph.steps)
        return inside.body("body", [scope.find(name) for name in graph.outputs])  # type: ignore[misc]


def gradients_through(
    op: Builder, outputs: Sequence[Value], dys: Sequence[Value | None], xs: Sequence[Value | None]
) -> list[Value | None]:
    """Return the gradients with respect to ``xs`` of outputs that were made of them, None where there is none."""
    from renom_onnx.graph.backward import reverse_walk  # the walk makes gradient nodes, which need this

    seeds = [(y, dy) for y, dy in zip(outputs, dys, strict=False) if dy is not None]
    wanted = [x for x in xs if x is not None and not isinstance(x.node, Constant)]
    walk = reverse_walk(seeds, opset=op.opset, wanted=wanted)
    return [None if x is None else walk.gradient(x) for x in xs]
