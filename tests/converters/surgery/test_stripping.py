"""`strip`: nothing of the training is left, and everything else is."""

from __future__ import annotations

import onnx
import pytest

from renom_onnx.converters import lint, strip, to_onnx
from tests.converters.programs import LOSSES, Program, perceptron
from tests.converters.surgery.alike import adam, assert_infers_alike, parsed


@pytest.mark.parametrize("loss", LOSSES)
def test_a_stripped_model_holds_nothing_of_training_and_infers_the_same_bits(loss: str):
    model = Program(loss, "Adam", 18).model()
    stripped = strip(model)
    assert not stripped.training_info and not stripped.functions and not stripped.metadata_props
    assert [(o.domain, o.version) for o in stripped.opset_import] == [("", 18)]
    assert lint(stripped) == []
    assert_infers_alike(stripped, model)


def test_the_model_that_is_stripped_stays_as_it_is():
    model = adam()
    before = model.SerializeToString()
    strip(model)
    assert model.SerializeToString() == before


def test_a_model_without_training_is_returned_as_it_is():
    model = to_onnx(perceptron(), inputs={"x": ("N", 6)})
    model.metadata_props.add(key="optimizer", value="none")
    assert strip(model.SerializeToString()) == model


def test_metadata_of_somebody_else_stay():
    model = adam()
    model.metadata_props.add(key="author", value="somebody")
    assert [(entry.key, entry.value) for entry in strip(model).metadata_props] == [("author", "somebody")]


def test_a_function_that_a_branch_calls_stays():
    text = """f (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] p) { p = own.twice (x) },
                    else_branch = b () => (float[2] q) { q = Neg (x) }>
    }"""
    functions = '<domain: "own", opset_import: ["": 18]> twice (X) => (Y) { Y = Add (X, X) }'
    model = parsed(text, functions=functions)
    model.training_info.add()
    stripped = strip(model)
    assert [function.name for function in stripped.functions] == ["twice"]
    assert [entry.domain for entry in stripped.opset_import] == ["", "own"]
    onnx.checker.check_model(stripped, full_check=True)
