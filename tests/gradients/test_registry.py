"""The contract of the registry: every operator has a rule that says its formula, or the reason why there is none."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from renom_onnx.converters import to_training_onnx
from renom_onnx.errors import GradientError
from renom_onnx.gradients import Gradient, entries, gradient, registry
from renom_onnx.graph import ConstantLoss, Dense
from renom_onnx.graph.operators import apply
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


def test_one_function_outside_of_the_library_is_a_whole_rule(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(registry._registry, ("", "Erf"))

    @gradient("Erf")
    def erf(op, dy, y, x):
        """dx = 2 / sqrt(pi) exp(-x^2) dy."""
        return op.Mul(dy, op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2 / math.sqrt(math.pi)))

    dense = Dense(1, initializer=lambda shape, rng, dtype: np.full(shape, 0.5, dtype))
    loss = ConstantLoss()(apply("Erf", dense(np.array([[0.6]], np.float32))))
    got = loss.backward().get_gradient(dense["w"]).as_ndarray()
    np.testing.assert_allclose(got, [[0.6 * 2 / np.sqrt(np.pi) * np.exp(-0.09)]], rtol=1e-6)
    assert "ErfGrad" in [function.name for function in to_training_onnx(loss).functions]
