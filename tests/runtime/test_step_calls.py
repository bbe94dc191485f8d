"""What a step costs besides its run: calls of Python, which do not depend on the machine, and copies of the batch."""

import cProfile
import functools
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
import renom_onnx.graph as g
from renom_onnx.graph import distributor
from renom_onnx.graph.rows import Picked
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.tensor import Tensor

ROWS, SIZE = 256, 4


def executor(*, shuffle: bool = True, batch_size: int = SIZE, **options: Any) -> Any:
    rm.set_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, 6)).astype(np.float32), rng.integers(0, 3, ROWS)
    data = g.DistributorElement(x, y, batch_size=batch_size, shuffle=shuffle).get_output_graphs()
    network = g.Sequential([g.Dense(5), g.Relu(), g.Dense(3)])
    loss = g.SoftmaxCrossEntropy()(network(data[0]), data[1])
    return loss.get_training_executor(g.Sgd(0.1), **{"devices": ["cpu"], **options})


def calls(work: Any) -> int:
    profile = cProfile.Profile(builtins=True)
    profile.enable()
    work()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize(("shuffle", "most"), [(True, 80), (False, 74)], ids=["shuffled", "in order"])
def test_a_step_of_an_executor_takes_few_calls(shuffle: bool, most: int):
    training = executor(shuffle=shuffle)
    training.execute(2, progress=False)
    one, three = (calls(functools.partial(training.execute, n, progress=False)) for n in (1, 3))
    assert (three - one) / (2 * ROWS // SIZE) <= most


def test_a_step_makes_no_event_and_shows_nothing_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch):
    training, told = executor(), []
    training.execute(1, progress=False)
    monkeypatch.setattr("renom_onnx.runtime.executor.Event", lambda *_: told.append("event"))
    training.execute(1, progress=False)
    assert not told


def test_a_listener_that_comes_between_steps_is_heard():
    training, heard = executor(), []
    training.register_event("Step-Start", lambda event: heard.append("start") if event.n_steps < 2 else None)

    def first(event: Any) -> None:
        training.unregister_events("Step-Finish")
        training.register_event("Step-Finish", lambda event: heard.append(event.n_steps) if event.n_steps < 4 else None)

    training.register_event("Step-Finish", first)
    training.execute(1, progress=False)
    assert heard == ["start", "start", 2, 3]


def test_a_learning_rate_that_is_assigned_between_steps_counts_at_once():
    training = executor()
    rates: list[float] = []
    training.register_event("Step-Finish", lambda event: rates.append(training.session.learning_rate))
    training.execute(1, progress=False, learning_rate=lambda n: 0.5 ** (n + 1))
    assert rates[:3] == [0.5, 0.25, 0.125]


def test_shuffled_rows_are_copied_once_to_where_a_step_reads_them(monkeypatch: pytest.MonkeyPatch):
    training = executor()
    training.execute(1, progress=False)
    written: list[Any] = []
    write = Tensor.write
    monkeypatch.setattr(Tensor, "write", lambda tensor, array: (written.append(type(array)), write(tensor, array)))
    monkeypatch.setattr(distributor, "_taken", None)  # which makes an array of them
    training.execute(1, progress=False)
    assert written.count(Picked) == 2 * ROWS // SIZE


@pytest.mark.parametrize(
    "options",
    [{}, {"feed_ahead": True}, {"devices": ["cpu", "cpu"]}, {"resident": True}],
    ids=["session", "ahead", "parallel", "resident"],
)
def test_rows_that_are_copied_late_are_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    late = executor(**options, threads=1, batch_size=48)  # the last batch is shorter
    losses = late.execute(2, progress=False).losses
    early = executor(**options, threads=1, batch_size=48)
    monkeypatch.setattr(distributor, "_picked", distributor._taken)
    assert early.execute(2, progress=False).losses == losses
    for name, array in early.session.parameters.items():
        np.testing.assert_array_equal(late.session.parameters[name], array)


def test_rows_of_another_type_are_converted():
    rm.set_seed(0)
    x, y = np.arange(32).reshape(8, 4).astype(np.uint8), np.arange(8, dtype=np.int16) % 3
    losses = []
    for convert in (False, True):
        rm.set_seed(0)
        data = (x.astype(np.float32), y.astype(np.int64)) if convert else (x, y)
        source = g.DistributorElement(*data, batch_size=4, shuffle=True).get_output_graphs()
        loss = g.SoftmaxCrossEntropy()(g.Dense(3)(source[0]), source[1])
        losses.append(loss.get_training_executor(g.Sgd(0.01), ["cpu"]).execute(2, progress=False).losses)
    assert losses[0] == losses[1]


def test_picked_rows_are_an_array_when_one_is_asked_for():
    array = np.arange(12.0).reshape(4, 3)
    picked = Picked(array, np.array([3, 0, 3]))
    assert (picked.shape, len(picked), picked.dtype) == ((3, 3), 3, array.dtype)
    np.testing.assert_array_equal(np.asarray(picked), array[[3, 0, 3]])
    assert picked.astype(np.float32).dtype == np.float32
    memory = np.empty((3, 3))
    picked.copy_to(memory)
    np.testing.assert_array_equal(memory, array[[3, 0, 3]])


def test_picked_rows_reach_memory_that_the_host_cannot_write():
    class Value:
        def update_inplace(self, array: Any) -> None:
            self.got = array

    tensor = Tensor((3, 3), np.float64, parse_device("cpu"))
    tensor._memory, tensor.value = None, Value()
    array = np.arange(12.0).reshape(4, 3)
    tensor.write(Picked(array, np.array([3, 0, 3])))
    assert type(tensor.value.got) is np.ndarray
    assert tensor.value.got.flags.c_contiguous
    np.testing.assert_array_equal(tensor.value.got, array[[3, 0, 3]])
