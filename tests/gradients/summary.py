"""The summary of the gradient check at the end of a test run: what is proved, what has a reason, what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from renom_onnx.gradients import entries, find
from renom_onnx.graph.schema import has_body, operator_names
from tests.gradients.cases import NEWEST_OPSET


def summary(reports: Iterable[Any]) -> list[str]:
    """Return the lines that say which operators the reports prove."""
    found: dict[str, set[str]] = {"proved": set(), "reasoned": set(), "redrawn": set()}
    for report in reports:
        for key, value in getattr(report, "user_properties", ()):
            if key in found:
                found[key].add(value)
    own = [entry for entry in entries() if entry.domain == ""]
    reasons = {entry.op_type for entry in own if entry.rule is None and not entry.is_refused}
    refused = {entry.op_type for entry in own if entry.is_refused}
    names = operator_names(NEWEST_OPSET)
    bodies = {name for name in names if find(name) is None and has_body(name, NEWEST_OPSET)}
    rules = {entry.op_type for entry in own if entry.rule is not None} | bodies
    missing = [name for name in names if name not in rules | reasons | refused]
    unproved = sorted(rules - found["proved"])
    return [
        f"{len(found['proved'])} operators proved, {len(unproved)} differentiable but unproved: {_list(unproved)}",
        f"{len(reasons)} with a reason, {len(reasons & found['reasoned'])} of them seen constant",
        f"{len(bodies)} through the body in their schema: {_list(sorted(bodies))}",
        f"{len(refused)} refused with a reason: {_list(sorted(refused))}",
        f"{len(missing)} without any of these: {_list(missing)}",
        f"{len(found['redrawn'])} cases moved off a kink or jump of their sample point",
    ]


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
