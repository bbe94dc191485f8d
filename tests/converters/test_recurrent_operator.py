"""Recurrent operators that keep their gates: the numbers of the filed gradient, and only where they are served."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import vjp
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.recurrent_operator import with_recurrent_passes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import step_model
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.specialization import for_sizes
from tests.gradients.session import Session
from tests.gradients.test_recurrent import N, model_of, operands

OPERATORS: dict[str, dict[str, Any]] = {"RNN": {}, "LSTM": {}, "GRU": {"linear_before_reset": 1}}
GIVEN = {"bare": "", "biased": "b", "from states": "bhc", "from h alone": "bh", "from c alone": "bc"}
CASES = [
    *(("forward", given) for given in GIVEN),
    ("reverse", "biased"),
    ("bidirectional", "bare"),
    ("bidirectional", "from states"),
]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def pair(op_type: str, given: Any, direction: str, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model of gradients through one node, and what to feed it."""
    feeds = operands(
        op_type, 2 if direction == "bidirectional" else 1, [g for g in given if op_type == "LSTM" or g != "c"]
    )
    model = model_of(op_type, feeds, direction=direction, **attributes)
    rng = np.random.default_rng(1)
    seeds = {f"{k}_grad": rng.standard_normal(y.shape).astype("f") for k, y in Session(model)(feeds).items()}
    return vjp(model), {**feeds, **seeds}


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def compare(filed: onnx.ModelProto, changed: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    found = Session(changed)(feeds)
    for name, value in Session(filed)(feeds).items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **CLOSE)


@pytest.mark.parametrize("op_type", OPERATORS)
@pytest.mark.parametrize(("direction", "given"), CASES)
def test_gradients_have_the_numbers_of_the_filed_ones(op_type: str, direction: str, given: str):
    model, feeds = pair(op_type, GIVEN[given], direction, **OPERATORS[op_type])
    changed = with_recurrent_passes(model, KnownShapes(model, {"N": N}))
    assert operators(changed) & {op_type, f"{op_type}Grad", f"{op_type}Forth"} == {f"{op_type}Forth"}
    compare(model, changed, feeds)


@pytest.mark.parametrize("op_type", OPERATORS)
@pytest.mark.parametrize("kept", [["y"], ["y_h"], ["y", "y_h"]], ids=" and ".join)
def test_gradients_of_some_of_the_outputs(op_type: str, kept: list[str]):
    feeds = operands(op_type, 1, "b")
    model = model_of(op_type, feeds, **OPERATORS[op_type])
    outputs = [output for output in model.graph.output if output.name in kept]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    rng, gradients = np.random.default_rng(1), vjp(model)
    seeds = {f"{k}_grad": rng.standard_normal(y.shape).astype("f") for k, y in Session(model)(feeds).items()}
    changed = with_recurrent_passes(gradients, KnownShapes(gradients, {"N": N}))
    assert f"{op_type}Back" in operators(changed)
    compare(gradients, changed, {**feeds, **seeds})


@pytest.mark.parametrize(
    ("op_type", "given", "attributes"),
    [
        ("LSTM", ["b", "lengths"], {}),
        ("LSTM", "bp", {}),
        ("LSTM", "b", {"clip": 0.5}),
        ("LSTM", "b", {"input_forget": 1}),
        ("GRU", "b", {"linear_before_reset": 0}),
        ("RNN", "b", {"activations": ["Relu"]}),
        ("LSTM", "b", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
    ],
    ids=["lengths", "peepholes", "clip", "coupled", "reset before", "relu", "hard sigmoid"],
)
def test_what_is_not_served_keeps_the_filed_bodies(op_type: str, given: Any, attributes: dict[str, Any]):
    model, feeds = pair(op_type, given, "forward", **attributes)
    changed = with_recurrent_passes(model, KnownShapes(model, {"N": N}))
    assert {op_type, f"{op_type}Grad"} <= operators(changed)
    compare(model, changed, feeds)


def test_names_of_the_default_activations_are_read_in_any_case():
    model, feeds = pair("LSTM", "b", "forward", activations=["sigmoid", "TANH", "Tanh"])
    changed = with_recurrent_passes(model, KnownShapes(model, {"N": N}))
    assert "LSTMForth" in operators(changed)
    compare(model, changed, feeds)


def test_a_batch_of_unknown_size_keeps_the_filed_bodies():
    model, _ = pair("LSTM", "b", "forward")
    assert "LSTMGrad" in operators(with_recurrent_passes(model, KnownShapes(model, {})))
    assert with_recurrent_passes(onnx.ModelProto(), KnownShapes(onnx.ModelProto(), {})) == onnx.ModelProto()


def test_layers_upon_each_other_train_as_filed():
    g, rng = rm.graph, np.random.default_rng(0)
    x, t = rng.standard_normal((3, 5, 2)).astype("f"), rng.standard_normal((3, 2)).astype("f")
    layers = [g.Lstm(4, return_sequences=True, bidirectional=True), g.Gru(3, return_sequences=True), g.Rnn(3)]
    model = g.Sequential([*layers, g.Dense(2)])
    step = training_step(rm.converters.to_training_onnx(g.MeanSquared()(model(x), t), g.Sgd(0.1)))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    feeds = {**step.state, **step.optional, **dict(zip(names, (x, t), strict=True))}
    changed = onnx.load_from_string(for_sizes(step.model.SerializeToString(), parse_device("cpu"), {"N": 3}))
    calls = operators(with_recurrent_passes(step.model, KnownShapes(step.model, {"N": 3})))
    assert {"LSTMForth", "LSTMBack", "GRUForth", "GRUBack", "RNNForth", "RNNBack"} <= calls
    compare(step.model, changed, feeds)


@pytest.mark.parametrize("layer", ["Rnn", "Lstm", "Gru"])
def test_a_training_session_runs_them(layer: str, monkeypatch: pytest.MonkeyPatch):
    opened: list[set[str]] = []

    def opening(model: bytes, *args: Any, **options: Any) -> Any:
        opened.append(operators(onnx.load_from_string(model)))
        return open_session(model, *args, **options)

    monkeypatch.setattr(step_model, "open_session", opening)
    g, rng = rm.graph, np.random.default_rng(0)
    x, t = rng.standard_normal((3, 5, 2)).astype("f"), np.array([0, 1, 1])
    loss = g.SoftmaxCrossEntropy()(g.Sequential([getattr(g, layer)(4), g.Dense(2)])(x), t)
    session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, g.Sgd(0.1)), device="cpu")
    session.step({"x": x, "y": t})
    assert "Scan" in opened[0]
    assert layer.upper() not in opened[0]
