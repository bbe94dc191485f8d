"""Feeding: batches that are prepared ahead, and data that stay on the device, change no number."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters.resident import gathering
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import CudaOptions, ParallelTrainingSession, TrainingSession
from renom_onnx.runtime.ahead import ahead
from tests.converters.programs import Program, classes, cross_entropy, features, feeds, graph, perceptron

ONE, TWO = ["cpu"], ["cpu", "cpu"]
both = pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])


def session_of(model: Any, devices: list[str], **options: Any) -> Any:
    if len(devices) > 1:
        return ParallelTrainingSession(model, devices, **options)
    return TrainingSession(model, devices[0], **options)


def executor_of(devices: list[str], *, rows: int = 21, dtype: Any = np.float32, **options: Any) -> Any:
    rm.set_seed(0)
    data = graph.DistributorElement(features(rows, dtype), classes(rows, np.int32), batch_size=8)
    loss = cross_entropy(perceptron(), *data.get_output_graphs())
    return loss.get_training_executor(graph.Adam(0.01), devices, **options)


# Ahead


def test_items_come_in_order_and_one_ahead():
    made: list[int] = []
    reached = threading.Event()

    def make(item: int) -> int:
        made.append(item)
        if item == 1:
            reached.set()
        return item * 10

    results = ahead(iter(range(5)), make)
    assert next(results) == 0
    assert reached.wait(10)
    assert made == [0, 1]
    assert list(results) == [10, 20, 30, 40]


def test_leaving_early_closes_the_items_in_their_thread():
    closed: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    results = ahead(items(), lambda item: item)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert closed == ["renom_onnx feeding"]
    assert not [thread for thread in threading.enumerate() if thread.name == "renom_onnx feeding"]


@pytest.mark.parametrize("where", ["items", "make"])
def test_an_error_comes_where_the_item_would_have(where: str):
    def items() -> Iterator[int]:
        yield 1
        if where == "items":
            raise KeyError("items")
        yield 2

    def make(item: int) -> int:
        if item == 2:
            raise KeyError("make")
        return item

    results = ahead(items(), make)
    assert next(results) == 1
    with pytest.raises(KeyError, match=where):
        next(results)


# Prepared batches


@both
def test_batches_that_are_prepared_ahead_train_alike(devices: list[str]):
    model = Program("dropout", "Adam", 18).model()
    at_once, ahead_of_it = (session_of(model, devices) for _ in range(2))
    batches = [feeds(model, rows, i) for i, rows in enumerate((8, 8, 8, 5, 8, 8, 3, 1))]
    wanted = [float(at_once.step(batch)) for batch in batches]
    found, waiting = [], [ahead_of_it.prepare(batches[0])]
    for batch in [*batches[1:], None]:
        if batch is not None:
            waiting.append(ahead_of_it.prepare(batch))
        found.append(float(ahead_of_it.step(waiting.pop(0))))
    assert found == wanted


@both
def test_memory_of_batches_is_used_again(devices: list[str]):
    model = Program("mlp", "Adam", 18).model()
    session = session_of(model, devices)
    for i in range(4):
        first, second = session.prepare(feeds(model, 8, i)), session.prepare(feeds(model, 8, i))
        session.step(first)
        del second  # a batch that nobody steps on gives its memory back too
        gc.collect()
    runs = [session._runs] if devices == ONE else [replica._chains for replica in session._replicas]
    for by_size in runs:
        ((_, run),) = by_size._fixed.items()
        assert run.slots.made == 2


@both
def test_settings_of_a_prepared_batch_count_from_its_step_on(devices: list[str]):
    model = Program("mlp", "Adam", 18).model()
    session = session_of(model, devices)
    prepared = session.prepare(feeds(model, 8) | {"learning_rate": 0.5})
    assert session.learning_rate == pytest.approx(0.01)
    session.step(prepared)
    assert session.learning_rate == 0.5


@both
def test_a_prepared_batch_is_stepped_on_once(devices: list[str]):
    model = Program("mlp", "Adam", 18).model()
    session = session_of(model, devices)
    prepared = session.prepare(feeds(model, 8))
    session.step(prepared)
    with pytest.raises(rm.RunError) as error:
        session.step(prepared)
    assert str(error.value) == (
        f"{type(session).__name__}.step: a prepared batch must be new, got one that was stepped on or released."
    )


@both
@pytest.mark.parametrize("resident", [False, True])
def test_an_executor_that_feeds_ahead_trains_alike(devices: list[str], resident: bool):
    losses = [
        executor_of(devices, feed_ahead=is_ahead, resident=resident).execute(4, progress=False).losses
        for is_ahead in (False, True)
    ]
    assert losses[0] == losses[1]


def test_an_error_while_feeding_ahead_leaves_the_data_reset():
    executor = executor_of(ONE, feed_ahead=True)
    (data,) = executor._source.distributors
    n_steps = 0

    def stop(event: Any) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 2:
            raise KeyError("stop")

    executor.register_event("Step-Finish", stop)
    with pytest.raises(KeyError):
        executor.execute(1, progress=False)
    assert data._positions == [0, 0]
    executor.unregister_events("Step-Finish")
    assert len(executor.execute(1, progress=False).losses) == 1


def test_a_feed_that_does_not_fit_is_told_while_feeding_ahead():
    x = graph.static(features(8), is_batch=True)
    loss = cross_entropy(perceptron(), x, classes(8))
    executor = loss.get_training_executor(graph.Sgd(0.1), ONE, feed_ahead=True)
    x.output.node.array = features(8, size=5)
    with pytest.raises(rm.ShapeError) as error:
        executor.execute(progress=False)
    assert str(error.value) == "TrainingSession.step: feed 'x' must be float32[N, 6], got float32[8, 5]."


# Data that stay


@both
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_data_that_stay_on_the_devices_train_alike(devices: list[str], dtype: Any):
    histories = [
        executor_of(devices, dtype=dtype, resident=stays).execute(4, progress=False) for stays in (False, True)
    ]
    assert histories[0].losses == histories[1].losses


@both
def test_rows_are_gathered_by_number(devices: list[str]):
    model = Program("mlp", "Adam", 18).model()
    x, y = features(20), classes(20)
    session = session_of(model, devices, resident={"x": x, "y": y})
    assert [spec.name for spec in session.feeds] == ["rows", "learning_rate"]
    assert [spec.name for spec in session.file_feeds] == ["x", "y", "learning_rate"]
    assert session.targets == ("y",)
    fed = session_of(model, devices)
    for rows in ([3, 1, 4, 1, 5], [9, 2], [6]):
        loss = float(session.step({"rows": np.array(rows)}))
        assert loss == float(fed.step({"x": x[rows], "y": y[rows]}))
    batch = {"x": x[:4], "y": y[:4]}
    np.testing.assert_array_equal(session.evaluate(batch)["output"], fed.evaluate(batch)["output"])


def test_some_feeds_may_stay_and_others_be_fed():
    model = Program("mlp", "Adam", 18).model()
    x, y = features(20), classes(20)
    session, fed = TrainingSession(model, "cpu", resident={"x": x}), TrainingSession(model, "cpu")
    rows = np.array([3, 1, 4])
    assert float(session.step({"rows": rows, "y": y[rows]})) == float(fed.step({"x": x[rows], "y": y[rows]}))


def test_an_executor_whose_data_stay_validates_saves_and_takes_single_steps(tmp_path: Any):
    executors = [executor_of(ONE, resident=stays) for stays in (False, True)]
    for executor in executors:
        metrics = {"accuracy": rm.runtime.metric.Accuracy()}
        executor.execute(2, progress=False, validation=(features(9), classes(9)), metrics=metrics)
        executor.step()
        executor.save(tmp_path / "saved.onnx")
    assert executors[0].history == executors[1].history
    assert executors[0].step() == executors[1].step()
    assert float(TrainingSession(tmp_path / "saved.onnx", "cpu").step({"x": features(3), "y": classes(3)})) > 0


def test_an_error_of_a_gathered_batch_is_answered_with_the_users_line():
    y = classes(20)
    y[11] = 9
    data = graph.DistributorElement(features(20), y, batch_size=8, shuffle=False)
    loss = cross_entropy(perceptron(), *data.get_output_graphs())
    with pytest.raises(rm.RunError) as error:
        loss.get_training_executor(graph.Sgd(0.1), ONE, resident=True).execute(progress=False)
    assert "Created at programs.py:" in str(error.value)


def test_on_the_cpu_nothing_stays_and_nothing_is_fed_ahead_by_itself():
    executor = executor_of(ONE)
    assert not executor._is_resident
    assert not executor._feeds_ahead


class Images:
    """An object with rows, read from a disk perhaps."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> Any:
        return features(8)[row]


def rows_of_an_object() -> None:
    data = graph.DistributorElement(Images(), classes(8), batch_size=4)
    loss = cross_entropy(perceptron(), *data.get_output_graphs())
    loss.get_training_executor(graph.Sgd(0.1), ONE, resident=True)


def held(**data: Any) -> None:
    TrainingSession(Program("mlp", "Sgd", 18).model(), "cpu", resident=data)


def taken_name() -> None:
    model = Program("mlp", "Sgd", 18).model()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "rows"
    for node in model.training_info[0].algorithm.node:
        for i, name in enumerate(node.input):
            node.input[i] = "rows" if name == "dense1/Gemm" else name
    gathering(training_step(model), {"x": (np.dtype(np.float32), (8, 6))})


ERRORS: dict[str, tuple[Callable[[], None], type[rm.RenomError], str]] = {
    "rows of an object": (
        rows_of_an_object,
        rm.DeviceError,
        "get_training_executor: data that stay on the devices must come from a distributor of arrays, got others. "
        "Leave resident out.",
    ),
    "another shape": (
        lambda: held(x=features(8, size=5)),
        rm.ConversionError,
        "resident: 'x' must be rows of float32[N, 6], got float32[8, 5].",
    ),
    "an unknown feed": (
        lambda: held(z=features(8)),
        rm.ConversionError,
        "resident: 'z' must be a feed of the step, got float32[8, 6].",
    ),
    "a name that is taken": (
        taken_name,
        rm.ConversionError,
        "resident: no value of the step may be called 'rows' or like the data, got one.",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_says_what_was_got(kind: str):
    call, error_kind, message = ERRORS[kind]
    with pytest.raises(error_kind) as error:
        call()
    assert str(error.value) == message


# CUDA graphs: the CPU provider takes ids of graphs and ignores them, so that the bookkeeping can run here


@both
@pytest.mark.parametrize("loss", ["mlp", "normalized"])
def test_steps_that_would_be_captured_train_alike(devices: list[str], loss: str):
    model = Program(loss, "Adam", 18).model()
    options = {"synchronize_batch_norm": True} if devices == TWO else {}
    plain = session_of(model, devices, **options)
    captured = session_of(model, devices, cuda=CudaOptions(cuda_graph=True), **options)
    batches = [feeds(model, rows, i) for i, rows in enumerate((8, 8, 8, 5, 8))]
    assert [float(captured.step(b)) for b in batches] == [float(plain.step(b)) for b in batches]


def test_only_the_first_size_is_captured_and_every_binding_has_an_id():
    model = Program("mlp", "Adam", 18).model()
    session = TrainingSession(model, "cpu", cuda=CudaOptions(cuda_graph=True))
    waiting = [session.prepare(feeds(model, 8)), session.prepare(feeds(model, 8)), session.prepare(feeds(model, 5))]
    ids = [
        None if options is None else options.get_run_config_entry("gpu_graph_id")
        for prepared in waiting
        for options in prepared.content._options[0]
    ]
    assert ids == ["1", "2", "3", "4", None, None]
