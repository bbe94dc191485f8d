"""One contender in a process of its own.

``python -m benchmarks.contender NAME WORKLOAD FOLDER THREADS DEVICE PRECISION`` answers commands on stdin, a line each,
with a line of JSON: ``losses`` (of the first batches), ``block N`` (seconds of N steps), ``memory`` (peak resident MB;
on a GPU, MB of its memory) and ``quit``. The first line that it writes says that it is ready, or why it cannot take
part.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import device_mb, peak_mb
from benchmarks.workloads import WORKLOADS, Step, Workload

Make = Callable[..., Step]


def _contenders() -> dict[str, Make]:
    from benchmarks.contenders import ours, torch_steps

    return {
        "session": ours.session,
        "bare": ours.bare,
        "torch": torch_steps.torch,
        "torch-fused": lambda *a: torch_steps.torch(*a, fused=True),
        "torch-channels-last": lambda *a: torch_steps.torch(*a, channels_last=True),
        "torch-compile": lambda *a: torch_steps.torch(*a, compiled=True),
        "torch-cuda-graph": lambda *a: torch_steps.torch(*a, captured=True),
        "infer-session": ours.infer_session,
        "infer-bare": ours.infer_bare,
        "infer-torch": torch_steps.infer,
    }


def make(name: str, workload: Workload, folder: Path, threads: int, device: str, precision: str) -> Step:
    """Return the step of a contender."""
    if name == "jax":
        from benchmarks.contenders.jax_steps import jax

        return jax(workload, folder, threads)
    if name == "ort-training":
        from benchmarks.contenders.ort_training import ort_training

        return ort_training(workload, folder, threads)
    arguments: list[Any] = [workload, folder, threads]
    if device != "cpu":
        arguments += [device] if name.startswith("infer") else [device, precision]
    return _contenders()[name](*arguments)


class Steps:
    """Takes steps over the batches of a workload in turn."""

    def __init__(self, step: Step, workload: Workload) -> None:
        self._step, self._batches, self._count = step, workload.batches(), 0
        self._n_losses = workload.n_losses

    def losses(self) -> list[float]:
        """Return the losses of the first batches; of scores, which have none, the mean size."""
        return [float(np.abs(result).mean(dtype=np.float64)) for result in self.take(self._n_losses)[0]]

    def take(self, n_steps: int) -> tuple[list[Any], list[float]]:
        """Return results and seconds."""
        results, seconds = [], []
        for _ in range(n_steps):
            x, y = self._batches[self._count % len(self._batches)]
            start = time.perf_counter()
            results.append(self._step(x, y))
            seconds.append(time.perf_counter() - start)
            self._count += 1
        return results, seconds

    def seconds(self, n_steps: int) -> list[float]:
        """Return the seconds of steps."""
        return self.take(n_steps)[1]


def main() -> None:
    """Answer commands."""
    name, workload_name, folder, threads, device, precision = sys.argv[1:7]
    workload = WORKLOADS[workload_name]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    try:
        if name == "executor":
            from benchmarks.contenders.ours import Executor

            contender: Any = Executor(workload, int(threads), device, precision)
        else:
            contender = Steps(make(name, workload, Path(folder), int(threads), device, precision), workload)
    except Exception as error:
        traceback.print_exc()
        print(
            json.dumps(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"), file=answers, flush=True
        )
        return
    print(json.dumps(None), file=answers, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "quit":
            return
        if command == "memory":
            answer: Any = peak_mb() if device == "cpu" else device_mb()
        elif command == "losses":
            answer = contender.losses()
        else:
            answer = contender.seconds(int(arguments[0]))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
