"""The reverse walk: from losses to leaves, adding one gradient node per differentiable node.

Fan-out is summed here and nowhere else; broadcasting is undone in the gradient node's body. The walk is a loop over
the topological order, so a chain of any length works.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import GradientError, RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder, make_node
from renom_onnx.graph.checkpoint import Recomputation
from renom_onnx.graph.clipping import current_limits
from renom_onnx.graph.container import added, holds_floats
from renom_onnx.graph.derivative import gradient_node, is_differentiable, reason_against, refusal
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import BACKWARD, FORWARD, Input, Mutable, Node, Shape, Value, ancestors
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at
from renom_onnx.graph.training_form import training_forward

Type = tuple[np.dtype[Any], Shape | None]


class ReverseWalk:
    """Gradients of the seeded values with respect to everything before them.

    Attributes:
        problems: why there is no gradient before a node, where none is needed.
    """

    def __init__(self, opset: int) -> None:
        self.problems: dict[Node, RenomError] = {}
        self._opset = opset
        self._parts: dict[Value, list[Value]] = {}
        self._sums: dict[Value, Value] = {}

    def add(self, value: Value, gradient: Value) -> None:
        """Add one part of a value's gradient."""
        self._parts.setdefault(value, []).append(gradient)

    def gradient(self, value: Value) -> Value | None:
        """Return the summed gradient of a value, or None where nothing depends on it."""
        parts = self._parts.get(value)
        if parts is None:
            return None
        if len(parts) == 1:
            return parts[0]
        if value not in self._sums:
            parts = parts[::-1]  # in the order of the forward readers
            if schema.is_container(value.dtype):
                op = Builder(self._opset, tag=BACKWARD, site=value.node.site)
                self._sums[value] = functools.reduce(functools.partial(added, op), parts)
                return self._sums[value]
            widest = functools.reduce(np.promote_types, (p.dtype for p in parts))
            casts = [None if p.dtype == widest else widest for p in parts]
            forward = value.node
            node = make_node(
                "Sum", parts, {}, opset=self._opset, casts=casts, tag=BACKWARD, site=forward.site, layers=forward.layers
            )
            self._sums[value] = node.output
        return self._sums[value]


def reverse_walk(
    seeds: Sequence[tuple[Value, Value]],
    *,
    opset: int,
    wanted: Collection[Value] | None = None,
    root: str = "the loss",
    on_refusal: Callable[[Node, str], None] | None = None,
) -> ReverseWalk:
    """Differentiate.

    Args:
        seeds: (value, its gradient), usually a loss and ones.
        opset: opset of the gradient bodies.
        wanted: values whose gradients are needed; only paths to them are followed, and an operator without a rule on
            such a path is an error. A path ends at the first of them. None follows every path and needs the gradients
            of the trainable parameters.
        root: what an error calls the seeded value.
        on_refusal: called with a node that has no gradient and the reason, in the place of an error; the walk goes on
            elsewhere.

    Raises:
        GradientError: a wanted value is reached only through an operator that has no rule.
    """
    walk = ReverseWalk(opset)
    order = ancestors((value for value, _ in seeds), [value.node for value in wanted or ()])
    needed = _depend_on(order, wanted)
    again = Recomputation(order, [value for value, _ in seeds], opset)
    for value, seed in seeds:
        walk.add(value, seed)
    for node in reversed(order):
        if node.is_leaf or node.stops_gradient or (wanted is not None and node not in needed):
            continue
        # Integers beside a float output are positions (MaxPool, TopK), which cut the gradient.
        dys = [walk.gradient(y) if holds_floats(y) or not node.output.is_float else None for y in node.outputs]
        if all(dy is None for dy in dys):
            continue
        if not is_differentiable(node):
            if reason_against(node) is None and node in needed:
                if on_refusal is None:
                    raise GradientError(_no_rule(node, needed[node], order, root))
                on_refusal(node, refusal(node) or "there is no gradient rule")
            continue
        try:
            gradients = gradient_node(node, dys, opset=opset, again=again.values(node, dys))
        except RenomError as e:
            walk.problems[node] = e
            if on_refusal is not None:
                on_refusal(node, str(e))
            elif node in needed:
                raise
            continue
        for position, gradient in gradients.items():
            x = node.inputs[position]
            assert x is not None
            if wanted is None or x.node in needed:
                walk.add(x, gradient)
    return walk


def _depend_on(order: Sequence[Node], wanted: Collection[Value] | None) -> dict[Node, Value]:
    """Return the nodes that depend on a wanted value, each with one such value."""
    if wanted is None:
        wanted = [node.output for node in order if isinstance(node, Mutable) and getattr(node, "trainable", False)]
    needed: dict[Node, Value] = {value.node: value for value in wanted}
    for node in order:
        if node in needed:
            continue
        if node.stops_gradient:
            continue
        for value in node.inputs:
            if value is not None and value.node in needed:
                needed[node] = needed[value.node]
                break
    return needed


def _no_rule(node: Node, value: Value, order: Sequence[Node], root: str) -> str:
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    reason = refusal(node)
    why = f" ({reason})" if reason is not None else ""
    return (
        f"{operator}: there is no gradient rule{why}, but {root} depends on {value_name(value, order)} through it. "
        f"Freeze what lies before it, or register a rule with renom_onnx.gradients.gradient. {created_at(node.site)}"
    )


def value_name(value: Value, order: Sequence[Node]) -> str:
    """Return the name that an export of these nodes would give a value, for an error."""
    from renom_onnx.graph.naming import TreeNames  # naming knows layers, which are made of elements

    if isinstance(value.node, Parameter):
        return TreeNames(order).parameter(value.node)
    return value.name or f"a {value}"


def explain_absence(root: Value, value: Value) -> str:
    """Return the sentence that says why ``root`` has no gradient with respect to ``value``."""
    order = ancestors([root])
    name = value_name(value, order)
    if value.node not in order:
        return (
            f"get_gradient: the value must be one that the root depends on, got {name}, which is none. "
            f"{created_at(value.node.site)}"
        )
    needed = _depend_on(order, [value])
    for node in reversed(order):
        if node in needed and not node.is_leaf and not node.stops_gradient and not is_differentiable(node):
            reason = reason_against(node)
            if reason is None:
                return _no_rule(node, value, order, "the loss")
            return (
                f"{node.op_type} has no gradient (it is {reason}), but the loss depends on {name} through it. "
                f"{created_at(node.site)}"
            )
    return (
        f"get_gradient: the value must be reached by a gradient, got {name}, which only integers or cut paths lead to. "
        f"{created_at(value.node.site)}"
    )


@functools.lru_cache(maxsize=1024)
def _ones_like(x: Type, loss: Type | None, dtype: np.dtype[Any], opset: int) -> Function:
    """Return the function that seeds a pass: ones of the shape of x; a loss that is the sum of x is read, not used."""
    op = Builder(opset, tag=BACKWARD)
    like = Input(*x, name="X").output
    formals = (like,) if loss is None else (like, Input(*loss, name="Y").output)
    ones = op.Expand(op.constant(1, dtype), op.shape_of(like))
    return Function("Ones", DOMAIN, opset, formals, (ones,), ("dX",), (), "dX = 1: the gradient of a sum.")


class BackwardPass:
    """The backward pass that a root owns: Sum where there is no loss yet, the ones that seed it, and the walk."""

    def __init__(self, root: Value, *, opset: int, scale: Value | None = None) -> None:
        self.root = root
        self.opset = opset
        self.limits = root.node.gradient_limits = current_limits() or root.node.gradient_limits
        self.loss = root if root.node.loss is not None and _is_one_number(root) else total(root, opset)
        self.forward = training_forward(self.loss, opset)
        loss = self.forward.loss
        node = loss.node
        seeded = node.inputs[0] if _is_total(node) else loss
        assert seeded is not None
        dtype = seeded.dtype if seeded.is_float else np.dtype(np.float32)
        total_type = None if seeded is loss else (loss.dtype, loss.shape)
        ones = _ones_like((seeded.dtype, seeded.shape), total_type, dtype, opset)
        inputs = list(dict.fromkeys([seeded, loss]))
        self.seed = call(ones, inputs, {}, [(dtype, seeded.shape)], tag=BACKWARD, site=node.site, forward=node)
        seed = self.seed.output
        if scale is not None:  # of the loss, for float16
            op = Builder(opset, tag=BACKWARD, site=node.site)
            seed = op.Mul(seed, scale if scale.dtype == dtype else op.Cast(scale, to=dtype))
        self.walk = reverse_walk([(seeded, seed)], opset=opset)

    def gradient(self, value: Value) -> Value:
        """Return the summed gradient of a value.

        Raises:
            GradientError: the root has no gradient with respect to it.
        """
        gradient = self.walk.gradient(self.forward.values.get(value, value))
        if gradient is None:
            for node, problem in self.walk.problems.items():
                if value.node in ancestors(node.outputs):
                    raise problem
            raise GradientError(explain_absence(self.loss, value))
        return gradient


def _is_one_number(value: Value) -> bool:
    return value.shape is not None and all(d == 1 for d in value.shape)


def _is_total(node: Node) -> bool:
    """Whether the node is the sum of everything, whose gradient is ones of its operand's shape."""
    return node.op_type == "ReduceSum" and node.domain == "" and len(node.inputs) == 1 and node.casts[0] is None


def total(x: Value, opset: int) -> Value:
    """Add the Sum of all elements, as a one-element loss."""
    node = make_node("ReduceSum", [x], {"keepdims": 0}, opset=opset, tag=FORWARD, site=x.node.site)
    node.loss = x.node.loss or (x,)  # the loss of every element compares what its sum does
    return node.output
