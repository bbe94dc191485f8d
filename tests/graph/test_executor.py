"""Executors: an epoch and its loss, what a callback sees and may do, and that training goes on where it stopped."""

import numpy as np
import pytest
import torch

import renom_onnx as rm

g = rm.graph
ROWS = 10


def data(rows: int = ROWS):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 2)).astype(np.float32)


class Training:
    """A small model on a distributor, the same one every time."""

    def __init__(self, optimizer=None, *, rows=ROWS, batch_size=4, shuffle=False, loss=None):
        rm.set_seed(0)
        self.data = g.DistributorElement(*data(rows), batch_size=batch_size, shuffle=shuffle)
        self.x, self.y = self.data.get_output_graphs()
        self.layers = [g.Dense(5), g.Dense(2)]
        self.prediction = self.layers[1](g.Tanh()(self.layers[0](self.x)))
        self.loss = (loss or g.MeanSquared())(self.prediction, self.y)
        self.optimizer = optimizer or g.Sgd(0.05, momentum=0.9)
        self.executor = self.loss.get_training_executor(self.optimizer, ["cpu"])

    def run(self, epochs=1, **options):
        return self.executor.execute(epochs, progress=False, **options)

    def parameters(self) -> list[np.ndarray]:
        return [layer.params[k].as_ndarray() for layer in self.layers for k in "wb"]


def loss_of(training: Training, x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean loss with today's parameters, computed by NumPy."""
    w1, b1, w2, b2 = training.parameters()
    return ((np.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2).sum() / 2 / len(x)


def assert_equal(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# History and steps


def test_the_history_has_a_loss_for_every_epoch_so_far():
    training = Training()
    history = training.run(3)
    assert len(history.losses) == 3
    assert history.losses[2] < history.losses[0]
    assert history.validation_losses == []
    assert training.run(2) is history is training.executor.history
    assert len(history.losses) == 5


def test_training_prints_nothing_on_stdout_and_a_bar_on_stderr(capsys):
    training = Training()
    training.executor.execute(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1" in err and "loss" in err
    training.executor.execute(1, progress=False)
    assert capsys.readouterr() == ("", "")


STEPS = {"short-last-batch": (10, 4, 3), "even": (8, 4, 2), "one-batch": (3, 8, 1), "rows": (5, 1, 5)}


@pytest.mark.parametrize(("rows", "batch_size", "n_steps"), STEPS.values(), ids=STEPS)
def test_an_epoch_takes_every_batch_but_the_empty_one(rows, batch_size, n_steps):
    seen = []
    training = Training(rows=rows, batch_size=batch_size)
    training.run(2, callbacks=[lambda epoch: seen.append((epoch.number, epoch.n_steps))])
    assert seen == [(0, n_steps), (1, 2 * n_steps)]
    assert np.isfinite(training.executor.history.losses).all()
    assert str(training.data.rows(0)) == str(slice(0, batch_size))


@pytest.mark.parametrize("batch_size", [4, 5, 10, 64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_an_epoch_is_that_of_all_rows(reduction, batch_size):
    """The mean is weighted by rows, a short last batch counts less; sums are added."""
    training = Training(g.Sgd(0.0), batch_size=batch_size, loss=g.MeanSquared(reduction))
    (loss,) = training.run().losses
    expected = loss_of(training, *data()) * (1 if reduction == "mean" else ROWS)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_without_a_distributor_an_epoch_is_one_step():
    x, y = data()
    dense = g.Dense(2)
    loss = g.MeanSquared()(dense(x), y)
    epochs = []
    before = loss.as_ndarray()
    history = loss.get_training_executor(g.Sgd(0.1)).execute(3, progress=False, callbacks=[epochs.append])
    assert [epoch.n_steps for epoch in epochs] == [1, 2, 3]
    np.testing.assert_allclose(history.losses[0], before, rtol=1e-6)


def test_a_tree_of_static_variables_trains_too():
    x, y = map(g.StaticVariable, data())
    loss = g.MeanSquared()(g.Dense(2)(x), y)
    losses = loss.get_training_executor(g.Sgd(0.1)).execute(5, progress=False).losses
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("get", ["getTrainingExecutor", "get_training_executor"])
def test_an_element_that_is_no_loss_is_trained_on_its_sum(get):
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    y = dense(np.ones((3, 2)))
    assert getattr(y, get)(g.Sgd(0.1)).execute(1, progress=False).losses == [6]
    np.testing.assert_allclose(dense.params["w"].as_ndarray(), 0.7, rtol=1e-6)


def test_the_default_optimizer_is_the_seeds():
    training = Training()
    start = training.parameters()
    training.loss.getTrainingExecutor().execute(2, progress=False)
    found = training.parameters()
    other = Training(g.sgd_update())
    assert_equal(other.parameters(), start)
    other.run(2)
    assert_equal(other.parameters(), found)


# Equal to the eager loop, and to one long run


OPTIMIZERS = {
    "sgd": lambda: g.Sgd(0.1),
    "momentum": lambda: g.Sgd(0.05, momentum=0.9),
    "adam": lambda: g.Adam(0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_executor_takes_the_steps_of_the_eager_loop(make):
    training, eager = Training(make()), Training(make())
    training.run(2)
    for _ in range(2):
        for _ in range(3):
            eager.loss.update(eager.optimizer)
        eager.data.reset()
    for a, b in zip(training.parameters(), eager.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shuffle", [False, True], ids=["in-order", "shuffled"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_two_runs_are_one_long_run_bit_for_bit(make, shuffle):
    long, short = Training(make(), shuffle=shuffle), Training(make(), shuffle=shuffle)
    long.run(5)
    short.run(2)
    short.parameters()
    short.run(3)
    assert_equal(long.parameters(), short.parameters())
    assert long.executor.history.losses == short.executor.history.losses


def test_another_executor_goes_on_with_the_same_optimizer_state():
    long, short = Training(), Training()
    long.run(4)
    short.run(2)
    short.loss.get_training_executor(short.optimizer, ["cpu"]).execute(2, progress=False)
    assert_equal(long.parameters(), short.parameters())


def test_an_eager_step_after_an_executor_goes_on_with_its_state():
    training, eager = Training(), Training()
    training.run(1)
    training.loss.update(training.optimizer)
    for _ in range(3):
        eager.loss.update(eager.optimizer)
    eager.data.reset()
    eager.loss.update(eager.optimizer)
    for a, b in zip(training.parameters(), eager.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Callbacks


def test_parameters_are_visible_during_and_after_callbacks():
    training, seen = Training(), []
    training.run(3, callbacks=[lambda _: seen.append(training.parameters())])
    assert_equal(seen[-1], training.parameters())
    assert not np.array_equal(seen[0][0], seen[1][0])
    session = training.executor.session.parameters
    assert_equal(list(session.values()), training.parameters())


def test_an_element_evaluated_in_a_callback_has_todays_weights():
    training, seen = Training(rows=4), []

    def check(_):
        value = training.loss.as_ndarray().item()
        training.data.reset()
        seen.append(value)

    losses = training.run(4, callbacks=[check]).losses
    np.testing.assert_allclose(seen[:-1], losses[1:], rtol=1e-5)


def test_a_callback_that_returns_true_ends_the_training_after_all_were_called():
    training, called = Training(), []

    def stop(epoch):
        called.append("stop")
        return epoch.number == 1

    history = training.run(5, callbacks=[stop, lambda _: called.append("other")])
    assert len(history.losses) == 2
    assert called == ["stop", "other"] * 2


def test_only_true_itself_ends_the_training():
    assert len(Training().run(2, callbacks=[lambda epoch: 1, lambda epoch: epoch]).losses) == 2


def test_a_callback_may_assign_the_learning_rate():
    training = Training(g.Sgd(0.1))
    seen = []

    def stop_learning(_):
        seen.append(training.parameters())
        training.optimizer.learning_rate = 0.0

    training.run(3, callbacks=[stop_learning])
    assert_equal(seen[0], seen[2])


def test_a_callback_may_assign_parameters():
    training = Training(g.Sgd(0.0))
    ones = np.ones((3, 5), np.float32)

    def assign(_):
        training.layers[0].params["w"].output.node.array = ones

    first, second = training.run(2, callbacks=[assign]).losses
    assert first != second
    np.testing.assert_array_equal(training.parameters()[0], ones)


def test_an_exception_in_a_callback_leaves_data_reset_and_parameters_readable():
    training, expected = Training(), Training()

    def fail(epoch):
        if epoch.number == 1:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        training.run(5, callbacks=[fail])
    expected.run(2)
    assert_equal(training.parameters(), expected.parameters())
    np.testing.assert_array_equal(training.x.as_ndarray(), data()[0][:4])
    training.data.reset()
    assert len(training.run(1).losses) == 3
    expected.run(1)
    assert_equal(training.parameters(), expected.parameters())


def test_an_exception_in_a_step_leaves_data_reset_and_the_steps_before_it():
    labels = np.array([0, 1, 1, 1])
    source = g.DistributorElement(np.ones((4, 3), np.float32), labels, batch_size=2, shuffle=False)
    x, y = source.get_output_graphs()
    dense = g.Dense(2)
    loss = g.SoftmaxCrossEntropy()(dense(x), y)
    executor = loss.get_training_executor(g.Sgd(0.1), ["cpu"])
    labels[3] = 7  # two classes: the second batch fails, when the data were looked at already
    before = dense.params["w"].as_ndarray()
    with pytest.raises(rm.IndexRangeError):
        executor.execute(1, progress=False)
    assert not np.array_equal(dense.params["w"].as_ndarray(), before)
    np.testing.assert_array_equal(y.as_ndarray(), [0, 1])
    assert executor.history.losses == []


# Learning rate


def test_a_schedule_is_called_with_the_steps_so_far_in_all_runs():
    training, steps = Training(), []

    def schedule(step):
        steps.append(step)
        return 0.1 / (step + 1)

    training.run(1, learning_rate=schedule)
    training.run(2, learning_rate=schedule)
    assert steps == list(range(9))
    assert training.optimizer.learning_rate == np.float32(0.1 / 9)


def test_scheduled_steps_are_pytorchs():
    training = Training(g.Sgd(1.0, momentum=0.9))
    tensors = [torch.tensor(p, requires_grad=True) for p in training.parameters()]
    optimizer = torch.optim.SGD(tensors, 0.1, momentum=0.9)
    x, y = map(torch.tensor, data())
    for step in range(6):
        batch = slice(4 * (step % 3), 4 * (step % 3) + 4)
        optimizer.zero_grad()
        w1, b1, w2, b2 = tensors
        d = torch.tanh(x[batch] @ w1 + b1) @ w2 + b2 - y[batch]
        ((d**2).sum() / 2 / len(d)).backward()
        optimizer.param_groups[0]["lr"] = 0.1 * 0.8**step
        optimizer.step()
    training.run(2, learning_rate=lambda step: 0.1 * 0.8**step)
    for found, tensor in zip(training.parameters(), tensors, strict=True):
        np.testing.assert_allclose(found, tensor.detach(), rtol=1e-5, atol=1e-6)


# Validation


VALIDATION = np.random.default_rng(9).normal(size=(7, 3)), np.random.default_rng(8).normal(size=(7, 2))


@pytest.mark.parametrize("form", ["arrays", "distributor"])
def test_validation_is_the_loss_of_other_data_with_the_weights_after_the_epoch(form):
    given = VALIDATION if form == "arrays" else g.DistributorElement(*VALIDATION, batch_size=3)
    training, plain, expected = Training(), Training(), []
    history = training.run(3, validation=given, callbacks=[lambda _: expected.append(loss_of(training, *VALIDATION))])
    np.testing.assert_allclose(history.validation_losses, expected, rtol=1e-4)
    plain.run(3)
    assert_equal(training.parameters(), plain.parameters())


def test_a_callback_is_told_the_validation_loss():
    training, seen = Training(), []
    history = training.run(2, validation=VALIDATION, callbacks=[seen.append])
    assert [epoch.validation_loss for epoch in seen] == history.validation_losses
    training.run(1, callbacks=[seen.append])
    assert seen[-1].validation_loss is None


def test_validation_data_are_used_without_a_distributor_too():
    x, y = data()
    dense = g.Dense(2)
    loss = g.MeanSquared()(dense(x), y)
    history = loss.get_training_executor(g.Sgd(0.1)).execute(1, validation=VALIDATION, progress=False)
    w, b = (dense.params[k].as_ndarray() for k in "wb")
    expected = ((VALIDATION[0] @ w + b - VALIDATION[1]) ** 2).sum() / 2 / 7
    np.testing.assert_allclose(history.validation_losses, [expected], rtol=1e-4)


def test_the_bar_shows_the_validation_loss(capsys):
    Training().executor.execute(1, validation=VALIDATION)
    assert "validation" in capsys.readouterr().err


# Inference


def test_the_seeds_executor_prints_one_line_for_an_epoch_and_nothing_else(capsys):
    x = np.arange(10).reshape(-1, 1)
    batch, _ = g.DistributorElement(x, x, batch_size=1, shuffle=False).getOutputGraphs()
    n = g.DenseGraphElement(2, initializer=rm.utility.initializer.Constant(3))(batch)
    assert g.ConstantLossElement()(n).getInferenceExecutor().execute(epochs=3) is None
    out, err = capsys.readouterr()
    assert (out, err) == ("[270.]\n" * 3, "")


def test_inference_returns_the_same_loss_in_every_epoch_and_reads_all_rows(capsys):
    training = Training(shuffle=True)
    losses = training.loss.get_inference_executor(device="cpu").execute(3, progress=False).losses
    np.testing.assert_allclose(losses, [loss_of(training, *data())] * 3, rtol=1e-5)
    assert capsys.readouterr() == ("", "")


def test_inference_shows_a_bar_on_stderr(capsys):
    Training().loss.get_inference_executor(device="cpu").execute(1)
    out, err = capsys.readouterr()
    assert (out, "epoch 1" in err) == ("", True)


def test_predict_joins_the_batches_and_leaves_the_data_reset():
    training = Training()
    predicted = training.prediction.get_inference_executor(device="cpu").predict()
    w1, b1, w2, b2 = training.parameters()
    np.testing.assert_allclose(predicted, np.tanh(data()[0] @ w1 + b1) @ w2 + b2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(training.x.as_ndarray(), data()[0][:4])


def test_inference_after_training_has_the_trained_weights():
    training = Training()
    made_before = training.loss.get_inference_executor(device="cpu")
    training.run(3)
    losses = made_before.execute(1, progress=False).losses
    np.testing.assert_allclose(losses, [loss_of(training, *data())], rtol=1e-5)


# Errors


def test_data_of_two_distributors_are_refused():
    (x, _), (_, y) = (g.DistributorElement(*data()).get_output_graphs() for _ in range(2))
    loss = g.MeanSquared()(g.Dense(2)(x), y)
    with pytest.raises(
        rm.ConversionError, match=r"^executor: the data must come from one distributor, got 2\. Created"
    ):
        loss.get_training_executor(g.Sgd(0.1), ["cpu"])


def test_one_device_may_be_named_without_a_list():
    x, y = g.DistributorElement(
        np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), batch_size=2
    ).get_output_graphs()
    loss = g.MeanSquared()(g.Dense(2)(x), y)
    assert len(loss.get_training_executor("sgd", devices="cpu").execute(progress=False).losses) == 1
    assert len(loss.get_inference_executor(devices="cpu").execute(progress=False).losses) == 1
