"""`Function`: a graph fragment with a name, which the file writes as a model-local ONNX function."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.copying import copied
from renom_onnx.graph.narrowing import narrowed
from renom_onnx.graph.node import Node, Value, ancestors

DOMAIN = "renom_onnx"
DOMAIN_VERSION = 1


@dataclass(eq=False, frozen=True)
class Function:
    """A named body of standard operators.

    Attributes:
        name: the operator name of its calls.
        domain: the domain of its calls.
        opset: default-domain opset of the body.
        inputs: the formal inputs, each an `Input` leaf; unused ones included.
        outputs: values of the body, in order; `output_names` are their formal names.
        attribute_names: what a call carries; a specialised body may ignore them.
        doc: one line for people.
        defaults: of attributes, which a rule for the function is given.
    """

    name: str
    domain: str
    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    doc: str = ""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _restricted: dict[tuple[bool, ...], Function] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Keep outputs apart from inputs and from each other: a function's output is never its own input."""
        op = Builder(self.opset)
        seen = set(self.inputs)
        outputs = []
        for value in self.outputs:
            own = value if value not in seen and not value.node.is_leaf else op.Identity(value)
            seen.add(own)
            outputs.append(own)
        object.__setattr__(self, "outputs", tuple(outputs))

    def restricted(self, kept: tuple[bool, ...]) -> Function:
        """Return the function of some of the outputs alone; all or none of them are the function itself."""
        if all(kept) or not any(kept):
            return self
        if kept not in self._restricted:
            stop = {value.node for value in self.inputs}
            self._restricted[kept] = dataclasses.replace(
                self,
                outputs=tuple(narrowed(list(itertools.compress(self.outputs, kept)), stop)),
                output_names=tuple(itertools.compress(self.output_names, kept)),
                _restricted={},
            )
        return self._restricted[kept]

    def reads(self, position: int) -> bool:
        """Whether the body reads an input."""
        formal = self.inputs[position]
        return formal in self.outputs or any(formal in node.inputs for node in self.body())

    def body(self) -> list[Node]:
        """Return the nodes of the body, inputs before readers; formal inputs are not among them."""
        formals = {value.node for value in self.inputs}
        return [node for node in ancestors(self.outputs, formals) if node not in formals]


def call(
    function: Function,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any],
    types: Sequence[Any],
    **node: Any,
) -> Node:
    """Return a node that calls the function; ``types`` are (element type, shape) of its outputs."""
    return Node(
        function.name,
        inputs,
        types,
        opset=function.opset,
        domain=function.domain,
        attributes=attributes,
        function=function,
        **node,
    )


def copy_body(function: Function, arguments: Sequence[Value | None]) -> list[Value]:
    """Return the function's outputs as new nodes over the arguments: the call, written out."""
    made = copied(function.body(), dict(zip(function.inputs, arguments, strict=False)))
    return [made[v] for v in function.outputs]  # type: ignore[misc]


def without_calls(op: Builder, outputs: Sequence[Value], stop: Collection[Node]) -> list[Value]:
    """Return the values as they are computed without calls, so that what is needed for them can be told.

    Args:
        op: builder.
        outputs: the values.
        stop: nodes that are left alone.
    """
    made: dict[Value, Value] = {}
    for node in ancestors(outputs, stop):
        inputs = [None if v is None else made.get(v, v) for v in node.inputs]
        if node.function is not None:
            inputs = [
                x if x is None or cast is None else op.Cast(x, to=cast)
                for x, cast in zip(inputs, node.casts, strict=True)
            ]
            done = {x.node for x in inputs if x is not None}
            made.update(zip(node.outputs, without_calls(op, copy_body(node.function, inputs), done), strict=True))
        elif any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            made.update(zip(node.outputs, node.copy(inputs).outputs, strict=True))
    return [made.get(v, v) for v in outputs]


def read_by(node: Node) -> Sequence[Value]:
    """Return the values whose numbers, and not just sizes, a node needs."""
    if node.function is None:
        return [] if node.op_type == "Shape" else [value for value in node.inputs if value is not None]
    used = _used_formals(node.function)
    return [v for v, formal in zip(node.inputs, node.function.inputs, strict=False) if v is not None and formal in used]


def _used_formals(function: Function) -> set[Value]:
    """Return the formal inputs whose numbers, and not just sizes, the body needs."""
    read = {value for node in function.body() for value in read_by(node)}
    return read | set(function.outputs)
