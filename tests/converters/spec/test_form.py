"""`form="spec"`: training files in the specification's own operators train as ours do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters import add_prefix, convert_opset, inline, lint, lower, merge, strip, to_training_onnx
from renom_onnx.graph import parameter
from tests.converters.programs import LOSSES, classes as class_indices, cross_entropy, features, feeds, perceptron
from tests.converters.surgery.alike import assert_trains_alike, parsed, train
from tests.converters.test_training_file import specified_concatenation, stock_session

G = rm.graph
DOMAIN = "ai.onnx.preview.training"
OPTIMIZERS: dict[str, Callable[[], G.Optimizer]] = {
    "Sgd": lambda: G.Sgd(0.05),
    "Sgd-momentum": lambda: G.Sgd(0.05, momentum=0.9),
    "Sgd-nesterov": lambda: G.Sgd(0.05, momentum=0.9, nesterov=True),
    "Adagrad": lambda: G.Adagrad(0.05),
    "Adam": lambda: G.Adam(0.01),
    "Adam-without-epsilon": lambda: G.Adam(0.01, epsilon=0.0),
    "Adam-with-a-large-epsilon": lambda: G.Adam(0.01, 0.8, 0.9, 1e-2),
    "AdamW": lambda: G.AdamW(0.01, weight_decay=0.1),
    "v2.0's Sgd": lambda: rm.Sgd(0.05, momentum=0.9),
    "clipped-by-value": lambda: G.Sgd(0.05, clip_value=0.01),
    "clipped-by-norm": lambda: G.Adam(0.01, clip_norm=0.1),
    "accumulated": lambda: G.Adam(0.01, accumulate=2),
    "scaled": lambda: G.Sgd(0.05, momentum=0.9, loss_scale=G.LossScale(1024)),
}
EXACT = {"Sgd", "v2.0's Sgd", "Sgd-momentum", "Sgd-nesterov", "Adagrad", "clipped-by-value", "scaled"}
"""Where both forms compute the same, in another order at most: Adam's attributes are float32 in the file, and its
epsilon is compensated."""


def model_of(loss: str, optimizer: str, **options: Any) -> onnx.ModelProto:
    rm.set_seed(0)
    return to_training_onnx(LOSSES[loss](), OPTIMIZERS[optimizer](), **options)


def assert_trains_closely(model: onnx.ModelProto, original: onnx.ModelProto, *, exact: bool) -> None:
    batches = [feeds(original, 6, i) for i in range(12)]
    (losses, values), (got_losses, got) = train(original, batches), train(model, batches)
    tolerance = 1e-6 if exact else 1e-5
    np.testing.assert_allclose(got_losses, losses, rtol=1e-6)
    for binding in original.training_info[0].update_binding:
        value = values[binding.key]
        scale = float(np.abs(value).max()) if value.size else 0.0
        np.testing.assert_allclose(got[binding.key], value, rtol=tolerance, atol=tolerance * scale, err_msg=binding.key)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_trains_to_the_same_numbers(optimizer: str):
    model = model_of("mlp", optimizer, form="spec")
    assert lint(model) == []
    onnx.checker.check_model(model, full_check=True)
    onnx.checker.check_model(specified_concatenation(model), full_check=True)
    assert_trains_closely(model, model_of("mlp", optimizer), exact=optimizer in EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_program_trains_to_the_same_numbers(loss: str):
    model = model_of(loss, "Adam", form="spec")
    assert lint(model) == []
    assert_trains_closely(model, model_of(loss, "Adam"), exact=False)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout", "double_data"])
def test_stock_onnxruntime_executes_the_bodies(loss: str, opset: int):
    model = model_of(loss, "Adam", form="spec", opset=opset)
    joined = specified_concatenation(model)
    bindings = {b.key: b.value for b in model.training_info[0].update_binding}
    state = {t.name: onnx.numpy_helper.to_array(t) for t in joined.graph.initializer if t.name in bindings}
    types = {t.name: t for t in joined.graph.initializer}
    for name in bindings:
        joined.graph.input.append(
            onnx.helper.make_tensor_value_info(name, types[name].data_type, list(types[name].dims))
        )
    session = stock_session(joined)
    names = ["loss", *bindings.values()]
    batches = [feeds(model, 6, i) for i in range(5)]
    losses = []
    for batch in batches:
        loss_value, *values = session.run(names, {**batch, **state})
        losses.append(float(loss_value))
        state = dict(zip(bindings, values, strict=True))
    wanted, trained = train(model, batches)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    for name, value in state.items():
        np.testing.assert_allclose(value, trained[name], rtol=1e-3, atol=1e-5, err_msg=name)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.training_info[0].algorithm.node]


def test_the_file_holds_a_gradient_and_an_optimizer_node_for_every_parameter():
    model = model_of("mlp", "Sgd-momentum", form="spec")
    algorithm = model.training_info[0].algorithm
    assert operators(model) == ["SoftmaxCrossEntropyLoss", "Gradient", *["Momentum"] * 4]
    gradient = algorithm.node[1]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in gradient.attribute}
    parameters = ["dense1.w", "dense1.b", "dense2.w", "dense2.b"]
    assert attributes == {"xs": [p.encode() for p in parameters], "y": b"loss", "zs": [b"x", b"y"]}
    assert list(gradient.input) == [*parameters, "x", "y"]
    assert list(gradient.output) == [f"{p}.grad" for p in parameters]
    assert [node.name for node in algorithm.node[2:]] == [f"{p}/Momentum" for p in parameters]
    assert {node.domain for node in algorithm.node} == {"", DOMAIN}
    assert [(f.domain, f.name) for f in model.functions] == [(DOMAIN, "Gradient"), (DOMAIN, "Momentum")]
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, DOMAIN: 1}


def test_every_node_has_as_many_outputs_as_the_specification_says():
    for optimizer, n_outputs in {"Sgd": 2, "Sgd-momentum": 2, "Adagrad": 2, "Adam": 3, "AdamW": 3}.items():
        for node in model_of("mlp", optimizer, form="spec").training_info[0].algorithm.node:
            if node.domain == DOMAIN and node.op_type != "Gradient":
                assert len(node.output) == n_outputs and all(node.output)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_names_bindings_and_initialization_are_those_of_the_other_form(optimizer: str):
    ours, theirs = model_of("mlp", optimizer), model_of("mlp", optimizer, form="spec")
    assert theirs.graph == ours.graph and theirs.metadata_props == ours.metadata_props
    a, b = ours.training_info[0], theirs.training_info[0]
    assert (a.update_binding, a.initialization_binding, a.initialization) == (
        b.update_binding, b.initialization_binding, b.initialization,
    )  # fmt: skip
    assert a.algorithm.input == b.algorithm.input and a.algorithm.output == b.algorithm.output


@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout"])
def test_without_functions_the_file_holds_operators_of_onnx_alone_and_trains_alike(loss: str):
    model = model_of(loss, "Adam", form="spec", inline=True)
    assert not model.functions
    assert {node.domain for node in model.training_info[0].algorithm.node} == {"", DOMAIN}
    assert lint(model) == []
    assert_trains_closely(model, model_of(loss, "Adam"), exact=False)


@pytest.mark.parametrize("optimizer", ["Sgd-nesterov", "Adam", "Adagrad"])
def test_bodies_that_were_lost_are_found_again(optimizer: str):
    model = model_of("mlp", optimizer, form="spec")
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    own = [f for f in bare.functions if f.domain != DOMAIN]
    del bare.functions[:]
    bare.functions.extend(own)
    assert_trains_alike(bare, model)


def test_a_session_lowers_the_gradient_to_nodes_that_it_has_faster_bodies_for():
    lowered = lower(model_of("cnn", "Sgd", form="spec"))
    assert operators(lowered).count("ConvGrad") == 2 and "Gradient" not in operators(lowered)
    assert {f.name for f in lowered.functions if f.domain == DOMAIN} == {"Momentum"}


@pytest.mark.parametrize("loss", ["mlp", "cnn"])
def test_onnxruntime_merges_what_the_body_of_the_gradient_computes_again(loss: str, tmp_path: Path):
    counts = []
    for form in ("functions", "spec"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{form}.onnx")
        step = specified_concatenation(model_of(loss, "Sgd", form=form))
        del step.graph.output[0]  # a training step asks for the loss and next values alone
        onnxruntime.InferenceSession(step.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
        counts.append(sum(node.op_type in ("Gemm", "Conv", "MatMul") for node in optimized.graph.node))
    assert counts[0] == counts[1] > 4


def test_parameters_with_optimizers_of_their_own():
    def model(form: str) -> onnx.ModelProto:
        rm.set_seed(0)
        network = perceptron()
        loss = cross_entropy(network, features(8), class_indices(8))
        parameters = [p.output.node for layer in (network[0], network[2]) for p in layer.params.values()]
        parameters[0].optimizer = G.Adagrad(0.1)
        parameters[1].optimizer = G.Adam(0.02)
        return to_training_onnx(loss, G.Sgd(0.05), form=form)

    spec = model("spec")
    assert [name for name in operators(spec) if name in ("Adagrad", "Adam", "Momentum")] == [
        "Adagrad", "Adam", "Momentum", "Momentum",
    ]  # fmt: skip
    assert lint(spec) == []
    assert_trains_closely(spec, model("functions"), exact=False)


def test_penalties_stay_between_gradient_and_optimizer():
    def model(form: str) -> onnx.ModelProto:
        rm.set_seed(0)
        network = perceptron()
        loss = cross_entropy(network, features(8), class_indices(8))
        network[0].params["w"].output.node.regularizer = G.L2(0.1)
        return to_training_onnx(loss, G.Sgd(0.05), form=form)

    assert "L2" in operators(model("spec"))
    assert_trains_closely(model("spec"), model("functions"), exact=True)


def test_state_goes_from_one_form_to_the_other():
    ours, theirs = model_of("mlp", "Adam"), model_of("mlp", "Adam", form="spec")
    first, second, whole = (rm.runtime.TrainingSession(m, "cpu", threads=1) for m in (ours, theirs, ours))
    batches = [feeds(ours, 6, i) for i in range(6)]
    losses = [float(whole.step(batch)) for batch in batches]
    for batch in batches[:3]:
        first.step(batch)
    for binding in ours.training_info[0].update_binding:
        second.write(binding.key, first.read(binding.key))
    np.testing.assert_allclose([float(second.step(batch)) for batch in batches[3:]], losses[3:], rtol=1e-6)


def test_a_checkpoint_keeps_the_form_and_goes_on_bit_for_bit(tmp_path: Path):
    model = model_of("mlp", "Adam", form="spec")
    whole, first = (rm.runtime.TrainingSession(model, "cpu", threads=1) for _ in range(2))
    batches = [feeds(model, 6, i) for i in range(6)]
    losses = [float(whole.step(batch)) for batch in batches]
    for batch in batches[:3]:
        first.step(batch)
    first.save(tmp_path / "checkpoint.onnx")
    saved = onnx.load(tmp_path / "checkpoint.onnx")
    assert operators(saved) == operators(model) and saved.functions == model.functions
    second = rm.runtime.TrainingSession(tmp_path / "checkpoint.onnx", "cpu", threads=1)
    assert [float(second.step(batch)) for batch in batches[3:]] == losses[3:]


def test_the_tools_keep_the_form():
    model = model_of("mlp", "Adam", form="spec")
    for changed in (convert_opset(model, 21), inline(lower(model))):
        assert lint(changed) == []
        assert_trains_alike(changed, model)
    renamed = add_prefix(model, "net/")
    assert lint(renamed) == []
    assert_trains_alike(renamed, model, lambda name: f"net/{name}")
    merged = merge(model, parsed("f (float[N, 3] s) => (float[N, 3] t) { t = Neg (s) }"), {"output": "s"})
    assert lint(merged) == []
    assert operators(merged) == operators(model)
    stripped = strip(model)
    assert not stripped.functions and [o.domain for o in stripped.opset_import] == [""]


def test_the_file_is_written_by_export_training(tmp_path: Path):
    rm.set_seed(0)
    path = tmp_path / "spec.onnx"
    rm.export_training(LOSSES["mlp"](), OPTIMIZERS["Adam"](), path, form="spec")
    assert onnx.load(path) == model_of("mlp", "Adam", form="spec")


@pytest.mark.parametrize("penalty", [None, G.L2(0.1)], ids=["plain", "penalty"])
def test_load_reads_the_graph_and_leaves_the_training_step_to_sessions(penalty: G.L2 | None):
    rm.set_seed(0)
    network = perceptron()
    loss = cross_entropy(network, features(8), class_indices(8))
    network[0].params["w"].output.node.regularizer = penalty
    model = rm.load(to_training_onnx(loss, G.Adam(0.01), form="spec"))
    assert model.loss is None and list(model.outputs) == ["output"]


def test_exporting_leaves_the_tree_as_it_is():
    rm.set_seed(0)
    loss, optimizer = LOSSES["mlp"](), G.Adam(0.01)
    before = to_training_onnx(loss, optimizer)
    to_training_onnx(loss, optimizer, form="spec")
    assert to_training_onnx(loss, optimizer) == before


# Errors


@pytest.mark.parametrize("optimizer", [G.Lion, G.Lamb, G.Adamax, G.Rmsprop, G.Adadelta], ids=lambda kind: kind.__name__)
def test_an_optimizer_that_the_specification_lacks_is_an_error(optimizer: type[G.Optimizer]):
    with pytest.raises(rm.ConversionError) as error:
        to_training_onnx(LOSSES["mlp"](), optimizer(), form="spec")
    assert str(error.value) == (
        "export_training: with form='spec' the optimizer must be one of Adagrad, Adam, AdamW, Sgd, which operators of "
        f"the specification compute, got {optimizer.__name__}. Use form='functions'."
    )


def test_a_gradient_that_is_stopped_is_an_error():
    hidden = G.Dense(4)(features(8))
    loss = G.MeanSquared()(G.Dense(3)(hidden + G.stop_gradient(hidden)), features(8, size=3))
    with pytest.raises(rm.ConversionError) as error:
        to_training_onnx(loss, G.Sgd(0.1), form="spec")
    assert str(error.value).startswith(
        "export_training: with form='spec' the loss must depend on the parameters by operators alone, got a gradient "
        "that is stopped, which Gradient cannot say. Use form='functions'. Created at test_form.py:"
    )


def test_a_parameter_of_another_type_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parameter, "precision", np.dtype(np.float16))
    loss = G.MeanSquared()(G.Dense(3)(features(8)), features(8, size=3))
    with pytest.raises(rm.ConversionError) as error:
        to_training_onnx(loss, G.Sgd(0.1), form="spec")
    assert str(error.value) == (
        "export_training: with form='spec' a parameter must be float32 or float64, which the specification's "
        "optimizers take, got float16[6, 3]. Use form='functions'."
    )


def test_a_form_that_nobody_knows_is_an_error():
    with pytest.raises(rm.ConversionError) as error:
        to_training_onnx(LOSSES["mlp"](), G.Sgd(0.1), form="text")
    assert str(error.value) == "export_training: form must be one of functions, spec, got 'text'."
