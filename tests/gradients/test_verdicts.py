"""Which of ONNX's node tests prove a gradient, and why the others cannot: every one has a verdict."""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np
import pytest

from renom_onnx.converters import vjp
from renom_onnx.errors import ConversionError, GradientError
from renom_onnx.graph.schema import has_body
from tests.gradients.cases import Case, all_node_tests, node_tests
from tests.gradients.session import Session, runs
from tests.gradients.test_rules import PROVING, is_current, parameters
from tests.gradients.verdicts import NO_TENSOR, exceptions, is_exception, verdicts

Record = Callable[[str, object], None]


def test_every_node_test_has_a_verdict():
    """A test that must prove a gradient fails where it cannot (test_rules.py), so that none is missing."""
    counts = collections.Counter(map(is_exception, filter(None, verdicts().values())))
    assert len(PROVING) + counts[True] + counts[False] == len(node_tests()) < len(all_node_tests())
    current = filter(is_current, PROVING)  # `vjp` upgrades what ONNX has no more
    assert [case.name for case in current if lacks_a_rule(case) and runs(case.model, case.feeds)] == []
    assert len(PROVING) > 1200


def lacks_a_rule(case: Case) -> bool:
    entries = zip(case.operators, case.entries, strict=True)
    return any(entry is None and not has_body(name, case.opset) for name, entry in entries)


@pytest.mark.parametrize("case", parameters(exceptions()))
def test_an_exception_is_refused_or_has_no_tensor(case: Case, record_property: Record):
    if not runs(case.model, case.feeds):
        record_property("not run", case.name)
        pytest.skip("onnxruntime's CPU provider does not run it")
    why = verdicts()[case.name]
    if why.startswith("refused"):
        with pytest.raises((GradientError, ConversionError)) as error:
            vjp(case.model)
        reason = why.removeprefix("refused: ").split(" ", 1)[1]
        assert reason in str(error.value)
    else:
        assert why == NO_TENSOR
        assert any(isinstance(x, list) or not isinstance(x, np.ndarray) for x in values(case))
    record_property("node test", f"{case.name}: {why}")


def values(case: Case) -> list[object]:
    """Return what goes in and comes out."""
    return [*case.feeds.values(), *Session(case.model)(case.feeds).values()]
