"""Single steps of executors, events of inference, and predictions for no rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import renom_onnx as rm

g = rm.graph
RNG = np.random.default_rng(0)


def program(rows: int = 8, batch_size: int = 3) -> tuple[Any, Any, Any]:
    rm.set_seed(0)
    x, y = (RNG.standard_normal((rows, n), dtype=np.float32) for n in (3, 2))
    data = g.DistributorElement(x, y, batch_size=batch_size, shuffle=False)
    inputs, targets = data.get_output_graphs()
    dense = g.Dense(2)
    return data, dense, g.MeanSquared()(dense(inputs), targets)


def steps_of(executor: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(executor.step())
        except StopIteration:
            return found


@pytest.mark.parametrize(("rows", "n_steps"), [(8, 3), (6, 2)], ids=["short-last-batch", "even"])
def test_steps_are_those_of_an_epoch(rows: int, n_steps: int):
    data, dense, loss = program(rows)
    start = {name: p.array for name, p in dense.named_parameters()}
    executor = loss.get_training_executor(g.Adam(0.01), ["cpu"])
    losses = []
    executor.register_event("Step-Finish", lambda event: losses.append(event.loss))
    assert steps_of(executor) == losses
    assert len(losses) == n_steps
    found = {name: p.array for name, p in dense.named_parameters()}
    data.reset()
    for name, p in dense.named_parameters():
        p.array = start[name]
    again = loss.get_training_executor(g.Adam(0.01), ["cpu"])
    again.execute(progress=False)
    for name, p in dense.named_parameters():
        np.testing.assert_array_equal(p.array, found[name])


def test_a_step_sees_what_the_program_assigned_and_the_program_what_it_did():
    _, dense, loss = program()
    optimizer = g.Sgd(0.1)
    executor = loss.get_training_executor(optimizer, ["cpu"])
    before = dense["w"].as_ndarray()
    executor.step()
    after = dense["w"].as_ndarray()
    assert not np.array_equal(before, after)
    dense["w"].set_value(before)
    optimizer.learning_rate = 0.0
    executor.step()
    np.testing.assert_array_equal(dense["w"].as_ndarray(), before)


def test_without_a_distributor_a_step_is_on_the_arrays():
    dense = g.Dense(1)
    executor = g.ConstantLoss()(dense(np.ones((2, 3)))).get_training_executor(g.Sgd(0.1), ["cpu"])
    losses = [executor.step() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def test_a_step_of_inference_is_the_value_of_the_next_batch():
    data, _, loss = program()
    values = steps_of(loss.get_inference_executor(device="cpu"))
    data.reset()
    assert values == [loss.as_ndarray() for _ in range(3)]


def test_inference_has_the_events_of_training():
    _, _, loss = program()
    executor = loss.get_inference_executor(device="cpu")
    seen = []
    for name in ("Initialize", "Epoch-Start", "Step-Start", "Step-Finish", "Epoch-Finish", "Teardown"):
        executor.register_event(name, lambda e: seen.append((e.name, e.epoch, e.n_steps, e.loss is None, e["mode"])))
    losses = executor.execute(2, progress=False).losses
    step = [("Step-Start", False), ("Step-Finish", True)]
    epoch = ["Epoch-Start", *[name for _ in range(3) for name, _ in step], "Epoch-Finish"]
    assert [name for name, *_ in seen] == ["Initialize", *epoch, *epoch, "Teardown"]
    assert {mode for *_, mode in seen} == {"inference"}
    assert seen[-1] == ("Teardown", 2, 6, True, "inference")
    assert [is_none for name, _, _, is_none, _ in seen if "Finish" in name] == [False] * 8
    assert losses[0] == losses[1]
    executor.unregister_events("Epoch-Finish")
    seen.clear()
    executor.execute(progress=False)
    assert "Epoch-Finish" not in {name for name, *_ in seen}


def test_an_unknown_event_of_inference_is_refused():
    _, _, loss = program()
    with pytest.raises(rm.ConversionError) as raised:
        loss.get_inference_executor(device="cpu").register_event("Step", print)
    assert str(raised.value) == (
        "InferenceExecutor: an event must be one of Initialize, Epoch-Start, Step-Start, Step-Finish, Epoch-Finish, "
        "Teardown, got 'Step'."
    )


def test_the_prediction_for_no_rows_has_none():
    x, _ = g.DistributorElement(np.zeros((0, 3), np.float32), np.zeros(0), shuffle=False).get_output_graphs()
    found = g.Dense(4)(x).get_inference_executor(device="cpu").predict()
    assert (found.shape, found.dtype) == ((0, 4), np.float32)
    assert g.Dense(4)(x).get_inference_executor(device="cpu").execute(progress=False).losses == [0.0]
