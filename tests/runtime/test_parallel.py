"""Several devices train as one: losses, weights, replicas, and everything that looks at a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import Device, ParallelTrainingSession, TrainingSession
from tests.converters.programs import LOSSES, Program, feeds
from tests.converters.spec.test_training_info import UPDATES, batches, spec_file
from tests.runtime.several import assert_replicas_are_equal, assert_same, g, images, labels, train
from tests.zoo.test_zoo import MODELS


def perceptron(*more: g.Layer) -> g.Sequential:
    return g.Sequential([g.Flatten(), g.Dense(8), *more, g.Tanh(), g.Dense(3)])


def convolutional() -> g.Sequential:
    return g.Sequential([g.Conv(4, kernel=3), g.Relu(), g.MaxPool(kernel=2, stride=2), g.Flatten(), g.Dense(3)])


def cross_entropy(model: g.Layer, **options: Any) -> Callable[..., g.GraphElement]:
    return lambda x, y: g.SoftmaxCrossEntropy(**options)(model(x), y)


def distance(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    return g.MeanSquared()(perceptron()(x), x[:, 0, 0, :3])


def several_terms(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    """A mean, a sum, a mean by the labels' weights, and a term without data."""
    model = perceptron()
    z = model(x)
    weighted = g.SoftmaxCrossEntropy(weight=np.array([0.2, 1, 3], np.float32))(z, y)
    decay = g.ConstantLoss()(g.square(model[1].params["w"]))
    return g.SoftmaxCrossEntropy()(z, y) + 0.01 * g.ConstantLoss()(g.square(z)) + weighted - 0.01 * decay


def dropout_in_rows(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    """Dropout over rows that are six for each sample, and over whole channels."""
    rows = g.Dropout(0.3)(g.reshape(g.SpatialDropout(0.2)(x), (-1, 12)))
    return g.SoftmaxCrossEntropy()(g.Dense(3)(g.reshape(rows, (-1, 72))), y)


OPTIMIZERS: dict[str, Callable[[], g.Optimizer]] = {
    "Adam": lambda: g.Adam(0.01),
    "clipped": lambda: g.Adam(0.01, clip_norm=0.5),
    "accumulated": lambda: g.Sgd(0.05, momentum=0.9, accumulate=3),
    "scaled": lambda: g.Sgd(0.05, loss_scale=g.LossScale(1024, growth_interval_steps=7)),
    "LAMB": lambda: g.Lamb(0.01),
}
PROGRAMS: dict[str, tuple[Callable[[], Callable[..., g.GraphElement]], str]] = {
    "perceptron": (lambda: cross_entropy(perceptron()), "Adam"),
    "convolutions": (lambda: cross_entropy(convolutional()), "Adam"),
    "dropout": (lambda: cross_entropy(perceptron(g.Dropout(0.4))), "Adam"),
    "dropout in rows": (lambda: dropout_in_rows, "Adam"),
    "sum": (lambda: cross_entropy(perceptron(), reduction="sum"), "clipped"),
    "distance": (lambda: distance, "Adam"),
    "label weights": (lambda: cross_entropy(perceptron(), weight=np.array([0.2, 1, 3], np.float32)), "Adam"),
    "several terms": (lambda: several_terms, "Adam"),
    "clipped": (lambda: cross_entropy(perceptron()), "clipped"),
    "accumulated": (lambda: cross_entropy(perceptron()), "accumulated"),
    "scaled": (lambda: cross_entropy(perceptron()), "scaled"),
    "LAMB": (lambda: cross_entropy(perceptron()), "LAMB"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_number_of_devices_trains_as_one(program: str):
    build, optimizer = PROGRAMS[program]
    one = train(build(), OPTIMIZERS[optimizer], 1)
    assert len(one.losses) >= 50
    assert one.losses[-1] < one.losses[0]
    for n_devices in (2, 3):
        several = train(build(), OPTIMIZERS[optimizer], n_devices)
        assert_same(one, several)
        assert_replicas_are_equal(several.executor.session)


@pytest.mark.parametrize("program", ["perceptron", "dropout", "several terms", "accumulated"])
def test_in_float64_they_agree_to_the_digits_of_float64(program: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.graph.parameter.precision", np.dtype(np.float64))
    build, optimizer = PROGRAMS[program]
    one, several = (train(build(), OPTIMIZERS[optimizer], n) for n in (1, 3))
    assert {value.dtype for value in one.values.values()} == {np.dtype(np.float64)}
    assert_same(one, several, rtol=1e-12)


def test_half_precision_with_a_loss_scale_trains_alike():
    """The sum of the parts' gradients is taken in float32; float16 in front of it rounds by the size of the part."""

    def build(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
        model = perceptron()
        with g.autocast("float16"):
            z = model(x)
        return g.SoftmaxCrossEntropy()(z, y)

    one, several = (train(build, lambda: g.Sgd(0.05, loss_scale="dynamic"), n) for n in (1, 3))
    np.testing.assert_allclose(several.losses, one.losses, rtol=5e-3, atol=5e-3)
    assert_replicas_are_equal(several.executor.session)
    assert one.losses[-1] < one.losses[0]


def test_ignored_labels_count_on_no_device():
    """The last batch has ignored labels alone on the first device."""
    x, y = images(8), labels(8)
    y[[0, 1, 2, 3, 6]] = 9
    losses = []
    for n_devices in (1, 2):
        rm.set_seed(0)
        loss = g.SoftmaxCrossEntropy(ignore_index=9)(perceptron()(x), y)
        executor = loss.get_training_executor(g.Adam(0.01), ["cpu"] * n_devices)
        losses.append(executor.execute(20, progress=False).losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert losses[0][-1] < losses[0][0]


# Batch normalization


def normalized() -> Callable[..., g.GraphElement]:
    """Convolutions without a bias, whose gradient would be 0, of which Adam keeps the sign."""
    convolutions = [g.Conv(4, kernel=3, bias=False), g.BatchNormalize(unbiased=True), g.Relu()]
    convolutions += [g.Conv(5, kernel=2, bias=False), g.BatchNormalize(), g.Tanh()]
    return cross_entropy(g.Sequential([*convolutions, g.Flatten(), g.Dense(3)]))


@pytest.mark.parametrize("n_devices", [2, 3])
def test_synchronized_batch_normalization_is_that_of_one_device(n_devices: int):
    one = train(normalized(), OPTIMIZERS["Adam"], 1)
    several = train(normalized(), OPTIMIZERS["Adam"], n_devices, synchronize_batch_norm=True)
    assert len(several.executor.session._replicas[0].buffers) == 5  # two layers, forward and backward, and gradients
    assert_same(one, several)
    assert_replicas_are_equal(several.executor.session)
    assert len([name for name in one.values if name.endswith((".mean", ".var"))]) == 4


def test_synchronized_in_float64_they_agree_to_the_digits_of_float64(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.graph.parameter.precision", np.dtype(np.float64))

    def build() -> Callable[..., g.GraphElement]:
        layers = [g.Flatten(), g.Dense(8, bias=False), g.BatchNormalize(), g.Tanh(), g.Dense(6, bias=False)]
        return cross_entropy(g.Sequential([*layers, g.BatchNormalize(unbiased=True), g.Dense(3)]))

    one = train(build(), OPTIMIZERS["accumulated"], 1)
    several = train(build(), OPTIMIZERS["accumulated"], 3, synchronize_batch_norm=True)
    assert_same(one, several, rtol=1e-9)


def test_branches_are_synchronized_together():
    def build(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
        paths = [g.Sequential([g.Conv(4, kernel=3, bias=False), g.BatchNormalize()]) for _ in range(2)]
        joined = paths[0](x) + paths[1](x)
        return g.SoftmaxCrossEntropy()(g.Dense(3)(g.Flatten()(g.relu(joined))), y)

    one = train(build, OPTIMIZERS["Adam"], 1)
    several = train(build, OPTIMIZERS["Adam"], 2, synchronize_batch_norm=True)
    assert len(several.executor.session._replicas[0].buffers) == 3
    assert_same(one, several, rtol=2e-6)


def test_statistics_of_each_device_are_those_of_its_part():
    """The same as one device that normalizes the parts separately."""
    x, y = images(7), labels(7)

    def trained(n_devices: int) -> list[float]:
        rm.set_seed(0)
        dense, norm, head = g.Dense(5, bias=False), g.BatchNormalize(), g.Dense(3)
        hidden = dense(g.Flatten()(x))
        parts = [norm(hidden)] if n_devices == 2 else [norm(hidden[:4]), norm(hidden[4:])]
        loss = g.SoftmaxCrossEntropy()(head(parts[0] if n_devices == 2 else g.concatenate(parts)), y)
        executor = loss.get_training_executor(g.Sgd(0.1), ["cpu"] * n_devices)
        return executor.execute(20, progress=False).losses

    np.testing.assert_allclose(trained(2), trained(1), rtol=1e-6)


def test_running_statistics_of_the_parts_are_averaged_by_rows():
    x, y = images(7), labels(7)
    dense, norm = g.Dense(5, bias=False), g.BatchNormalize(momentum=0.75)
    hidden = dense(g.Flatten()(x))
    loss = g.SoftmaxCrossEntropy()(g.Dense(3)(norm(hidden)), y)
    values = hidden.as_ndarray()
    means = [values[:4].mean(0), values[4:].mean(0)]
    variances = [values[:4].var(0), values[4:].var(0)]
    loss.get_training_executor(g.Sgd(0.1), ["cpu", "cpu"]).execute(progress=False)
    wanted = [0.25 * np.average(means, axis=0, weights=[4, 3]), 0.75 + 0.25 * np.average(variances, 0, [4, 3])]
    for name, value in zip(("mean", "var"), wanted, strict=True):
        np.testing.assert_allclose(norm.params[name].as_ndarray(), value, rtol=1e-5, atol=1e-6)


# The session


def test_a_step_of_one_device_has_the_bits_of_a_training_session():
    model = Program("cnn", "Adam", 18).model()
    one, several = TrainingSession(model, "cpu"), ParallelTrainingSession(model, ["cpu"], threads=1)
    assert [float(one.step(feeds(model, 8, i))) for i in range(10)] == [
        float(several.step(feeds(model, 8, i))) for i in range(10)
    ]
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(several.read(name), value)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_exported_program_trains_and_evaluates_on_two_devices(loss: str):
    model = Program(loss, "Sgd", 18).model()
    one, several = TrainingSession(model, "cpu"), ParallelTrainingSession(model, ["cpu", "cpu"])
    rows = 8 if loss != "normalized" else 1  # which one device has alone, so that its statistics are those of one
    for i in range(3):
        batch = feeds(model, rows, i)
        assert float(several.step(batch)) == pytest.approx(float(one.step(batch)), rel=1e-5)
    batch = feeds(model, 5)
    found = several.evaluate(batch)
    for name, value in one.evaluate(batch).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert several.evaluate({k: v for k, v in batch.items() if k not in several.targets}).keys() >= set(one.outputs)


def test_two_devices_train_a_file_that_was_written_out():
    models = [Program("cnn", "Adam", 18).model(inline=inline) for inline in (False, True)]
    one, several = TrainingSession(models[0], "cpu"), ParallelTrainingSession(models[1], ["cpu", "cpu"])
    for i in range(10):
        batch = feeds(models[0], 5, i)
        assert float(several.step(batch)) == pytest.approx(float(one.step(batch)), rel=1e-6)


def test_gradients_are_found_by_what_they_are_where_their_names_do_not_tell():
    model = Program("mlp", "Sgd", 18).model()
    one, several = TrainingSession(model, "cpu"), ParallelTrainingSession(renamed(), ["cpu", "cpu"])
    for i in range(5):
        assert float(several.step(feeds(model, 5, i))) == pytest.approx(float(one.step(feeds(model, 5, i))), rel=1e-6)


@pytest.mark.parametrize("optimizer", UPDATES)
def test_a_file_of_the_specification_trains_on_two_devices(optimizer: str):
    """Its Gradient names what it likes, its optimizer updates all weights at once, and its count is read twice."""
    one = TrainingSession(spec_file(optimizer), "cpu")
    several = ParallelTrainingSession(spec_file(optimizer), ["cpu", "cpu"])
    assert len(several._replicas[0].state.sets) == 2  # not everything can be written in place
    for batch in batches(10):
        assert float(several.step(batch)) == pytest.approx(float(one.step(batch)), rel=1e-5)
    for name, value in one.parameters.items():
        np.testing.assert_allclose(several.read(name), value, rtol=1e-4, err_msg=name)
    assert_replicas_are_equal(several)


def test_weights_are_written_in_place():
    model = Program("cnn", "Adam", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"])
    replica = session._replicas[0]
    before = {name: tensor.value.data_ptr() for name, tensor in replica.state.now.items()}
    values = session.parameters
    session.step(feeds(model, 8))
    assert {name: tensor.value.data_ptr() for name, tensor in replica.state.now.items()} == before
    assert all((session.read(name) != value).any() for name, value in values.items())


def test_a_checkpoint_goes_on_bit_for_bit_on_as_many_devices(tmp_path: Path):
    model = Program("dropout", "Adam", 18).model()
    whole = ParallelTrainingSession(model, ["cpu", "cpu"])
    first = ParallelTrainingSession(model, ["cpu", "cpu"])
    batches = [feeds(model, 7, i) for i in range(6)]
    for batch in batches[:3]:
        first.step(batch)
    first.save(tmp_path / "half.onnx")
    second = ParallelTrainingSession(tmp_path / "half.onnx", ["cpu", "cpu"])
    losses = [float(whole.step(batch)) for batch in batches]
    assert [float(second.step(batch)) for batch in batches[3:]] == losses[3:]
    alone = TrainingSession(tmp_path / "half.onnx", "cpu")
    assert [float(alone.step(batch)) for batch in batches[3:]] == pytest.approx(losses[3:], rel=1e-6)


def test_what_is_written_and_read_is_every_devices():
    model = Program("mlp", "Adam", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"])
    session.write("dense1.b", np.ones((1, 8), np.float32))
    session.learning_rate = 0.5
    assert (session.read("dense1.b") == 1).all()
    assert session.learning_rate == 0.5
    assert_replicas_are_equal(session)
    assert float(session.step(feeds(model, 4) | {"learning_rate": 0.0})) > 0
    assert session.learning_rate == 0
    assert (session.read("dense1.b") == 1).all()


def test_a_program_and_its_executor_share_weights_as_with_one_device():
    losses = []
    for devices in (["cpu"], ["cpu"] * 3):
        rm.set_seed(0)
        model = perceptron()
        loss = g.SoftmaxCrossEntropy()(model(images()), labels())
        executor = loss.get_training_executor(g.Adam(0.01), devices)
        executor.execute(2, progress=False)
        model[1].params["b"].output.node.array = np.zeros((1, 8), np.float32)
        executor.execute(2, progress=False)
        losses.append([*executor.history.losses, float(loss.as_ndarray())])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_validation_and_metrics_are_those_of_one_device():
    histories = []
    for n_devices in (1, 3):
        rm.set_seed(0)
        loss = cross_entropy(perceptron())(*g.DistributorElement(images(), labels(), batch_size=8).get_output_graphs())
        executor = loss.get_training_executor(g.Adam(0.01), ["cpu"] * n_devices)
        histories.append(
            executor.execute(
                3,
                progress=False,
                validation=(images(17), labels(17)),
                metrics={"accuracy": rm.runtime.metric.Accuracy()},
            )
        )
    np.testing.assert_allclose(histories[1].validation_losses, histories[0].validation_losses, rtol=1e-6)
    assert histories[1].metrics == histories[0].metrics


def test_a_loss_that_is_read_late_is_still_its_own():
    model = Program("mlp", "Adam", 18).model()
    eager, late = (ParallelTrainingSession(model, ["cpu", "cpu"]) for _ in range(2))
    wanted = [float(eager.step(feeds(model, 4, i))) for i in range(5)]
    assert [float(loss) for loss in [late.step(feeds(model, 4, i)) for i in range(5)]] == wanted


# Errors


def session_of(loss: str, **options: Any) -> ParallelTrainingSession:
    return ParallelTrainingSession(Program(loss, "Sgd", 18).model(), ["cpu", "cpu"], **options)


def fixed_rows() -> Any:
    model = Program("mlp", "Sgd", 18).model()
    for info in (*model.graph.input, *model.training_info[0].algorithm.input):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 4
    return ParallelTrainingSession(model, ["cpu", "cpu"])


def renamed(**options: Any) -> Any:
    """Return a file whose gradients have other names than ours."""
    model = Program("mlp", "Sgd", 18).model(**options)
    for node in model.training_info[0].algorithm.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name.replace(".grad", ".slope")
    return model


ERRORS: dict[str, tuple[Callable[[], Any], type[rm.RenomError], str]] = {
    "no device": (
        lambda: LOSSES["mlp"]().get_training_executor(devices=[]),
        rm.DeviceError,
        "get_training_executor: devices must name one at least, got [].",
    ),
    "devices of two kinds": (
        lambda: ParallelTrainingSession(Program("mlp", "Sgd", 18).model(), [Device("cpu"), Device("cuda", 1)]),
        rm.DeviceError,
        "ParallelTrainingSession: devices must be one or more of one kind, got ['cpu', 'cuda:1'].",
    ),
    "no rows": (
        lambda: session_of("mlp").step(feeds(Program("mlp", "Sgd", 18).model(), 0)),
        rm.ShapeError,
        "ParallelTrainingSession.step: feeds must have the same number of rows, one at least, got 0 of x, 0 of y.",
    ),
    "fixed rows": (
        fixed_rows,
        rm.ConversionError,
        "several devices: an input must have a first axis of any size, whose rows can be dealt, got x of "
        "float32[4, 6], y of int64[4]. Use one device, or write the file with N rows.",
    ),
    "no gradients by name": (
        lambda: ParallelTrainingSession(renamed(inline=True), ["cpu", "cpu"]),
        rm.ConversionError,
        "several devices: the next value of 'dense1.w' must be computed from gradients, or be an average over the "
        "batch, got one that reads the batch itself (float32[6, 8]). Use one device, or write the file with "
        "rm.export_training.",
    ),
    "a foreign name": (
        lambda: session_of("mlp").read("w"),
        rm.ConversionError,
        "ParallelTrainingSession.read: the name must be one of dense1.w, dense1.b, dense2.w, dense2.b, learning_rate, "
        "got 'w'.",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_says_what_was_got(kind: str):
    call, error_kind, message = ERRORS[kind]
    with pytest.raises(error_kind) as error:
        call()
    assert str(error.value) == message


def test_an_error_of_one_device_is_told_and_changes_nothing():
    model = Program("mlp", "Sgd", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"])
    session.step(feeds(model, 8))
    before = {name: session.read(name) for name in session._held()}
    batch = feeds(model, 8, 1)
    batch["y"][6] = 9  # of three classes; the second device's
    with pytest.raises(rm.RunError) as error:
        session.step(batch | {"learning_rate": 0.25})
    assert str(error.value) == (
        "SoftmaxCrossEntropyLoss: labels must be 0 to 2, for 3 classes, got 'y' with 9 in row 6. Labels count from 0: "
        "correct them, or give 'output' 10 classes. It is node 'softmax_cross_entropy1/SoftmaxCrossEntropyLoss' of the "
        "model."
    )
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value)
    session.step(feeds(model, 8, 1))
    assert_replicas_are_equal(session)


def test_an_executor_on_several_devices_answers_with_the_users_line():
    y = labels(8)
    y[6] = 9
    loss = g.SoftmaxCrossEntropy()(perceptron()(images(8)), y)
    with pytest.raises(rm.RunError) as error:
        loss.get_training_executor(g.Sgd(0.1), ["cpu", "cpu"]).execute(progress=False)
    assert "Created at test_parallel.py:" in str(error.value)


def test_an_update_that_stops_on_one_device_ends_the_session():
    model = Program("mlp", "Sgd", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"])
    update = session._replicas[1]._update
    update._bindings = [[opened.io_binding() for opened in update._sessions]]
    with pytest.raises(rm.RunError) as error:
        session.step(feeds(model, 8))
    assert str(error.value).startswith("ParallelTrainingSession.step: onnxruntime stopped, got: ")
    with pytest.raises(rm.RunError) as error:
        session.step(feeds(model, 8))
    assert str(error.value) == (
        "ParallelTrainingSession.step: the devices must have the same weights, got an update that stopped on some of "
        "them. Open a new session from the last checkpoint."
    )


# Models of the field


@pytest.mark.parametrize("name", MODELS)
def test_two_devices_train_the_zoo_as_one(name: str):
    case = MODELS[name]
    rm.set_seed(0)
    x, t = g.DistributorElement(case.x, case.t, batch_size=8).get_output_graphs()
    scores = case.ours()(x)
    if scores.shape[1:-1] and scores.shape[1:-1] == t.shape[1:]:
        scores = g.transpose(scores, (0, 2, 1))  # classes of a sequence
    model = rm.converters.to_training_onnx(g.SoftmaxCrossEntropy()(scores, t), g.Sgd(0.01))
    one = TrainingSession(model, "cpu")
    several = ParallelTrainingSession(model, ["cpu", "cpu"], synchronize_batch_norm=True)
    for i in range(2):
        batch = {"x": case.x[5 * i : 5 * i + 5], "y": case.t[5 * i : 5 * i + 5].astype(np.int64)}
        assert float(several.step(batch)) == pytest.approx(float(one.step(batch)), rel=1e-5)
    assert len(several._replicas[0].state.sets) == 1  # all is written in place
