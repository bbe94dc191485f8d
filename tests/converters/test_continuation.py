"""Training files are loaded with their loss and optimizer, and training goes on with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from renom_onnx.runtime import TrainingSession
from tests.converters.programs import OPTIMIZERS, PROGRAMS, Program, classes, features, feeds
from tests.layers.test_export import CASES as LAYERS
from tests.messages import message_of

g = rm.graph
CONVERTED = {"integer_data", "double_data", "probabilities"}
"""Programs whose data are converted: their files ask for the type that is computed with, and convert no gradient."""
X, T = features(8), classes(8)


def as_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def network() -> Any:
    rm.set_seed(0)
    return g.Sequential([g.Dense(8), g.BatchNormalize(), g.Dropout(0.5), g.Relu(), g.Dense(3)])


def file_of(optimizer: Any, change: Callable[[Any], object] = lambda model: None) -> onnx.ModelProto:
    model = network()
    change(model)
    return to_training_onnx(g.SoftmaxCrossEntropy()(model(X), T), optimizer)


def steps(model: Any, n: int, batch: dict[str, Any] | None = None) -> tuple[list[float], TrainingSession]:
    session = TrainingSession(model, "cpu", threads=1)
    batch = batch if batch is not None else {"x": X, "y": T}
    return [float(session.step(batch)) for _ in range(n)], session


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_the_file_is_written_again(program: Program):
    file = program.model()
    model = rm.load(as_bytes(file))
    again = to_training_onnx(model.loss, model.optimizer)
    if program.loss in CONVERTED:
        assert len(again.training_info[0].algorithm.node) == len(file.training_info[0].algorithm.node)
        batch = feeds(file, 4)
        assert steps(again, 3, batch)[0] == steps(file, 3, batch)[0]
        model = rm.load(again)
        assert as_bytes(to_training_onnx(model.loss, model.optimizer)) == as_bytes(again)
    else:
        assert as_bytes(again) == as_bytes(file)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "momentum": (lambda: g.Sgd(0.1, momentum=0.9, nesterov=True), lambda m: None),
    "weight decay": (lambda: g.AdamW(weight_decay=0.1), lambda m: None),
    "numbers that float32 does not have": (lambda: g.Adam(beta1=1 / 3, epsilon=1e-7), lambda m: None),
    "clipping": (lambda: g.Adam(clip_norm=0.5, clip_value=(-0.1, 0.2)), lambda m: None),
    "accumulation": (lambda: g.Rmsprop(accumulate=2), lambda m: None),
    "loss scale": (lambda: g.Sgd(0.1, loss_scale=g.LossScale(8, growth_interval_steps=2)), lambda m: None),
    "all of them": (lambda: g.Adam(accumulate=2, clip_norm=1.0, loss_scale="dynamic"), lambda m: None),
    "a regularizer": (lambda: g.Sgd(0.1), lambda m: m.set_regularizer(g.L2(0.01), "*w")),
    "two regularizers": (
        g.Adagrad,
        lambda m: (m.set_regularizer(g.L2(0.01), "dense1.*"), m.set_regularizer(g.L1(0.02), "dense2.w")),
    ),
    "two optimizers": (lambda: g.Adam(0.01), lambda m: m.set_optimizer(g.Sgd(0.3, momentum=0.5), "dense2.*")),
    "one optimizer twice": (lambda: g.Adam(0.01), lambda m: m.set_optimizer(g.Adam(0.3), "dense2.*")),
    "frozen": (g.Lion, lambda m: m.set_updatable(False, "dense1.*")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_and_state_are_found_again(name: str):
    optimizer, change = SETTINGS[name]
    _, session = steps(file_of(optimizer(), change), 3)
    file = session.to_model()
    model = rm.load(as_bytes(file))
    again = to_training_onnx(model.loss, model.optimizer)
    assert as_bytes(again) == as_bytes(file)
    assert steps(again, 3)[0] == steps(file, 3)[0]


OTHERWISE = {
    "group_normalize": "reading finds sizes that the layer's own inference does not, and writes them into the bodies",
}
"""Layers whose file is written again with the same numbers and other bytes."""


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("data, layer", LAYERS, ids=[layer.kind for _, layer in LAYERS])
def test_every_layer_trains_on_from_its_file(data: np.ndarray, layer: Any, opset: int):
    file = to_training_onnx(g.ConstantLoss("mean")(g.square(layer(g.Bias()(data)))), g.Sgd(0.01), opset=opset)
    model = rm.load(as_bytes(file))
    again = to_training_onnx(model.loss, model.optimizer)
    assert as_bytes(again) == as_bytes(file) or layer.kind in OTHERWISE
    batch = {"x": data}
    assert steps(again, 2, batch)[0] == steps(file, 2, batch)[0]
    output = layer(data)
    called = rm.load(to_onnx(output))(data)
    np.testing.assert_allclose(called.as_ndarray(), output.as_ndarray(), rtol=1e-5, atol=1e-6)


def test_an_executor_goes_on_where_the_session_ended(tmp_path: Path):
    _, session = steps(file_of(g.Adam(0.01)), 2)
    path = tmp_path / "model.train.onnx"
    session.save(path)
    expected = [float(session.step({"x": X, "y": T})) for _ in range(4)]
    model = rm.load(path)
    executor = model.connect_loss(X, y=T).get_training_executor(model.optimizer, devices=["cpu"])
    losses = [executor.execute(1, progress=False).losses[-1] for _ in range(4)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for key in ("dense1.w", "batch_normalize1.mean", "dense2.b"):
        np.testing.assert_array_equal(model.params[key].as_ndarray(), session.read(key))
    saved = to_onnx(model)  # the file, with today's weights and state
    assert [i.name for i in saved.training_info[0].algorithm.initializer] == [
        i.name for i in session.to_model().training_info[0].algorithm.initializer
    ]
    assert as_bytes(saved.training_info[0].algorithm) == as_bytes(session.to_model().training_info[0].algorithm)
    assert steps(saved, 2)[0] == [float(session.step({"x": X, "y": T})) for _ in range(2)]


def test_eager_steps_go_on_too():
    _, session = steps(file_of(g.Adam(0.01)), 2)
    model = rm.load(session.to_model())
    loss = model.connect_loss(x=X, y=T)
    for _ in range(3):
        session.step({"x": X, "y": T})
        loss.update(model.optimizer)
    np.testing.assert_allclose(model.params["dense1.w"].as_ndarray(), session.read("dense1.w"), rtol=1e-5, atol=1e-7)


def test_gradients_and_updates_are_in_the_tree_with_their_tags(capsys: pytest.CaptureFixture[str]):
    program = Program("mlp", "Sgd", 18)
    loss = rm.load(program.model()).loss
    assert loss is not None
    loss.print_tree()
    assert [line.removeprefix("I am a ") for line in capsys.readouterr().out.splitlines()] == [
        "Placeholder at depth 0 with tags: ['Forward']",
        "Variable at depth 0 with tags: ['Forward']",
        "Variable at depth 0 with tags: ['Forward']",
        "Gemm (F) at depth 1 with tags: ['Forward']",
        "Relu (F) at depth 2 with tags: ['Forward']",
        "Variable at depth 0 with tags: ['Forward']",
        "Variable at depth 0 with tags: ['Forward']",
        "Gemm (F) at depth 3 with tags: ['Forward']",
        "Placeholder at depth 0 with tags: ['Forward']",
        "SoftmaxCrossEntropyLoss (F) at depth 4 with tags: ['Forward']",
        "Constant (B) at depth 5 with tags: ['Backward']",
        "SoftmaxCrossEntropyLoss (B) at depth 6 with tags: ['Backward']",
        "Gemm (B) at depth 7 with tags: ['Backward']",
        "Relu (B) at depth 8 with tags: ['Backward']",
        "Gemm (B) at depth 9 with tags: ['Backward']",
        "Gemm (B) at depth 9 with tags: ['Backward']",
        "Update at depth 10 with tags: ['Update']",
        "Gemm (B) at depth 9 with tags: ['Backward']",
        "Update at depth 10 with tags: ['Update']",
        "Gemm (B) at depth 7 with tags: ['Backward']",
        "Update at depth 8 with tags: ['Update']",
        "Gemm (B) at depth 7 with tags: ['Backward']",
        "Update at depth 8 with tags: ['Update']",
    ]


def test_what_was_trained_before_may_be_changed_now():
    model = rm.load(file_of(g.Adam(0.01)))
    model.set_updatable(False, "dense1.*")
    changed = to_training_onnx(model.connect_loss(X, T), g.Sgd(0.1))
    assert {b.key for b in changed.training_info[0].update_binding} == {
        "batch_normalize1.w", "batch_normalize1.b", "batch_normalize1.mean", "batch_normalize1.var", "dense2.w",
        "dense2.b", "dropout1.step",
    }  # fmt: skip
    before = model.params["dense1.w"].as_ndarray()
    model.connect_loss(X, T).update(g.Sgd(0.1))
    np.testing.assert_array_equal(model.params["dense1.w"].as_ndarray(), before)


def test_parameters_that_the_file_freezes_are_frozen():
    model = rm.load(file_of(g.Adam(), lambda m: m.set_updatable(False, "dense1.*")))
    assert {name for name, p in model.named_parameters() if p.trainable} == {
        "batch_normalize1.w", "batch_normalize1.b", "dense2.w", "dense2.b"
    }  # fmt: skip


def test_an_optimizer_of_the_users_own_is_found_by_its_name():
    class Slow(g.Optimizer):
        """p' = p - learning_rate * g / 2."""

        name = "Slow"

        def fragment(self, op: Any, p: Any, g: Any, scalars: Any, *state: Any) -> Any:
            return (op.Sub(p, op.Mul(scalars[0], op.Mul(g, 0.5))),)

    file = file_of(Slow(0.1))
    model = rm.load(file)
    assert type(model.optimizer) is Slow
    assert as_bytes(to_training_onnx(model.loss, model.optimizer)) == as_bytes(file)


def test_an_optimizer_that_only_calls_its_arguments_otherwise_gives_way_to_what_it_computes():
    assert rm.Sgd(0.5).name == g.Sgd(0.5).name
    model = rm.load(Program("mlp", "momentum", 18).model())
    assert type(model.optimizer) is g.Sgd


def test_an_inference_file_has_no_loss():
    model = rm.load(to_onnx(network()(X)))
    assert model.loss is None
    assert model.optimizer is None
    assert message_of(lambda: model.connect_loss(X), rm.ConversionError) == (
        "connect_loss: the file must hold a training step of rm.export_training, got one without. Connect a loss to "
        "the model's outputs. {created}"
    )


def renamed(old: str, new: str) -> onnx.ModelProto:
    model = file_of(OPTIMIZERS["Adam"]())
    for node in model.training_info[0].algorithm.node:
        node.op_type = node.op_type.replace(old, new)
    for function in model.functions:
        function.name = function.name.replace(old, new)
    return model


def test_an_optimizer_that_nobody_defines_is_told():
    file = renamed("Adam", "Unheard")
    assert message_of(lambda: rm.load(file).optimizer, rm.ConversionError) == (
        "load: the optimizer of dense1.w must be a class of this program, got Unheard, which none is called by. Import "
        "the module that defines it before."
    )


def test_a_state_that_is_no_initializer_is_told():
    file = file_of(g.Adam())
    algorithm = file.training_info[0].algorithm
    next(t for t in algorithm.initializer if t.name == "dense1.w.adam_m").name = "elsewhere"
    assert message_of(lambda: rm.load(file).optimizer, rm.ConversionError) == (
        "load: the optimizer's state must be an initializer, got 'dense1.w.adam_m', which is none."
    )


def test_settings_stand_in_the_metadata():
    file = file_of(g.Adam(beta1=1 / 3, clip_value=1, accumulate=3))
    entries = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(entries["settings"]) == {
        "accumulate": 3, "clip_value": [-1, 1], "hyperparameters": {"Adam": {"beta1": 1 / 3}}, "reduction": "mean"
    }  # fmt: skip


def without_loss(file: onnx.ModelProto) -> None:
    info = file.training_info[0]
    bound = {binding.value for binding in info.update_binding}
    kept = [output for output in info.algorithm.output if output.name in bound]
    del info.algorithm.output[:]
    info.algorithm.output.extend(kept)


def without_optimizer(file: onnx.ModelProto) -> None:
    for node in file.training_info[0].algorithm.node:
        if node.op_type == "Adam":
            node.name = "anonymous"
    del file.metadata_props[:]


def bound_to_nobody(file: onnx.ModelProto) -> None:
    file.training_info[0].update_binding.add(key="nobody", value="step.next")


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "no loss": (without_loss, "load: the algorithm must have the loss among its outputs, got only next values."),
    "no optimizer": (
        without_optimizer, "load: the file must say which optimizer it was written with, got ''."
    ),
    "a binding to nobody": (
        bound_to_nobody, "load: update_binding must name initializers, got 'nobody', which is none."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told(name: str):
    spoil, message = BROKEN[name]
    file = file_of(g.Adam())
    spoil(file)
    with pytest.raises(rm.ConversionError) as error:
        _ = rm.load(file).loss
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"reduction": "mean"}'])
def test_settings_that_cannot_be_read_are_none(text: str):
    file = file_of(g.Adam())
    for entry in file.metadata_props:
        if entry.key == "settings":
            entry.value = text
    model = rm.load(file)
    assert steps(to_training_onnx(model.loss, model.optimizer), 2)[0] == steps(file, 2)[0]
