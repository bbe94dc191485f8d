"""What ONNX's schema says of operators, as plain data; `renom_onnx.graph.schema` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Formal:
    """A formal input or output of an operator."""

    name: str
    type_variable: str
    types: frozenset[str]
    is_optional: bool
    is_variadic: bool


_NO_FORMAL = Formal("input", "", frozenset(), is_optional=False, is_variadic=True)
"""Of an input that an operator without any is given."""


@dataclass(frozen=True)
class Attribute:
    """A formal attribute: kind is int, float, string, tensor, graph, type_proto or their plurals."""

    name: str
    kind: str
    is_required: bool
    default: Any


@dataclass(frozen=True)
class Operator:
    """What ONNX's schema says of one operator at one version."""

    name: str
    domain: str
    since_version: int
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    attributes: Mapping[str, Attribute]
    min_outputs: int
    doc: str

    def input(self, index: int) -> Formal:
        """Return the formal of one actual input; a variadic formal serves all that follow."""
        return self.inputs[min(index, len(self.inputs) - 1)] if self.inputs else _NO_FORMAL

    def output(self, index: int) -> Formal:
        """Return the formal of one actual output."""
        return self.outputs[min(index, len(self.outputs) - 1)]


@dataclass(frozen=True)
class Step:
    """One node of an operator's body; names connect them, "" is an absent operand.

    An attribute may be a body too, which reads names from outside.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OperatorBody:
    """What ONNX's schema says an operator computes, in simpler operators of the default domain."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
