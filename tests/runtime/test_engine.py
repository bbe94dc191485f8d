"""Engines and reductions: one order of sums, the same bits on every device."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import Device, ParallelTrainingSession
from renom_onnx.runtime.engine import Engine, LocalEngine
from renom_onnx.runtime.nccl import NcclReduction, best_reduction, is_installed
from renom_onnx.runtime.reduction import CHUNK, HostReduction
from renom_onnx.runtime.team import Team
from renom_onnx.runtime.tensor import Tensor
from tests.converters.programs import Program, feeds

CPU = Device("cpu")
Array = np.ndarray[Any, Any]


def buffers_of(n_devices: int, size: int, dtype: Any = np.float32) -> tuple[list[Array], list[Tensor]]:
    arrays = [np.random.default_rng(i).standard_normal(size).astype(dtype) for i in range(n_devices)]
    return arrays, [Tensor.from_array(array, CPU) for array in arrays]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_buffer_becomes_the_sum_in_the_order_of_the_devices(size: int, dtype: Any):
    arrays, buffers = buffers_of(3, size, dtype)
    LocalEngine().allreduce(buffers)
    wanted = (arrays[0] + arrays[1]) + arrays[2]
    for buffer in buffers:
        np.testing.assert_array_equal(buffer.read(), wanted)


def test_one_buffer_is_its_own_sum():
    (array,), buffers = buffers_of(1, 5)
    LocalEngine().allreduce(buffers)
    np.testing.assert_array_equal(buffers[0].read(), array)


@pytest.mark.parametrize("n_devices", [1, 3])
def test_every_tensor_becomes_the_first(n_devices: int):
    arrays, tensors = buffers_of(n_devices, 6)
    LocalEngine().broadcast(tensors)
    assert all((tensor.read() == arrays[0]).all() for tensor in tensors)


def test_a_process_alone_has_all_devices():
    engine = LocalEngine()
    engine.barrier()
    assert (engine.rank, engine.size, engine.layout(3)) == (0, 1, (0, 3))


def test_a_reduction_of_ones_own_is_used():
    class Counting(HostReduction):
        """A reduction that remembers how often it was asked."""

        sums = 0

        def sum(self, buffers: Sequence[Tensor]) -> None:
            self.sums += 1
            super().sum(buffers)

    reduction = Counting()
    model = Program("normalized", "Sgd", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"], engine=LocalEngine(reduction), synchronize_batch_norm=True)
    session.step(feeds(model, 8))
    assert reduction.sums == 3  # of statistics, of their gradients, of everything


class Half(LocalEngine):
    """A process that has the second and third of four devices, with nobody behind the others."""

    def layout(self, n_devices: int) -> tuple[int, int]:
        return 1, 4


def test_the_devices_of_a_process_are_dealt_their_parts_alone():
    """What an engine of many processes relies on: parts, places and shares are those among all devices."""
    model = Program("dropout", "Sgd", 18).model()
    session = ParallelTrainingSession(model, ["cpu", "cpu"], engine=Half())
    parts, _ = session._deal(feeds(model, 7))
    assert [(len(part.feeds["x"]), part.first, part.share) for part in parts] == [(2, 2, 2 / 7), (2, 4, 2 / 7)]
    assert isinstance(Half(), Engine)


# NCCL


@pytest.mark.parametrize(
    "devices",
    [[CPU, CPU], [Device("cuda", 0)], [Device("cuda", 0)] * 2],
    ids=["CPUs", "one GPU", "one GPU twice"],
)
def test_only_different_gpus_are_connected_by_nccl(devices: list[Device]):
    assert type(best_reduction(devices)) is HostReduction


@pytest.mark.skipif(is_installed(), reason="nccl4py is installed")
def test_without_nccl_the_host_adds():
    devices = [Device("cuda", 0), Device("cuda", 1)]
    assert type(best_reduction(devices)) is HostReduction
    with pytest.raises(rm.DeviceError) as error:
        NcclReduction(devices)
    assert str(error.value).startswith("NCCL: it must be able to connect cuda:0, cuda:1, got ModuleNotFoundError: ")
    assert str(error.value).endswith(" Install renom-onnx[nccl], or give LocalEngine a HostReduction().")


# Threads


def test_the_first_error_in_the_order_of_the_devices_is_raised_when_all_have_ended():
    ended: list[int] = []

    def job(number: int) -> Any:
        def run() -> int:
            ended.append(number)
            if number:
                raise KeyError(number)
            return number

        return run

    team = Team(3)
    with pytest.raises(KeyError) as error:
        team.run([job(i) for i in range(3)])
    assert error.value.args == (1,)
    assert sorted(ended) == [0, 1, 2]
    assert team.run([lambda: "a", lambda: "b", lambda: "c"]) == ["a", "b", "c"]
    team.close()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system cannot interrupt a thread")
def test_an_interrupt_waits_for_all_devices():
    """The signal comes to the caller while it waits for the other device."""
    ended: list[bool] = []
    caller = threading.get_ident()

    def long() -> None:
        time.sleep(0.05)
        signal.pthread_kill(caller, signal.SIGINT)
        time.sleep(0.2)
        ended.append(True)

    team = Team(2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            team.run([lambda: None, long])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]
    assert team.run([lambda: 1, lambda: 2]) == [1, 2]


def test_a_session_that_nobody_holds_ends_its_threads():
    def threads() -> int:
        return sum(thread.name.startswith("renom_onnx device") for thread in threading.enumerate())

    gc.collect()
    before = threads()
    model = Program("mlp", "Sgd", 18).model()
    session = ParallelTrainingSession(model, ["cpu"] * 3)
    session.step(feeds(model, 8))
    assert threads() == before + 2
    del session
    deadline = time.monotonic() + 10
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == before
