"""When something breaks in a job of several processes: it ends with the message, goes on later, or goes on without."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import renom_onnx as rm
from tests.runtime.mpi import jobs
from tests.runtime.mpi.killed import STEPS, train

N_RANKS = 3
SOON_S = 120.0
"""Far more than a job needs to end, and far less than it would wait for a rank that is gone."""

DELAY_S = 0.01

RUNNERS: dict[str, tuple[str, ...]] = {"mpi4py": ("-m", "mpi4py"), "plain": ()}
ENDS = "raised this error, which ends the job."


# A rank that raises

RAISES = {
    "step": ["ValueError: broken on purpose", f"renom_onnx: rank 1 of 3 {ENDS}"],
    "data": ["IndexRangeError: ", "Created at failing.py:", f"renom_onnx: rank 2 of 3 {ENDS}"],
    "caught": ["IndexRangeError: ", f"renom_onnx: rank 2 of 3 {ENDS}"],
    "before": ["ValueError: broken on purpose"],
}


@jobs.needs_mpi
@pytest.mark.parametrize(
    ("what", "runner"),
    [("step", "plain"), ("step", "mpi4py"), ("data", "plain"), ("caught", "plain"), ("before", "plain")],
)
def test_a_rank_that_raises_ends_the_job_with_its_message(what: str, runner: str):
    job = jobs.run(N_RANKS, "failing", what, runner=RUNNERS[runner])
    assert job.code != 0
    assert [words for words in RAISES[what] if words not in job.output] == [], job.output
    assert "this is never printed" not in job.output
    assert job.seconds < SOON_S


@jobs.needs_fault_tolerance
def test_a_rank_that_raises_is_no_lost_one():
    job = jobs.run(N_RANKS, "failing", "elastic_step", elastic=True, runner=RUNNERS["plain"])
    assert job.code != 0
    assert f"renom_onnx: rank 1 of 3 {ENDS}" in job.output
    assert "go on" not in job.output
    assert job.seconds < SOON_S


@jobs.needs_mpi
def test_an_error_that_all_ranks_have_is_raised_on_all():
    job = jobs.run(N_RANKS, "failing", "everywhere", runner=RUNNERS["plain"])
    assert job.code == 0, job.output
    assert sorted(job.output.split("\n")) == ["", *(f"rank {rank} has 3 epochs" for rank in range(N_RANKS))]


@jobs.needs_mpi
@pytest.mark.parametrize(("what", "who"), [("leave", "rank 1 has"), ("save_alone", "ranks 1, 2 have")])
def test_a_rank_that_leaves_while_others_wait_ends_the_job(what: str, who: str):
    job = jobs.run(N_RANKS, "failing", what, runner=RUNNERS["plain"])
    assert job.code != 0
    assert "waits for all ranks in " in job.output
    assert f", but {who} left. All must run the same." in job.output, job.output
    assert job.seconds < SOON_S


@jobs.needs_fault_tolerance
def test_going_on_without_a_rank_must_be_asked_of_mpiexec():
    job = jobs.run(N_RANKS, "failing", "not_elastic", runner=RUNNERS["plain"])
    assert job.code != 0
    words = "ElasticEngine: MPI must let the others go on when a process is lost, got Open MPI v"
    assert words in job.output
    rest = " without fault tolerance. Use Open MPI's mpiexec --with-ft ulfm, or elastic=False."
    assert rest in job.output


# A rank that is killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = jobs.run(N_RANKS, "killed", folder)
    assert job.code == 0, job.output
    return read(folder)


def read(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "found.npz") as file:
        return dict(file)


def killed_and_started_again(folder: Path, undisturbed: dict[str, np.ndarray], n_kills: int) -> None:
    """Kill a rank again and again, each time soon after the same command was given again, and compare the end."""
    draw = random.Random(n_kills)
    n_killed = n_ended = 0
    while n_killed < n_kills or not n_ended:
        draws = moments([draw.randrange(N_RANKS)], draw, STEPS // n_kills) if n_killed < n_kills else ""
        job = jobs.run(N_RANKS, "killed", folder, "--checkpoint-every", 2, "--victims", draws)
        assert job.seconds < SOON_S
        assert (job.code == 0) == (folder / "found.npz").exists(), job.output
        if job.code:
            assert draws, job.output
            n_killed += 1
            continue
        n_ended += 1  # perhaps before all kills: then another training takes the rest
        found = read(folder)
        for name, value in undisturbed.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.onnx", "found.npz"]
        for path in folder.iterdir():
            path.unlink()


def killed_while_others_go_on(folder: Path, n_ranks: int, victims: str) -> int:
    """Return how many ranks were lost; what is found at the end is what one device finds."""
    job = jobs.run(n_ranks, "killed", folder, "--elastic", "--victims", victims, elastic=True)
    assert job.code == 0, job.output
    found = read(folder)
    n_lost = n_ranks - int(found["size"])
    assert not n_lost or f" lost, {n_ranks - n_lost} of " in job.output
    one = train(folder, rm.runtime.LocalEngine(), {}, None)
    np.testing.assert_allclose(found["losses"], one.history.losses, rtol=1e-5)
    np.testing.assert_allclose(found["validation"], one.history.validation_losses, rtol=1e-5)
    for name, value in one.session.parameters.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    return n_lost


def moments(ranks: list[int], draw: random.Random, n_steps: int) -> str:
    """Return when ranks are killed: in or soon after one of their next steps, somewhere in it."""
    return ",".join(f"{rank}:{draw.randint(1, n_steps)}:{draw.uniform(0, DELAY_S):.4f}" for rank in ranks)


@jobs.needs_mpi
def test_a_job_that_lost_a_rank_ends_and_resumes_to_the_same_bits(undisturbed: dict[str, np.ndarray], tmp_path: Path):
    killed_and_started_again(tmp_path, undisturbed, 3)


@jobs.needs_mpi
@pytest.mark.slow  # twenty-one jobs
def test_a_job_that_is_killed_twenty_times_resumes_to_the_same_bits(undisturbed: dict[str, np.ndarray], tmp_path: Path):
    killed_and_started_again(tmp_path, undisturbed, 20)


@jobs.needs_fault_tolerance
@pytest.mark.parametrize("victims", [[0], [2, 1]], ids=["the first", "two"])
def test_the_others_go_on_without_a_lost_rank(victims: list[int], tmp_path: Path):
    draw = random.Random(len(victims))
    assert killed_while_others_go_on(tmp_path, N_RANKS, moments(victims, draw, STEPS // 2)) == len(victims)


@jobs.needs_fault_tolerance
@pytest.mark.slow  # seven jobs or more
def test_the_others_go_on_after_twenty_kills(tmp_path: Path):
    draw = random.Random(20)
    n_lost = 0
    while n_lost < 20:
        victims = draw.sample(range(4), 3)
        n_lost += killed_while_others_go_on(tmp_path, 4, moments(victims, draw, STEPS // 2))
