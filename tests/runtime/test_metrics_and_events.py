"""Metrics, events and files of the training executor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, top_k_accuracy_score

import renom_onnx as rm
from renom_onnx.runtime import metric


def classifier(rows: int = 30) -> tuple[Any, Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 5)).astype(np.float32), rng.integers(0, 4, rows)
    data, target = rm.graph.DistributorElement(x, y, batch_size=8).get_output_graphs()
    model = rm.graph.Sequential([rm.graph.Dense(8), rm.graph.Relu(), rm.graph.Dense(4)])
    return model, rm.graph.SoftmaxCrossEntropy()(model(data), target), x, y


def test_metrics_of_the_validation_data_are_those_of_scikit_learn():
    model, loss, x, y = classifier()
    metrics = {
        "accuracy": metric.Accuracy(),
        "top2": metric.TopK(2),
        "largest": lambda prediction, target: prediction.max(1),
    }
    executor = loss.get_training_executor(rm.graph.Sgd(0.1), devices=["cpu"])
    history = executor.execute(epochs=2, validation=(x, y), metrics=metrics, progress=False)
    scores = model(x).as_ndarray()
    assert history.metrics["accuracy"][-1] == pytest.approx(accuracy_score(y, scores.argmax(1)))
    assert history.metrics["top2"][-1] == pytest.approx(top_k_accuracy_score(y, scores, k=2))
    assert history.metrics["largest"][-1] == pytest.approx(scores.max(1).mean(), rel=1e-6)
    assert len(history.metrics["accuracy"]) == 2


def test_accuracy_at_every_position_counts_positions():
    rng = np.random.default_rng(0)
    scores, classes = rng.normal(size=(4, 3, 5, 2)), rng.integers(0, 3, (4, 5, 2))
    one_hot = np.eye(3, dtype=int)[classes].transpose(0, 3, 1, 2)
    for target in (classes, classes[:, None], one_hot):
        found = metric.Accuracy()
        found.update(scores, target)
        assert found.value() == pytest.approx((scores.argmax(1) == classes).mean())


def test_mean_absolute_error_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(10, 1)), rng.normal(size=10)
    found = metric.MeanAbsoluteError()
    found.update(p[:7], t[:7])
    found.update(p[7:], t[7:])
    assert found.value() == pytest.approx(mean_absolute_error(t, p))


def test_metrics_reach_the_progress_bar(capsys: pytest.CaptureFixture[str]):
    _, loss, x, y = classifier()
    executor = loss.get_training_executor(rm.graph.Sgd(0.1), devices=["cpu"])
    executor.execute(validation=(x, y), metrics={"accuracy": metric.Accuracy()})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "accuracy 0." in captured.err


def test_events_come_in_order_with_the_losses():
    _, loss, _, _ = classifier(rows=16)
    executor = loss.get_training_executor(rm.graph.Sgd(0.1), devices=["cpu"])
    seen: list[tuple[str, int, int]] = []
    losses = []
    for name in ("Initialize", "Epoch-Start", "Step-Start", "Step-Finish", "Epoch-Finish", "Teardown"):
        executor.register_event(name, lambda event: seen.append((event.name, event.epoch, event.n_steps)))
    executor.register_event("Step-Finish", lambda event: losses.append(event.loss))
    history = executor.execute(epochs=1, progress=False)
    assert seen == [
        ("Initialize", 0, 0),
        ("Epoch-Start", 0, 0),
        ("Step-Start", 0, 0),
        ("Step-Finish", 0, 1),
        ("Step-Start", 0, 1),
        ("Step-Finish", 0, 2),
        ("Epoch-Finish", 0, 2),
        ("Teardown", 1, 2),
    ]
    assert history.losses[0] == pytest.approx(np.mean(losses), rel=1e-6)
    executor.unregister_events("Step-Finish")
    executor.execute(epochs=1, progress=False)
    assert len(losses) == 2


def test_an_event_answers_to_renoms_words():
    _, loss, x, y = classifier(rows=16)
    executor = loss.get_training_executor(rm.graph.Sgd(0.1), devices=["cpu"])
    steps, epochs = [], []
    words = ("mode", "nth_epoch", "step_loss", "executor")
    executor.register_event("Step-Finish", lambda info: steps.append([info[word] for word in words]))
    losses = ("training_loss", "validation_loss")
    executor.register_event("Epoch-Finish", lambda info: epochs.append(tuple(info[word] for word in losses)))
    history = executor.execute(epochs=2, validation=(x, y), progress=False)
    assert [step[:2] for step in steps] == [["training", 0]] * 2 + [["training", 1]] * 2
    assert all(isinstance(step[2], float) and step[3] is executor for step in steps)
    assert epochs == list(zip(history.losses, history.validation_losses, strict=True))


def test_a_saved_executor_goes_on_as_if_it_had_not_stopped(tmp_path: Any):
    rm.set_seed(0)
    _, loss, x, y = classifier(rows=16)
    executor = loss.get_training_executor(rm.graph.Adam(0.01), devices=["cpu"])
    executor.execute(epochs=2, progress=False)
    executor.save(tmp_path / "model.onnx")
    resumed = rm.runtime.TrainingSession(tmp_path / "model.onnx", device="cpu")
    feeds = {"x": x[:8], "y": y[:8]}
    assert float(resumed.step(feeds)) == float(executor.session.step(feeds))
    for name, array in executor.session.parameters.items():
        np.testing.assert_array_equal(array, resumed.parameters[name])
    metadata = {p.key: p.value for p in resumed.to_model().metadata_props}
    assert json.loads(metadata.pop("history")) == {
        "n_steps": 4,
        "loss_sum": 0.0,
        "n_rows": 0,
        "losses": executor.history.losses,
        "validation_losses": [],
        "metrics": {},
        "is_end": False,
    }
    assert metadata == {
        "batch": "0",
        "epoch": "2",
        "optimizer": "Adam",
        "seed": "0",
        "settings": '{"reduction": "mean"}',
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: e.register_event("Step", print),
            "TrainingExecutor: an event must be one of Initialize, Epoch-Start, Step-Start, Step-Finish, Epoch-Finish, "
            "Teardown, got 'Step'.",
        ),
        (
            lambda e: (e.register_event("Initialize", lambda info: info["bar"]), e.execute()),
            "Event: the word must be one of epoch_loss, executor, mode, nth_epoch, step_loss, training_loss, "
            "validation_loss, got 'bar'.",
        ),
        (
            lambda e: e.execute(metrics=["accuracy"]),
            "execute: metrics must be a dict of names, such as {'accuracy': metric.Accuracy()}, got list.",
        ),
        (
            lambda e: e.execute(metrics={"accuracy": metric.Accuracy()}),
            "execute: metrics must have validation data, got none. Give validation=(x, y).",
        ),
    ],
    ids=["event", "word", "list of metrics", "metrics"],
)
def test_a_bad_argument_is_said(call: Any, message: str):
    _, loss, _, _ = classifier()
    with pytest.raises(rm.ConversionError) as raised:
        call(loss.get_training_executor(rm.graph.Sgd(0.1), devices=["cpu"]))
    assert str(raised.value) == message
