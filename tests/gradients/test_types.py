"""Every operator in every float type: whether the provider runs it, and if it does, its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from renom_onnx.converters import vjp
from renom_onnx.graph.schema import operator_names
from tests.gradients.cases import NEWEST_OPSET, Case, node_tests
from tests.gradients.check import STEP, check_gradient
from tests.gradients.old_cases import OLD_CASES
from tests.gradients.own_cases import OWN_CASES
from tests.gradients.reference import UncheckableError
from tests.gradients.session import Itself, Session
from tests.gradients.test_rules import BY_ITSELF, HELD, draws
from tests.gradients.types import NAMES, at_default_opset, in_float_type
from tests.gradients.verdicts import is_exception, verdict
from tests.gradients.versions import differentiable

Record = Callable[[str, object], None]


def is_plain(case: Case) -> bool:
    """Whether it is a function of tensors, of an opset that can be read, which onnx's reference computes too."""
    has_tensors = all(isinstance(x, np.ndarray) for x in case.feeds.values())
    return has_tensors and not draws(case) and case.name not in BY_ITSELF and not is_exception(verdict(case))


TRIED = 4  # cases of an operator, until one is proved
PROVED, RUNS, NO_KERNEL, NO_TYPE = "proved", "runs", "no kernel", "no type"

CASES: dict[str, list[Case]] = {}
for case in [*OWN_CASES, *OLD_CASES, *node_tests().values()]:
    if case.subject and not case.nodes[0].domain and is_plain(case):
        CASES.setdefault(case.subject, []).append(case)
PAIRS = [(name, kind) for name in operator_names(NEWEST_OPSET) if name in CASES for kind in NAMES]


@pytest.mark.parametrize(("name", "kind"), PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])
def test_gradient_in_every_float_type(name: str, kind: str, request: pytest.FixtureRequest, record_property: Record):
    provider = request.config.getoption("--provider")
    marks = set()
    for case in CASES[name][:TRIED]:
        typed = in_float_type(at_default_opset(case), NAMES[kind])
        marks.add(mark(typed, provider, name in differentiable()))
        if PROVED in marks:
            break
    best = next(m for m in (PROVED, RUNS, NO_KERNEL, NO_TYPE) if m in marks)
    record_property("type", f"{name} {kind} {best}")


def mark(case: Case | None, provider: str, is_differentiable: bool) -> str:
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
    held, step = HELD.get(case.subject, ()), 1 if case.is_linear_in_each else STEP
    itself = Itself(case.model) if case.operators == ["DequantizeLinear"] else None  # the reference lacks it at 18
    try:
        check_gradient(
            case.model,
            case.feeds,
            [session],
            held=held,
            step=1 if itself else step,
            n_cotangents=1,
            reference=itself,
        )
    except UncheckableError:
        return RUNS
    return PROVED
