"""What ONNX's inference lets through or dies on, and the words of errors about operands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.node import Shape, type_text
from renom_onnx.graph.site import Site, created_at

if TYPE_CHECKING:
    from renom_onnx.graph.formal import Operator

TypeAndShape = tuple[np.dtype[Any], Shape | None]


def message(op: Operator, rule: str, types: Sequence[TypeAndShape | None], site: Site) -> str:
    """Return the error of an operator: the rule, in onnx's words too, what was got, and where."""
    rule = re.split(r"\[\w+Error\]", rule)[-1].strip().split("\n")[0].rstrip(".")
    return f"{op.name}: {rule}, got {got(op, types)}. {created_at(site)}"


def got(op: Operator, types: Sequence[TypeAndShape | None]) -> str:
    """Return the operands and their types, for an error."""
    return operands_text(op, types) or "no inputs"


def operands_text(op: Operator, types: Sequence[TypeAndShape | None]) -> str:
    """Return ``x is float32[N, 3], w is float32[3, 4]``."""
    names = [op.input(i).name.lower() + (str(i + 1) if op.input(i).is_variadic else "") for i in range(len(types))]
    return ", ".join(f"{n} is {type_text(*t)}" for n, t in zip(names, types, strict=True) if t is not None)


def refuse(op: Operator, attributes: Mapping[str, Any], types: Sequence[TypeAndShape | None], site: Site) -> None:
    """Refuse what ONNX's inference lets through or dies on."""
    if any(t and t[1] and any(isinstance(d, int) and d < 0 for d in t[1]) for t in types):
        raise ShapeError(message(op, "every size must be 0 or more", types, site))
    if op.domain == "" and op.name in ("Conv", "ConvTranspose"):
        _refuse_convolution(op, attributes, types, site)


def _refuse_convolution(
    op: Operator, attributes: Mapping[str, Any], types: Sequence[TypeAndShape | None], site: Site
) -> None:
    x, w = types[0], types[1]
    if x is None or w is None or x[1] is None or w[1] is None:
        return
    if len(x[1]) != len(w[1]) or len(x[1]) < 3:
        raise ShapeError(message(op, "x and w must have the same number of axes, 3 or more", types, site))
    group = attributes.get("group", 1)
    channels, expected = x[1][1], w[1][1] if op.name == "Conv" else w[1][0]
    if isinstance(channels, str) or isinstance(expected, str):
        return
    if op.name == "Conv":
        rule, expected = f"C = {expected * group} channels (w.shape[1] {expected} x group {group})", expected * group
    else:
        rule = f"C = {expected} channels (w.shape[0])"
    if channels != expected:
        raise ShapeError(
            f"{op.name}: x must have {rule}, got {channels}: {operands_text(op, types)}. {created_at(site)}"
        )
    outputs = w[1][0]
    if op.name == "Conv" and isinstance(outputs, int) and outputs % group:
        raise ShapeError(message(op, f"w.shape[0] must be a multiple of group {group}", types, site))
