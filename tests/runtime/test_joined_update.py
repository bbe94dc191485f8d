"""Small weights that are updated together: the same bits, under the same names, in the same files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.cpu import joined_update
from renom_onnx.converters.cpu.joined_update import join_updates
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import TrainingSession
from tests.converters.programs import LOSSES, feeds, graph, portable_bodies

OPTIMIZERS: dict[str, Callable[[], graph.Optimizer]] = {
    "Adam": lambda: graph.Adam(0.01),
    "AdamW": lambda: graph.AdamW(0.01, weight_decay=0.1),
    "Adamax": lambda: graph.Adamax(0.01),
    "Adagrad": lambda: graph.Adagrad(0.01),
    "Adadelta": graph.Adadelta,
    "RMSprop": lambda: graph.Rmsprop(0.01),
    "Lion": lambda: graph.Lion(0.01, weight_decay=0.1),
    "nesterov": lambda: graph.Sgd(0.05, momentum=0.9, nesterov=True),
    "clipped": lambda: graph.Adam(0.01, clip_norm=0.1, clip_value=0.5),
}
NAMES = ["dense1.w", "dense1.b", "dense2.w", "dense2.b"]


def model_of(optimizer: Callable[[], graph.Optimizer], loss: str = "mlp") -> Any:
    rm.set_seed(0)
    return to_training_onnx(LOSSES[loss](), optimizer())


def joined_names(session: TrainingSession) -> set[str]:
    return session._memory.bindings.keys() - session._step.bindings.keys()


def trained(model: Any, n_steps: int = 20) -> tuple[list[float], dict[str, Any], TrainingSession]:
    session = TrainingSession(model, "cpu", threads=1)
    losses = [float(session.step(feeds(model, 8, i))) for i in range(n_steps)]
    return losses, {name: session.read(name) for name in session._held()}, session


@pytest.mark.parametrize("loss", ["mlp", "cnn", "normalized"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_same_to_the_last_bit(optimizer: str, loss: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.runtime.step_model.for_sizes", portable_bodies)
    model = model_of(OPTIMIZERS[optimizer], loss)
    losses, state, session = trained(model)
    assert joined_names(session)
    monkeypatch.setattr(joined_update, "MAX_ELEMENTS", 0)
    alone, expected, other = trained(model)
    assert not joined_names(other)
    assert losses == alone
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, strict=True, err_msg=name)


def test_weights_of_one_kind_lie_behind_one_another():
    _, joined = join_updates(training_step(model_of(OPTIMIZERS["Adam"])))
    assert joined == {
        f"joined.dense1.w{state}": [name + state for name in NAMES] for state in ("", ".adam_m", ".adam_v")
    }


def test_large_weights_are_updated_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joined_update, "MAX_ELEMENTS", 24)
    _, joined = join_updates(training_step(model_of(OPTIMIZERS["Adam"])))
    assert joined["joined.dense1.b"] == ["dense1.b", "dense2.w", "dense2.b"]  # dense1.w has 48


ALONE: dict[str, Callable[[], graph.Optimizer]] = {
    "a short update": lambda: graph.Sgd(0.05, momentum=0.9),
    "norms of each weight": lambda: graph.Lamb(0.01),
    "an update that is not always due": lambda: graph.Adam(0.01, accumulate=2),
}


@pytest.mark.parametrize("why", ALONE)
def test_what_is_not_joined(why: str):
    step = training_step(model_of(ALONE[why]))
    found, joined = join_updates(step)
    assert found is step and not joined


def test_what_is_joined_is_no_vector_which_inference_would_take_for_sizes():
    found, joined = join_updates(training_step(model_of(OPTIMIZERS["Adam"])))
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in found.model.graph.input}
    assert {ranks[name] for name in joined} == {2}


def test_optimizers_of_several_parameters_are_joined_apart():
    rm.set_seed(0)
    loss = LOSSES["mlp"]()
    model = loss.output.node
    parameters = [n for n in rm.graph.node.ancestors([loss.output]) if isinstance(n, rm.graph.parameter.Parameter)]
    assert model is not None
    parameters[1].optimizer = parameters[3].optimizer = graph.Adam(0.5)
    step = training_step(to_training_onnx(loss, graph.Adam(0.01)))
    _, joined = join_updates(step)
    assert [names for name, names in joined.items() if not name.endswith(("_m", "_v"))] == [NAMES[::2], NAMES[1::2]]


def test_each_is_read_and_written_under_its_name_and_evaluated():
    model = model_of(OPTIMIZERS["Adam"])
    _, _, session = trained(model, 3)
    assert not any(name.startswith("joined") for name in session._held())
    ones = np.ones((1, 3), np.float32)
    before = {name: session.read(name) for name in NAMES}
    session.write("dense2.b", ones)
    session.write("dense1.b.adam_v", np.zeros((1, 8), np.float32))
    np.testing.assert_array_equal(session.read("dense2.b"), ones)
    for name in NAMES[:3]:
        np.testing.assert_array_equal(session.read(name), before[name])
    batch = feeds(model, 8)
    scores = session.evaluate(batch)["output"]
    session.write("dense2.b", 2 * ones)
    np.testing.assert_allclose(session.evaluate(batch)["output"], scores + 1, rtol=1e-5)


def test_a_saved_file_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    model = model_of(OPTIMIZERS["Adam"])
    _, _, session = trained(model, 3)
    saved = session.to_model()
    other = TrainingSession(saved, "cpu", threads=1)
    assert [i.name for i in saved.training_info[0].algorithm.initializer] == [
        i.name for i in model.training_info[0].algorithm.initializer
    ]
    batch = feeds(model, 8, 7)
    for _ in range(3):
        assert float(session.step(batch)) == float(other.step(batch))
    for name in session._held():
        np.testing.assert_array_equal(session.read(name), other.read(name), err_msg=name)


def test_a_part_of_a_tensor_outlives_the_whole():
    device = rm.runtime.device.parse_device("cpu")
    whole = rm.runtime.tensor.Tensor.from_array(np.arange(6, dtype=np.float32), device)
    part = whole.part(2, (2, 2), "part")
    part.write(np.full((2, 2), 9, np.float32))
    np.testing.assert_array_equal(whole.read(), [0, 1, 9, 9, 9, 9])
    del whole
    np.testing.assert_array_equal(part.read(), np.full((2, 2), 9))
