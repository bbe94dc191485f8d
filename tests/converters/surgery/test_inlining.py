"""`inline`: the same numbers without functions, judged by onnxruntime and by onnx's own inliner."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import inliner

import renom_onnx as rm
from renom_onnx.converters import inline, lint
from tests.converters.programs import Program, feeds, portable_bodies
from tests.converters.surgery.alike import ONE_OF_EACH, adam, assert_trains_alike, parsed
from tests.converters.test_training_file import specified_concatenation, stock_session

one_of_each = pytest.mark.parametrize("program", ONE_OF_EACH, ids=str)


@one_of_each
def test_an_inlined_file_has_no_functions_and_trains_to_the_same_bits(
    program: Program, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("renom_onnx.runtime.step_model.for_sizes", portable_bodies)
    model = program.model()
    inlined = inline(model)
    info = inlined.training_info[0]
    assert not inlined.functions
    assert [(o.domain, o.version) for o in inlined.opset_import] == [("", 18)]
    assert {n.domain for n in [*inlined.graph.node, *info.algorithm.node, *info.initialization.node]} == {""}
    assert inlined.graph == model.graph
    assert info.update_binding == model.training_info[0].update_binding
    names = [node.name for node in [*inlined.graph.node, *info.algorithm.node]]
    assert all(names) and len(set(names)) == len(names)
    assert lint(inlined) == []
    assert_trains_alike(inlined, model)


@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout"])
def test_onnxs_inliner_computes_the_same_from_the_concatenation(loss: str):
    model = Program(loss, "Adam", 18).model()
    batch = {**feeds(model, 4), "learning_rate": np.array(0.1, np.float32)}
    wanted = stock_session(inliner.inline_local_functions(specified_concatenation(model))).run(None, batch)
    got = stock_session(specified_concatenation(inline(model))).run(None, batch)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_nodes_are_called_by_the_call_and_their_place_in_it():
    inlined = inline(adam())
    names = [node.name for node in inlined.training_info[0].algorithm.node]
    assert "dense1/GemmGrad/MatMul" in names or "dense1/GemmGrad/Gemm" in names
    assert "dense1.w/Adam/Sub" in names


def test_a_session_takes_an_inlined_file_and_a_checkpoint_of_it():
    model = inline(adam())
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    session.step(feeds(model, 4))
    assert lint(session.to_model()) == []


# What a call can be, on models of one call each

TWICE = '<domain: "own", opset_import: ["": 18]> twice (X) => (Y) { Y = Add (X, X) }'
CALLS = {
    "a call": ("f (float[3] x) => (float[3] y) { y = own.twice (x) }", TWICE),
    "two calls": ("f (float[3] x) => (float[3] y) { h = own.twice (x) y = own.twice (h) }", TWICE),
    "a name that is taken": ("f (float[3] x) => (float[3] y) { Z = Neg (x) h = own.g (Z) y = Mul (h, Z) }",
        '<domain: "own", opset_import: ["": 18]> g (X) => (Y) { Z = Exp (X) Y = Neg (Z) }'),
    "an attribute": ("f (float[3] x) => (float[3] y) { y = own.g <slope = 0.5> (x) }",
        '<domain: "own", opset_import: ["": 18]> g <slope> (X) => (Y) { Y = LeakyRelu <alpha: float = @slope> (X) }'),
    "an attribute that is left out": ("f (float[3] x) => (float[3] y) { y = own.g (x) }",
        '<domain: "own", opset_import: ["": 18]> g <slope> (X) => (Y) { Y = LeakyRelu <alpha: float = @slope> (X) }'),
    "an attribute's default": ("f (float[3] x) => (float[3] y) { y = own.g (x) }",
        '<domain: "own", opset_import: ["": 18]> g <slope: float = 0.7> (X) => (Y) '
        "{ Y = LeakyRelu <alpha: float = @slope> (X) }"),
    "an operand that is left out": ("f (float[3] x) => (float[3] y) { y = own.g (x) }",
        '<domain: "own", opset_import: ["": 18]> g (X, L, H) => (Y) { Y = Clip (X, L, H) }'),
    "an operand that is empty": ("f (float[3] x, float h) => (float[3] y) { y = own.g (x, , h) }",
        '<domain: "own", opset_import: ["": 18]> g (X, L, H) => (Y) { Y = Clip (X, L, H) }'),
    "an input that is an output": ("f (float[3] x) => (float[3] y, float[3] z) { y, z = own.g (x) }",
        '<domain: "own", opset_import: ["": 18]> g (X) => (X, Y) { Y = Neg (X) }'),
    "an output that nobody wants": ("f (float[3] x) => (float[3] y) { , y = own.g (x) }",
        '<domain: "own", opset_import: ["": 18]> g (X) => (U, Y) { U = Exp (X) Y = Neg (X) }'),
    "a function in a function": ("f (float[3] x) => (float[3] y) { y = own.g (x) }",
        '<domain: "own", opset_import: ["": 18, "own": 1]> g (X) => (Y) { H = own.twice (X) Y = Neg (H) } ' + TWICE),
    "a call in a branch": ("""f (float[3] x) => (float[3] y) {
        s = ReduceSum <keepdims = 0> (x)
        zero = Constant <value: tensor = float {0}> ()
        c = Greater (s, zero)
        y = If (c) <then_branch = a () => (float[3] p) { p = own.twice (x) },
                    else_branch = b () => (float[3] q) { h = own.twice (x) q = Neg (h) }> }""", TWICE),
    "a branch in a function": ("f (float[3] x) => (float[3] y) { p = own.g (x) y = own.g (p) }",
        """<domain: "own", opset_import: ["": 18]> g (X) => (Y) {
        S = ReduceSum <keepdims = 0> (X)
        Zero = Constant <value: tensor = float {0}> ()
        C = Greater (S, Zero)
        Y = If (C) <then_branch = a () => (P) { P = Neg (X) },
                    else_branch = b () => (Q) { H = Exp (X) Q = Neg (H) }> }"""),
    "a body at an older opset": ("f (float[3] x) => (float[3] y) { y = own.g (x) }",
        '<domain: "own", opset_import: ["": 11]> g (X) => (Y) { H = Unsqueeze <axes = [0]> (X) '
        "S = Squeeze <axes = [0]> (H) Y = Neg (S) }"),
}  # fmt: skip

WRITTEN_OUT = {  # what onnxruntime does not take as a call
    "a body at an older opset": "f (float[3] x) => (float[3] y) { y = Neg (x) }",
    "an input that is an output": "f (float[3] x) => (float[3] y, float[3] z) { y = Identity (x) z = Neg (x) }",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_and_its_body_compute_the_same(name: str):
    model = parsed(CALLS[name][0], functions=CALLS[name][1])
    inlined = inline(model)
    assert not inlined.functions and [(o.domain, o.version) for o in inlined.opset_import] == [("", 18)]
    onnx.checker.check_model(inlined, full_check=True)
    inputs = {"x": np.array([-1.5, 0.25, 2], np.float32), "h": np.array(1, np.float32)}
    batch = {value.name: inputs[value.name] for value in model.graph.input}
    reference = parsed(WRITTEN_OUT[name]) if name in WRITTEN_OUT else model
    for a, b in zip(stock_session(inlined).run(None, batch), stock_session(reference).run(None, batch), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_what_only_unwanted_outputs_need_is_left_out():
    text, functions = CALLS["an output that nobody wants"]
    assert [node.op_type for node in inline(parsed(text, functions=functions)).graph.node] == ["Neg"]


def test_a_model_without_functions_is_returned_as_it_is():
    model = parsed("f (float[3] x) => (float[3] y) { y = Neg (x) }")
    assert inline(model) == model


# Errors


def test_a_function_that_calls_itself_is_an_error():
    functions = '<domain: "own", opset_import: ["": 18, "own": 1]> g (X) => (Y) { Y = own.g (X) }'
    model = parsed("f (float[3] x) => (float[3] y) { y = own.g (x) }", functions=functions)
    with pytest.raises(rm.ConversionError) as error:
        inline(model)
    assert str(error.value) == "inline: functions must not call themselves, got g, which does in node 'y'."


def test_another_version_of_another_domain_is_an_error():
    functions = (
        '<domain: "own", opset_import: ["": 18, "ai.onnx.ml": 1]> g (X) => (Y) { Y = ai.onnx.ml.LabelEncoder (X) }'
    )
    model = parsed("f (float[3] x) => (float[3] y) { y = own.g (x) }", functions=functions)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 4))
    with pytest.raises(rm.ConversionError) as error:
        inline(model)
    assert str(error.value) == (
        "inline: a function must use the version 4 of domain ai.onnx.ml as the model does, got g with version 1."
    )
