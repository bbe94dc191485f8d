"""The summary of the gradient check at the end of a test run: what is proved, what has a reason, what is missing."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from renom_onnx.gradients import entries, find
from renom_onnx.graph.schema import has_body, operator_names
from tests.gradients.cases import NEWEST_OPSET, all_node_tests, node_tests
from tests.gradients.verdicts import exceptions, must_be_constant, must_prove


def summary(reports: Iterable[Any]) -> list[str]:
    """Return the lines that say which operators and which of ONNX's node tests the reports prove."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for report in reports:
        for key, value in getattr(report, "user_properties", ()):
            found[key].add(value)
    return [*_of_operators(found), *of_node_tests(found)]


def _of_operators(found: dict[str, set[str]]) -> list[str]:
    own = [entry for entry in entries() if entry.domain == ""]
    reasons = {entry.op_type for entry in own if entry.rule is None and not entry.is_refused}
    refused = {entry.op_type for entry in own if entry.is_refused}
    names = operator_names(NEWEST_OPSET)
    bodies = {name for name in names if find(name) is None and has_body(name, NEWEST_OPSET)}
    rules = {entry.op_type for entry in own if entry.rule is not None} | bodies
    proved = found["proved"] & rules
    missing = [name for name in names if name not in rules | reasons | refused]
    return [
        f"{len(proved)} operators proved, {len(rules - proved)} differentiable but unproved: {_list(rules - proved)}",
        f"{len(reasons)} with a reason, {len(reasons & found['reasoned'])} of them seen constant",
        f"{len(bodies)} through the body in their schema: {_list(bodies)}",
        f"{len(refused)} refused with a reason: {_list(refused)}",
        f"{len(missing)} without any of these: {_list(missing)}",
        f"{len(found['second order'])} operators of {len(set(map(family, found['second order'])))} families with the "
        "gradient of their gradient proved",
        f"{len(found['version'])} versions of operators proved, {len(found['type'])} pairs of operator and float type",
        f"{len(found['redrawn'])} cases moved off a kink or jump of their sample point",
    ]


def of_node_tests(found: dict[str, set[str]]) -> list[str]:
    """Count ONNX's node tests; one that is neither proved nor excused nor beyond onnxruntime is missing."""
    verdicts = {case.name for case in must_prove()} & found["node test"]
    constant = {case.name for case in must_be_constant()} & found["constant node test"]
    excused = {case.name for case in exceptions()} & {name.split(":")[0] for name in found["node test"]}
    missing = set(node_tests()) - verdicts - constant - excused - found["not run"]
    reasons = collections.Counter(name.partition(": ")[2] for name in found["node test"] if ": " in name)
    return [
        f"ONNX's node tests: {len(all_node_tests())}, {len(node_tests())} of them with a float input, "
        f"{len(found['not run'])} of these not run by onnxruntime's CPU provider",
        f"of the rest {len(verdicts)} proved, {len(constant)} constant, {len(excused)} excused, {len(missing)} missing",
        *(f"  {count} excused: {why}" for why, count in reasons.most_common()),
    ]


def family(name: str) -> str:
    """Return the family of an operator: the module of its rule, or its own body."""
    entry = find(name)
    return entry.rule.__module__ if entry is not None and entry.rule is not None else "body"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
