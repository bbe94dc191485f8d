"""The summary of the gradient check at the end of a test run: what is proved, what has a reason, what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from renom_onnx.gradients import entries
from renom_onnx.graph.schema import operator_names
from tests.gradients.cases import NEWEST_OPSET


def summary(reports: Iterable[Any]) -> list[str]:
    """Return the lines that say which operators the reports prove."""
    found: dict[str, set[str]] = {"proved": set(), "reasoned": set(), "redrawn": set()}
    for report in reports:
        for key, value in getattr(report, "user_properties", ()):
            if key in found:
                found[key].add(value)
    rules = {entry.op_type for entry in entries() if entry.rule is not None and entry.domain == ""}
    reasons = {entry.op_type for entry in entries() if entry.rule is None and entry.domain == ""}
    missing = [name for name in operator_names(NEWEST_OPSET) if name not in rules | reasons]
    unproved = sorted(rules - found["proved"])
    return [
        f"{len(found['proved'])} operators proved, {len(unproved)} with a rule that no case proves: {_list(unproved)}",
        f"{len(reasons)} with a reason, {len(reasons & found['reasoned'])} of them seen constant",
        f"{len(missing)} without either: {_list(missing)}",
        f"{len(found['redrawn'])} cases moved off a kink or jump of their sample point",
    ]


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
