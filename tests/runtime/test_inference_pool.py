"""Inference on several devices: the numbers of one session, for callers in many threads, with an orderly end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from renom_onnx.runtime import Device, InferencePool, InferenceSession
from renom_onnx.runtime.inference_pool import _Lane, _Request
from tests.converters.programs import classes, features, graph, images, mlp, perceptron

FEEDS = [{"x": features(rows)} for rows in (1, 4, 2, 7, 4, 3, 5, 9)]


def model() -> Any:
    rm.set_seed(0)
    return to_onnx(perceptron(), inputs={"x": ("N", 6)})


def test_it_computes_what_a_session_computes():
    session = InferenceSession(model(), "cpu", threads=1)
    with InferencePool(model(), ["cpu", "cpu"], threads=1) as pool:
        assert (pool.inputs, pool.outputs, len(pool.devices)) == (session.inputs, session.outputs, 2)
        for feeds in FEEDS:
            np.testing.assert_array_equal(pool.run(feeds)["output"], session.run(feeds)["output"])


def test_callers_in_many_threads_get_their_own_results():
    session = InferenceSession(model(), "cpu", threads=1)
    wanted = [session.run(feeds)["output"] for feeds in FEEDS]
    with InferencePool(model(), ["cpu", "cpu", "cpu"], max_waiting=2) as pool, ThreadPoolExecutor(8) as callers:
        found = list(callers.map(lambda i: (i % 8, pool.run(FEEDS[i % 8])["output"]), range(200)))
    for i, value in found:
        np.testing.assert_allclose(value, wanted[i], rtol=1e-6)


def test_a_trainable_file_and_a_model_without_a_batch_axis_are_served():
    with InferencePool(to_training_onnx(mlp()), ["cpu"]) as pool:
        assert pool.run({"x": features(3)})["output"].shape == (3, 3)
    fixed = to_onnx(perceptron(), inputs={"x": (2, 6)})
    with InferencePool(fixed, ["cpu", "cpu"]) as pool:
        assert pool.run({"x": features(2)})["output"].shape == (2, 3)


def test_the_first_sizes_get_sessions_of_their_own():
    with InferencePool(model(), ["cpu"], fixed_sizes=2) as pool:
        (lane,) = pool._lanes
        for feeds in FEEDS:
            pool.run(feeds)
        assert (len(lane._sessions._fixed), len(lane._sessions)) == (2, 3)


# Errors


def test_a_feed_that_does_not_fit_is_told_to_its_caller_at_once():
    with InferencePool(model(), ["cpu"]) as pool:
        with pytest.raises(rm.DTypeError) as error:
            pool.submit({"x": np.zeros((2, 6))})
        assert str(error.value).startswith("InferencePool.run: feed 'x' must be float32[N, 6], got float64[2, 6].")
        assert pool.run({"x": features(2)})["output"].shape == (2, 3)


def test_an_error_of_onnxruntime_reaches_its_caller_and_nobody_else():
    loss = graph.SoftmaxCrossEntropy()(perceptron()(features(2)), classes(2))
    with InferencePool(to_onnx(loss, outputs={"loss": loss}), ["cpu", "cpu"]) as pool:
        good = {"x": features(2), "y": classes(2)}
        wanted = pool.run(good)["loss"]
        futures = [pool.submit(good if i % 2 else {"x": features(2), "y": np.array([1, 9])}) for i in range(10)]
        wait(futures)
        for i, future in enumerate(futures):
            if i % 2:
                assert future.result()["loss"] == wanted
            else:
                with pytest.raises(rm.RunError) as error:
                    future.result()
                assert str(error.value) == (
                    "SoftmaxCrossEntropyLoss: labels must be 0 to 2, for 3 classes, got 'y' with 9 in row 1. Labels "
                    "count from 0: correct them, or give 'dense2/Gemm' 10 classes. It is node "
                    "'softmax_cross_entropy1/SoftmaxCrossEntropyLoss' of the model."
                )


def never_open() -> None:
    InferencePool(model(), [])


def never_waiting() -> None:
    InferencePool(model(), ["cpu"], max_waiting=0)


def closed() -> None:
    pool = InferencePool(model(), ["cpu"])
    pool.close()
    pool.close()
    pool.run({"x": features(2)})


def unknown_operator() -> None:
    made = model()
    made.graph.node[0].domain = "nobody"
    made.opset_import.add(domain="nobody", version=1)
    InferencePool(made, ["cpu"])


MESSAGES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no device": (
        never_open,
        rm.RunError,
        "InferencePool: there must be a device, and room for one request to wait, got devices [] and max_waiting 64.",
    ),
    "no room": (
        never_waiting,
        rm.RunError,
        "InferencePool: there must be a device, and room for one request to wait, got devices ['cpu'] and "
        "max_waiting 0.",
    ),
    "devices of two kinds": (
        lambda: InferencePool(model(), [Device("cpu"), Device("cuda", 1)]),
        rm.DeviceError,
        "InferencePool: devices must be of one kind, got ['cpu', 'cuda:1'].",
    ),
    "closed": (closed, rm.RunError, "InferencePool: the pool must be open, got one that was closed."),
    "an unknown operator": (unknown_operator, rm.RunError, "onnxruntime refused the model: "),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_error_says_what_was_got(kind: str):
    call, error_kind, message = MESSAGES[kind]
    with pytest.raises(error_kind) as error:
        call()
    assert str(error.value).startswith(message)


# Waiting and the end


class Gate:
    """Holds a pool's devices where they would compute, so that requests wait for as long as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived: SimpleQueue[None] = SimpleQueue()
        self.opened = threading.Event()
        compute = _Lane.run

        def run(lane: _Lane, request: _Request) -> Any:
            self.arrived.put(None)
            assert self.opened.wait(60)
            return compute(lane, request)

        monkeypatch.setattr(_Lane, "run", run)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


ROWS = {"x": features(2)}


def test_a_full_queue_lets_its_callers_wait(gate: Gate):
    with InferencePool(model(), ["cpu"], max_waiting=2) as pool, ThreadPoolExecutor(1) as caller:
        futures = [pool.submit(ROWS)]
        gate.arrived.get(timeout=60)  # one is computed, two more may wait
        futures += [pool.submit(ROWS) for _ in range(2)]
        with pytest.raises(rm.RunError) as error:
            pool.submit(ROWS, timeout_s=0)
        late = caller.submit(pool.submit, ROWS)
        with pytest.raises(TimeoutError):
            late.result(0.05)
        gate.opened.set()
        futures.append(late.result(60))
        assert all(future.result(60)["output"].shape == (2, 3) for future in futures)
    assert str(error.value) == (
        "InferencePool.submit: there must be room in the queue within 0 s, got none. Wait longer, or give the pool "
        "more devices or a larger max_waiting."
    )


def test_closing_finishes_what_waits(gate: Gate):
    pool = InferencePool(model(), ["cpu", "cpu"])
    futures = [pool.submit(ROWS) for _ in range(6)]
    assert not any(future.done() for future in futures)
    gate.opened.set()
    pool.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_cancelled_request_is_not_computed(gate: Gate):
    with InferencePool(model(), ["cpu"]) as pool:
        futures = [pool.submit(ROWS) for _ in range(3)]
        gate.arrived.get(timeout=60)
        assert futures[-1].cancel()
        gate.opened.set()
        assert futures[1].result(60)["output"].shape == (2, 3)
    with pytest.raises(CancelledError):
        futures[-1].result()
    assert gate.arrived.qsize() == 1  # of the second; the first was taken above


def test_a_pool_that_nobody_holds_ends_its_threads():
    pool = InferencePool(model(), ["cpu", "cpu"])
    threads = pool._threads
    pool.run({"x": features(2)})
    del pool
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


# Executors


def test_an_executor_infers_on_several_devices_what_it_infers_on_one():
    rm.set_seed(0)
    data = graph.DistributorElement(images(23), classes(23), batch_size=4, shuffle=True)
    x, y = data.get_output_graphs()
    prediction = graph.Sequential([graph.Conv(3, kernel=3), graph.Flatten(), graph.Dense(3)])(x)
    loss = graph.SoftmaxCrossEntropy()(prediction, y)
    one, several = ({"device": "cpu"}, {"devices": ["cpu", "cpu", "cpu"]})
    losses, steps, values = [], [], []
    for where in (one, several):
        executor = loss.get_inference_executor(**where)
        seen: list[Any] = []
        executor.register_event("Step-Finish", lambda event, seen=seen: seen.append(event.loss))
        data.epoch = 0
        losses.append(executor.execute(2, progress=False).losses)
        steps.append(seen)
        data.epoch = 0
        values.append(prediction.get_inference_executor(**where).predict())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6)
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5, atol=1e-6)


def test_an_error_on_several_devices_is_answered_with_the_users_line():
    loss = graph.SoftmaxCrossEntropy()(perceptron()(features(4)), np.array([0, 1, 9, 1]))
    with pytest.raises(rm.RunError) as error:
        loss.get_inference_executor(devices=["cpu", "cpu"]).execute(progress=False)
    assert "Created at test_inference_pool.py:" in str(error.value)
