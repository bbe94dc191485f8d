"""``python -m benchmarks.devices``: one training on several CPU sessions or MPI ranks of one thread each, against one.

The network is that of ``make demo``. Jobs take their epochs in turn; they start from the same weights, take the same
batches, and must have the same losses.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.process import IDLE_S
from benchmarks.report import header, machine, row
from benchmarks.training_job import TrainingJob

ONE = "1 session"
TOLERANCE = 1e-3
"""Of losses, relative: sums are taken in another order, in many steps after one another."""


def in_turn(jobs: Mapping[str, TrainingJob], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step of each job, in every round; end the jobs."""
    try:
        return _in_turn(jobs, rounds)
    finally:
        for job in jobs.values():
            job.close()


def _in_turn(jobs: Mapping[str, TrainingJob], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        losses = {}
        for name, job in jobs.items():
            time.sleep(IDLE_S)
            seconds, losses[name] = job.epoch()
            if number:  # the first opens the sessions
                times[name].append(seconds)
        for loss in losses.values():
            if abs(loss - losses[ONE]) > TOLERANCE * abs(losses[ONE]):
                raise SystemExit(f"benchmarks: all must train as one, got losses {losses}")
    return times


def main(arguments: Any = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512], help="rows of a step, of all devices")
    parser.add_argument("--sessions", type=int, nargs="*", default=[2], help="numbers of sessions of one process")
    parser.add_argument("--ranks", type=int, nargs="*", default=[2], help="numbers of processes of one session")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    print(f"machine: {machine()}\n")
    print(header(["batch", "of one thread each", "times one session", "ms a step"]))
    for size in options.batch_sizes:
        jobs = {ONE: TrainingJob(size)}
        jobs |= {f"{n} sessions": TrainingJob(size, n_sessions=n) for n in options.sessions}
        jobs |= {f"{n} ranks": TrainingJob(size, n_ranks=n) for n in options.ranks}
        medians = {name: statistics.median(times) for name, times in in_turn(jobs, options.rounds).items()}
        for name, median in medians.items():
            print(row([str(size), name, f"{medians[ONE] / median:.2f}", f"{median * 1e3:.2f}"]), flush=True)


if __name__ == "__main__":
    main()
