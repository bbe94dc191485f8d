"""The update of several devices: small weights together and state written over, the same bits, and nothing to undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.cpu import joined_update
from renom_onnx.converters.cpu.joined_update import join_updates
from renom_onnx.converters.data_parallel import DistributedStep, distribute
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import LocalEngine, ParallelTrainingSession, step_model
from renom_onnx.runtime.engine import RanksLostError
from renom_onnx.runtime.processes.distributed import DistributedTrainingSession
from renom_onnx.runtime.tensor import Tensor
from tests.converters.programs import LOSSES, Program, feeds, graph
from tests.runtime.several import assert_replicas_are_equal

OPTIMIZERS: dict[str, Callable[[], graph.Optimizer]] = {
    "Adam": lambda: graph.Adam(0.01),
    "Lion": lambda: graph.Lion(0.01, weight_decay=0.1),
    "nesterov": lambda: graph.Sgd(0.05, momentum=0.9, nesterov=True),
    "clipped": lambda: graph.Adam(0.01, clip_norm=0.1, clip_value=0.5),
}


def model_of(optimizer: str, loss: str = "mlp") -> Any:
    rm.set_seed(0)
    return to_training_onnx(LOSSES[loss](), OPTIMIZERS[optimizer]())


def session_of(model: Any, n_devices: int = 2, **options: Any) -> ParallelTrainingSession:
    return ParallelTrainingSession(model, ["cpu"] * n_devices, threads=1, **options)


def joined_names(session: ParallelTrainingSession) -> set[str]:
    return session._replicas[0].state.now.keys() - session._held().keys()


def state_of(session: ParallelTrainingSession) -> dict[str, bytes]:
    return {name: session.read(name).tobytes() for name in session._held()}


# The same numbers


@pytest.mark.parametrize("loss", ["mlp", "cnn", "normalized"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_same_to_the_last_bit(optimizer: str, loss: str, monkeypatch: pytest.MonkeyPatch):
    model = model_of(optimizer, loss)
    session = session_of(model, 3)
    assert joined_names(session)
    assert len(session._replicas[0].state.sets) == (2 if optimizer == "Lion" else 1)  # whose moment is read twice
    monkeypatch.setattr(joined_update, "MAX_ELEMENTS", 0)
    monkeypatch.setattr(step_model, "in_place", lambda *arguments, **options: set())
    other = session_of(model, 3)
    assert not joined_names(other)
    assert len(other._replicas[0].state.sets) == 2
    for i in range(12):
        batch = feeds(model, 8 if i % 3 else 2, i)  # two rows leave a device without any
        assert float(session.step(batch)) == float(other.step(batch))
    assert state_of(session) == state_of(other)
    assert_replicas_are_equal(session)


def test_large_weights_are_updated_beside_those_that_are_joined(monkeypatch: pytest.MonkeyPatch):
    model = model_of("Adam")
    alone = session_of(model)
    monkeypatch.setattr(joined_update, "MAX_ELEMENTS", 24)
    session = session_of(model)
    assert joined_names(session) == {f"joined.dense1.b{state}" for state in ("", ".adam_m", ".adam_v")}
    for i in range(5):
        assert float(session.step(feeds(model, 8, i))) == float(alone.step(feeds(model, 8, i)))
    assert state_of(session) == state_of(alone)


# What the devices add up


def stages_of(optimizer: str) -> DistributedStep:
    return distribute(join_updates(training_step(model_of(optimizer)))[0])


def test_gradients_that_are_updated_together_are_summed_as_one():
    last = stages_of("Adam").stages[-1].model.graph
    updates = [node for node in last.node if node.op_type == "Adam"]
    (gradient,) = (name for name in updates[0].input if name.startswith("joined.gradient"))
    assert len(updates) == 1
    assert gradient == "joined.gradient.whole"
    assert not [node for node in last.node if node.op_type == "Concat"]  # they lie so in the buffer


def test_gradients_that_something_else_reads_are_summed_each():
    """The norm that clips is that of the sums, and so these are joined behind it."""
    last = stages_of("clipped").stages[-1].model.graph
    assert [len(node.input) for node in last.node if node.op_type == "Concat"][-1] == 4
    assert {f"{name}.grad.whole" for name in ("dense1.w", "dense2.b")} <= {o for n in last.node for o in n.output}


def test_devices_of_the_same_sizes_share_what_is_made_for_them(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    for_sizes = step_model.for_sizes

    def record(model: bytes, device: Any, sizes: Any, *rest: Any) -> bytes:
        made.append(sizes)
        return for_sizes(model, device, sizes, *rest)

    monkeypatch.setattr(step_model, "for_sizes", record)
    model = model_of("Adam")
    session = session_of(model, 3)
    losses = [float(session.step(feeds(model, rows))) for rows in (9, 9, 7)]
    assert made == [{}, {"N": 3}, {"N": 2}]  # the update, three rows on each device, and two on two of them
    monkeypatch.setattr(step_model, "KEPT_BYTES", 0)
    other = session_of(model, 3)
    assert [float(other.step(feeds(model, rows))) for rows in (9, 9, 7)] == losses
    assert made[3:] == [{}] * 3 + [{"N": 3}] * 3 + [{"N": 2}] * 2


# What lies in the state


def test_state_is_written_over_and_lies_together():
    session = session_of(model_of("Adam"))
    state = session._replicas[0].state
    before = {name: tensor.value.data_ptr() for name, tensor in state.now.items()}
    values = session.parameters
    session.step(feeds(session.to_model(), 8))
    assert {name: tensor.value.data_ptr() for name, tensor in state.now.items()} == before
    assert all((session.read(name) != value).any() for name, value in values.items())
    whole = state.now["joined.dense1.w"].read().reshape(-1)
    parts = [session.read(name).reshape(-1) for name in ("dense1.w", "dense1.b", "dense2.w", "dense2.b")]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_checkpoint_has_the_files_own_names_and_goes_on_bit_for_bit(tmp_path: Path):
    model = model_of("Adam")
    whole, first = session_of(model), session_of(model)
    for i in range(6):
        whole.step(feeds(model, 7, i))
    for i in range(3):
        first.step(feeds(model, 7, i))
    first.save(tmp_path / "half.onnx")
    second, restored = session_of(tmp_path / "half.onnx"), session_of(model)
    restored.step(feeds(model, 8))
    restored.restore(tmp_path / "half.onnx")
    assert [t.name for t in second.to_model().training_info[0].algorithm.initializer] == [
        t.name for t in model.training_info[0].algorithm.initializer
    ]
    for session in (second, restored):
        for i in range(3, 6):
            session.step(feeds(model, 7, i))
        assert state_of(session) == state_of(whole)
        assert_replicas_are_equal(session)


# Nothing to undo


class Losing(LocalEngine):
    """Ranks that are lost in some steps: before, in the midst of, or after the sums, and so before the update."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment
        self.is_armed = False

    def _lose(self, moment: str) -> None:
        if self.is_armed and moment == self.moment:
            self.is_armed = False
            self.changes += 1
            raise RanksLostError("lost")

    def allreduce(self, buffers: Sequence[Tensor], n_exact: int | None = None) -> None:
        self._lose("before the sum")
        super().allreduce(buffers, n_exact)
        self._lose("after the sum")

    def together(self, work: Callable[[], Any]) -> Any:
        result = work()
        self._lose("in the agreement")
        return result


@pytest.mark.parametrize("moment", ["before the sum", "after the sum", "in the agreement"])
def test_a_step_that_is_not_agreed_on_has_changed_nothing_and_is_done_again(moment: str):
    model = Program("mlp", "Adam", 18).model()
    engine = Losing(moment)
    session, other = session_of(model, engine=engine), session_of(model)
    elastic_engine = Losing(moment)
    elastic = DistributedTrainingSession(model, ["cpu", "cpu"], engine=elastic_engine, threads=1)
    assert joined_names(session)
    assert len(session._replicas[0].state.sets) == 1
    for i in range(4):
        batch = feeds(model, 8, i)
        before = state_of(session)
        engine.is_armed = elastic_engine.is_armed = True
        with pytest.raises(RanksLostError):
            session.step(batch | {"learning_rate": np.array(0.02, np.float32)})
        assert state_of(session) == before
        wanted = float(other.step(batch))
        assert float(session.step(batch)) == wanted
        assert float(elastic.step(batch)) == wanted
        assert not elastic_engine.is_armed
    assert state_of(session) == state_of(other) == state_of(elastic)


def test_processes_that_train_apart_average_each_state_once(monkeypatch: pytest.MonkeyPatch):
    from renom_onnx.runtime.processes import distributed

    averaged: list[list[str]] = []
    averages = distributed.averages

    def record(engine: Any, state: Any, weight: float) -> Any:
        averaged.append(list(state))
        return averages(engine, state, weight)

    monkeypatch.setattr(distributed, "averages", record)
    model = model_of("Adam")
    session = DistributedTrainingSession(model, ["cpu", "cpu"], engine=LocalEngine(), average_every=2, threads=1)
    other = session_of(model)
    for i in range(4):
        assert float(session.step(feeds(model, 8, i))) == pytest.approx(float(other.step(feeds(model, 8, i))), rel=1e-6)
    assert averaged == [list(session._step.bindings)] * 2
    assert_replicas_are_equal(session)
