"""Operators written out in simpler ones, and the gradients through what was written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.graph import guard, schema
from renom_onnx.graph.builder import Builder
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
    values: dict[str, Value | None] = {"": None, **dict(zip(body.inputs, xs, strict=False))}
    for step in body.steps:
        inputs = [values.get(name) for name in step.inputs]  # the body may name an operand that the node lacks
        values.update(zip(step.outputs, _outputs(op, step, inputs), strict=False))
    return [values[name] for name in body.outputs[: len(node.outputs)]]  # type: ignore[misc]


def _outputs(op: Builder, step: schema.Step, inputs: Sequence[Value | None]) -> Sequence[Value]:
    if step.op_type == "Constant":
        ((name, value),) = step.attributes.items()
        dtype = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
        return [op.constant(value, dtype.get(name))]
    made = op.node(step.op_type, *inputs, outputs=len(step.outputs), **step.attributes)
    return made if isinstance(made, tuple) else (made,)


def gradients_through(
    op: Builder, outputs: Sequence[Value], dys: Sequence[Value | None], xs: Sequence[Value | None]
) -> list[Value | None]:
    """Return the gradients with respect to ``xs`` of outputs that were made of them, None where there is none."""
    from renom_onnx.graph.backward import reverse_walk  # the walk makes gradient nodes, which need this

    seeds = [(y, dy) for y, dy in zip(outputs, dys, strict=False) if dy is not None]
    wanted = [x for x in xs if x is not None and not isinstance(x.node, Constant)]
    walk = reverse_walk(seeds, opset=op.opset, wanted=wanted)
    return [None if x is None else walk.gradient(x) for x in xs]
