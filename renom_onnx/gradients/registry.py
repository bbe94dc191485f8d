"""The registry of gradient rules: one function per ONNX operator.

A rule is called as ``rule(op, dy, y, *inputs, **attributes)``: ``op`` is a `Builder`, ``dy`` the gradient of the
output, ``y`` the output, then the inputs of the node (None for an absent optional one) and, by keyword, those
attributes that the rule names, with the schema's defaults filled in. It returns one gradient per input, or None where
there is none; a single value stands for a tuple of one. Missing trailing gradients are None.

Broadcasting is undone and fan-out is summed by the reverse walk, never by a rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from renom_onnx.errors import GradientError

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Gradient:
    """A registered rule, or the reason why there is none.

    With ``is_refused`` there would be a gradient but no rule gives it: following a path through the operator is an
    error. Else the reason says why the gradient is zero, and the walk ends there without a word.
    """

    op_type: str
    domain: str
    rule: Rule | None
    reason: str | None = None
    is_refused: bool = False
    all_outputs: bool = False
    linear_in_each: bool = False
    is_straight_through: bool = False
    reads: tuple[int, ...] = ()
    settings: tuple[int, ...] = ()
    attribute_names: tuple[str, ...] = ()
    in_bfloat16: bool = False
    in_float32: bool = False

    @property
    def doc(self) -> str:
        """First line of the rule's docstring."""
        return (inspect.getdoc(self.rule) or "").split("\n")[0] if self.rule is not None else ""


_registry: dict[tuple[str, str], Gradient] = {}


def gradient(
    *op_types: str,
    domain: str = "",
    all_outputs: bool = False,
    linear_in_each: bool = False,
    is_straight_through: bool = False,
    reads: tuple[int, ...] = (),
    settings: tuple[int, ...] = (),
    in_bfloat16: bool = False,
    in_float32: bool = False,
) -> Callable[[Rule], Rule]:
    """Register a gradient rule for one operator, or for several that share it.

    Args:
        op_types: names of the operators.
        domain: their domain; the default domain is ONNX's own.
        all_outputs: ``dy`` and ``y`` are tuples over all outputs of the node, None where there is no gradient.
        linear_in_each: the operator is linear in each input, so the checker uses step 1 and expects exact results.
        is_straight_through: the rule takes rounding for the identity, and passes gradients through integers: what
            training with quantized values does.
        reads: positions of inputs whose value the rule reads (`known_array`) if it is a constant of a few numbers; the
            body is then written for this value. Small int64 constants can be read anyway.
        settings: the same for inputs that are no data (scales, a ratio) and have no gradient; static ones count too.
        in_bfloat16: the body is made of operators that onnxruntime's CUDA provider computes in bfloat16; other rules
            are given such operands in float32.
        in_float32: operands in float16 are given in float32 too: statistics over many elements.

    Raises:
        GradientError: the operator has a rule already.

    Example:
        >>> from renom_onnx.gradients import gradient
        >>> @gradient("Swoosh", domain="example")
        ... def swoosh(op, dy, y, x):
        ...     return op.Mul(dy, op.Sigmoid(x))
    """

    def register(rule: Rule) -> Rule:
        parameters = inspect.signature(rule).parameters.values()
        names = tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
        for op_type in op_types:
            _add(
                Gradient(
                    op_type,
                    domain,
                    rule,
                    all_outputs=all_outputs,
                    linear_in_each=linear_in_each,
                    is_straight_through=is_straight_through,
                    reads=reads,
                    settings=settings,
                    in_bfloat16=in_bfloat16,
                    in_float32=in_float32,
                    attribute_names=names,
                )
            )
        return rule

    return register


def not_differentiable(reason: str, *op_types: str, domain: str = "") -> None:
    """State why operators have no gradient, as the end of "it is …"; the gradient stops at them."""
    for op_type in op_types:
        _add(Gradient(op_type, domain, None, reason))


def refuse(reason: str, *op_types: str, domain: str = "") -> None:
    """State why operators that have a derivative have no rule; a gradient that needs one is an error that says so."""
    for op_type in op_types:
        _add(Gradient(op_type, domain, None, reason, is_refused=True))


def _add(entry: Gradient) -> None:
    key = (entry.domain, entry.op_type)
    if key in _registry:
        raise GradientError(f"gradient: an operator must have one rule, got a second for {entry.op_type}.")
    _registry[key] = entry


def find(op_type: str, domain: str = "") -> Gradient | None:
    """Return the entry of an operator, or None."""
    return _registry.get(("" if domain == "ai.onnx" else domain, op_type))


def entries() -> list[Gradient]:
    """Return all entries, by domain and name."""
    return [_registry[key] for key in sorted(_registry)]
