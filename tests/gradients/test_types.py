"""Every operator in every float type: whether the provider runs it, and if it does, its gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from renom_onnx.converters import vjp
from renom_onnx.graph.schema import DEFAULT_OPSET, operator_names
from tests.gradients.cases import NEWEST_OPSET, Case, node_tests
from tests.gradients.check import STEP, TOLERANCES, check_gradient
from tests.gradients.own_cases import OWN_CASES
from tests.gradients.reference import UncheckableError
from tests.gradients.session import Session
from tests.gradients.test_rules import BY_ITSELF, HELD, draws
from tests.gradients.types import NAMES, at_default_opset, in_float_type
from tests.gradients.versions import differentiable

Record = Callable[[str, object], None]
TRIED = 4  # cases of an operator, until one is proved
PROVED, RUNS, NO_KERNEL, NO_TYPE = "proved", "runs", "no kernel", "no type"

CASES: dict[str, list[Case]] = {}
for case in [*OWN_CASES, *node_tests().values()]:
    if case.is_one_operator and not case.nodes[0].domain and not draws(case) and case.name not in BY_ITSELF:
        CASES.setdefault(case.operators[0], []).append(case)
PAIRS = [(name, kind) for name in operator_names(NEWEST_OPSET) if name in CASES for kind in NAMES]


@pytest.mark.parametrize(("name", "kind"), PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])
def test_gradient_in_every_float_type(name: str, kind: str, request: pytest.FixtureRequest, record_property: Record):
    provider = request.config.getoption("--provider")
    marks = set()
    for case in CASES[name][:TRIED]:
        typed = in_float_type(at_default_opset(case), NAMES[kind])
        marks.add(mark(typed, kind, provider, name in differentiable()))
        if PROVED in marks:
            break
    best = next(m for m in (PROVED, RUNS, NO_KERNEL, NO_TYPE) if m in marks)
    record_property("type", f"{name} {kind} {best}")


def mark(case: Case | None, kind: str, provider: str, is_differentiable: bool) -> str:
    """Return what the provider does with the case: nothing, its value, or its gradient, which must be right."""
    if case is None:
        return NO_TYPE
    try:
        Session(case.model, provider, is_alone=True)(case.feeds)
    except UncheckableError:
        return NO_KERNEL
    if not is_differentiable:
        return RUNS
    try:
        session = Session(vjp(case.model), provider)
    except UncheckableError:
        return RUNS
    held, step = HELD.get(case.operators[0], ()), 1 if case.is_linear_in_each else STEP
    try:
        check_gradient(
            case.model, case.feeds, [session], held=held, step=step, n_cotangents=1, tolerance=TOLERANCES[NAMES[kind]]
        )
    except UncheckableError:
        return RUNS
    return PROVED
