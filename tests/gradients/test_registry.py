"""The contract of the registry: every operator has a rule that says its formula, or the reason why there is none."""

from __future__ import annotations

import inspect

import pytest

from renom_onnx.errors import GradientError
from renom_onnx.gradients import Gradient, entries, gradient
from renom_onnx.graph.schema import has_operator, operator
from tests.gradients.cases import NEWEST_OPSET

ENTRIES = [entry for entry in entries() if entry.domain == ""]
RULES = [entry for entry in ENTRIES if entry.rule is not None]


def ids(entry: object) -> str | None:
    return entry.op_type if isinstance(entry, Gradient) else None


@pytest.mark.parametrize("entry", ENTRIES, ids=ids)
def test_operator_exists_and_has_a_rule_or_a_reason(entry: Gradient):
    assert has_operator(entry.op_type, NEWEST_OPSET), f"{entry.op_type} is no operator of opset {NEWEST_OPSET}"
    assert (entry.rule is None) != (entry.reason is None)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.reason is not None], ids=ids)
def test_reason_completes_a_sentence(entry: Gradient):
    assert entry.reason is not None
    assert entry.reason == entry.reason.strip(" .")
    assert entry.reason[0].islower()


@pytest.mark.parametrize("entry", RULES, ids=ids)
def test_rule_says_its_formula(entry: Gradient):
    assert entry.doc, f"the rule of {entry.op_type} must have a docstring, got none"
    assert len(entry.doc) <= 120


@pytest.mark.parametrize("entry", RULES, ids=ids)
def test_rule_takes_what_the_operator_has(entry: Gradient):
    schema = operator(entry.op_type, NEWEST_OPSET)
    assert entry.rule is not None
    parameters = list(inspect.signature(entry.rule).parameters.values())
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    is_variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    assert [p.name for p in positional[:1]] == ["op"]
    if not is_variadic:
        assert len(positional) - 3 >= len(schema.inputs), (
            f"{entry.op_type} has inputs {[i.name for i in schema.inputs]}"
        )
    optional = [p.default is None for p in positional[3:]][: len(schema.inputs)]
    required = [formal.is_optional for formal in schema.inputs][: len(optional)]
    assert not any(o and not given for o, given in zip(required, optional, strict=True))
    since = {name for opset in range(18, NEWEST_OPSET + 1) for name in _attributes(entry.op_type, opset)}
    assert set(entry.attribute_names) <= since


def _attributes(op_type: str, opset: int) -> list[str]:
    return list(operator(op_type, opset).attributes) if has_operator(op_type, opset) else []


def test_a_second_rule_for_an_operator_is_refused():
    with pytest.raises(GradientError) as error:
        gradient("Relu")(lambda op, dy, y, x: dy)
    assert str(error.value) == "gradient: an operator must have one rule, got a second for Relu."
