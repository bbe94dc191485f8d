"""Several processes train as one: losses, weights, validation and inference of 2, 3 and 4 ranks are those of one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime.shard import deal
from tests.runtime.mpi import jobs
from tests.runtime.mpi.trainings import CASES, Found, apart_batches, apart_model, perceptron, trained
from tests.runtime.several import BATCH, ROWS, g, train

pytestmark = jobs.needs_mpi

EXACT = {"accuracy", "rows"}
"""Metrics are told whole batches: these do not depend on the order of sums."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where four ranks, in groups of two, three and four, wrote what they found; all had the same bits."""
    folder = tmp_path_factory.mktemp("found")
    job = jobs.run(4, "trainings", folder)
    assert job.code == 0, job.output
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    return {}


def of_one(alone: dict[str, Found], case: str) -> Found:
    if case not in alone:
        alone[case] = CASES[case](rm.runtime.LocalEngine())
    return alone[case]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_trains_as_one_device(case: str, size: int, found: Path, alone: dict[str, Found]):
    one = of_one(alone, case)
    with np.load(found / f"{case}-{size}.npz") as several:
        assert set(several) == set(one)
        for name, value in one.items():
            scale = float(np.abs(value).max())
            exact = dict(rtol=0, atol=0) if name in EXACT else dict(rtol=1e-6, atol=1e-6 * scale)
            np.testing.assert_allclose(several[name], value, err_msg=name, **exact)
    if case not in {"validated", "iterated"}:
        assert len(one["losses"]) >= 50
    if case != "validated":
        assert one["history"][-1] < one["history"][0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_rank_reads_its_rows_and_no_others(size: int, found: Path):
    with np.load(found / f"rows read-{size}.npz") as read:
        parts = [read[f"rank{rank}"] for rank in range(size)]
    together = np.concatenate(parts)
    assert sorted(together) == list(range(ROWS))
    batches = [BATCH // size + (rank < BATCH % size) for rank in range(size)]
    last = ROWS % BATCH
    expected = [ROWS // BATCH * n + (last // size + (rank < last % size)) for rank, n in enumerate(batches)]
    assert [len(part) for part in parts] == expected


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_weights_of_the_first_rank_count(size: int, found: Path):
    with np.load(found / f"other seeds-{size}.npz") as first, np.load(found / "other seeds-2.npz") as other:
        for name in first:
            np.testing.assert_allclose(first[name], other[name], rtol=1e-5, atol=1e-6, err_msg=name)


# Float16 on the wire


@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradients_as_float16_train_about_the_same(size: int, found: Path):
    with np.load(found / f"half-{size}.npz") as half:
        one = trained(perceptron(), rm.runtime.LocalEngine())
        np.testing.assert_allclose(half["losses"][0], one["losses"][0], rtol=1e-6)  # losses are sent as they are
        np.testing.assert_allclose(half["history"], one["history"], rtol=5e-3)
        assert (half["losses"] != one["losses"]).any()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_sum_as_float16_is_rounded_to_eleven_bits_and_takes_half_the_bytes(size: int, found: Path):
    with np.load(found / f"wire-{size}.npz") as wire:
        error = np.abs(wire["sum"] - wire["exact"])
        assert (error <= 2.0**-10 * wire["absolute"]).all()  # each number, and the sum, is rounded to 2^-11
        assert error.max() > 0
        half, everything = wire["bytes"]
        n = len(wire["sum"])
        pieces = size * -(-n // size)
        assert half == 2 * pieces + 2 * pieces // size  # out to those who add, and each one's sum to all
        assert everything - half <= 4 * (size + 1)  # the exponents
        np.testing.assert_array_equal(wire["overflown"], np.array([size, np.inf, 3 * size, np.nan], np.float32))
        assert not wire["zeros"].any()


# Local SGD


def averaged(size: int) -> dict[str, np.ndarray]:
    """What `trainings.apart` must find, by as many sessions of one device each, averaged here."""
    sessions = [rm.runtime.TrainingSession(apart_model(), "cpu", threads=1) for _ in range(size)]
    together = rm.runtime.TrainingSession(apart_model(), "cpu", threads=1)
    names = list(sessions[0]._step.bindings)
    n_apart, weights = 0, np.zeros(size)

    def average() -> None:
        nonlocal n_apart
        if not n_apart:
            return
        for name in names:
            values = [session.read(name) for session in sessions]
            value = values[0]
            if value.dtype.kind == "f":
                value = np.average(values, axis=0, weights=weights).astype(value.dtype)
            for session in [*sessions, together]:
                session.write(name, value)
        n_apart, weights[:] = 0, 0

    for batch in apart_batches():
        n_rows = len(batch["y"])
        if n_rows < size:
            average()
            together.step(batch)
            for name in names:
                for session in sessions:
                    session.write(name, together.read(name))
            continue
        for rank, (session, rows) in enumerate(zip(sessions, deal(n_rows, size), strict=True)):
            session.step({name: array[rows] for name, array in batch.items()})
            weights[rank] += rows.stop - rows.start
        n_apart += 1
        if n_apart == 3:
            average()
    average()
    return {name: sessions[0].read(name) for name in names}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_local_sgd_is_that_of_separate_sessions_averaged_by_rows(size: int, found: Path):
    expected = averaged(size)
    with np.load(found / f"apart-{size}.npz") as apart:
        assert apart["n_sums"] == 4  # after three steps, in the short batch, after three more, and at the end
        for name, value in expected.items():
            np.testing.assert_allclose(apart[name], value, rtol=2e-6, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_history_of_local_sgd_is_that_of_all_rows(size: int, found: Path):
    one = train(perceptron(), lambda: g.Sgd(0.0), 1, engine=rm.runtime.LocalEngine(), threads=1)
    with np.load(found / f"apart without learning-{size}.npz") as apart:
        np.testing.assert_allclose(apart["history"], one.executor.history.losses, rtol=1e-6)


# Ranks that are not the same


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_whose_weights_drift_are_told_of_and_brought_together(size: int, found: Path):
    with np.load(found / f"drifting-{size}.npz") as drifting:
        assert set(drifting["words"].tolist()) == {
            "DistributedTrainingSession: all ranks must have the same weights, got others on [1], which have those of "
            "rank 0 now. Set the same learning rate on all ranks, and use processors of one kind."
        }
        assert drifting["equal"] == 1


# The command line


def test_the_command_trains_on_all_ranks_and_reports_once(tmp_path: Path):
    rows = np.random.default_rng(0)
    x, y = rows.standard_normal((37, 4)).astype(np.float32), rows.integers(0, 3, 37)
    np.savez(tmp_path / "data.npz", x=x, labels=y)
    model = rm.converters.to_onnx(g.Dense(3), inputs={"x": ("N", 4)})
    rm.make_trainable(model, tmp_path / "model.onnx", loss="softmax_cross_entropy", optimizer=g.Adam(0.01))

    def command(name: str) -> tuple[str, ...]:
        output = ("--output", f"{tmp_path}/{name}.onnx", "--export", f"{tmp_path}/{name}.plain.onnx")
        return (f"{tmp_path}/model.onnx", f"{tmp_path}/data.npz", "--epochs", "3", "--batch-size", "8", *output)

    module = ("-m", "renom_onnx", "train")
    job = jobs.run(2, None, *command("two"), "--validation", "0.2", "--device", "cpu", runner=module)
    assert job.code == 0, job.output
    alone = jobs.run(1, None, *command("one"), "--validation", "0.2", "--device", "cpu", runner=module)
    assert alone.code == 0, alone.output
    reports = [re.findall(r"^(?:loss|validation|accuracy|Wrote) .*$", f.output, re.MULTILINE) for f in (job, alone)]
    assert [line.replace("two", "one") for line in reports[0]] == reports[1]
    assert len(reports[1]) == 5
    two, one = (rm.runtime.InferenceSession(tmp_path / f"{name}.plain.onnx", "cpu") for name in ("two", "one"))
    np.testing.assert_allclose(two.run({"x": x})["output"], one.run({"x": x})["output"], rtol=1e-5, atol=1e-6)
