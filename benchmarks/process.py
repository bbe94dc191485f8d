"""The processes of contenders, and blocks of steps that nobody else disturbed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IDLE_S = 0.1
"""Pause between contenders: onnxruntime's workers spin for about 50 ms after a run."""
DISTURBED = 0.12
"""Share of a core that other processes may use during a block; the block is taken again where they use more."""
MAX_RETRIES = 3


class ContenderError(RuntimeError):
    """A contender cannot go on."""


class Process:
    """A contender's process; `refusal` says why it cannot take part, None where it can."""

    def __init__(
        self, name: str, workload: str, folder: Path, threads: int, place: tuple[str, str], python: str
    ) -> None:
        command = [python, "-m", "benchmarks.contender", name, workload, str(folder), str(threads), *place]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        self.log = folder / f"{workload}-{name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.refusal: str | None = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return (
            json.loads(line) if line else f"it ended: {(self.log.read_text().strip().splitlines() or ['?'])[-1][:200]}"
        )

    def ask(self, command: str) -> Any:
        """Send a command and return the answer.

        Raises:
            ContenderError: there is none; the text says why.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if isinstance(answer, str):
            raise ContenderError(answer)
        return answer

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.communicate("quit\n")


def busy_s() -> float:
    """Return the processor time that all processes have used since the machine started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = (int(n) for n in stat.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@dataclass
class Times:
    """Seconds of a contender's steps, peak memory in MB, and blocks that stayed disturbed."""

    seconds: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    n_disturbed: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p10(self) -> float:
        return statistics.quantiles(self.seconds, n=10)[0]

    @property
    def p90(self) -> float:
        return statistics.quantiles(self.seconds, n=10)[8]

    def as_dict(self) -> dict[str, float]:
        return {
            "median_s": self.median,
            "p10_s": self.p10,
            "p90_s": self.p90,
            "memory_mb": self.memory_mb,
            "n_steps": len(self.seconds),
            "n_disturbed_blocks": self.n_disturbed,
        }


def interleave(processes: dict[str, Process], rounds: int, steps: int) -> dict[str, Times]:
    """Let the contenders take a block of steps in turn, some rounds long."""
    times = {name: Times() for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            for attempt in range(MAX_RETRIES + 1):
                time.sleep(IDLE_S)
                process.ask(f"block {max(1, steps // 10)}")  # wakes its threads
                start, busy, own = time.perf_counter(), busy_s(), process.cpu_s()
                seconds = process.ask(f"block {steps}")
                elapsed = time.perf_counter() - start
                others = (busy_s() - busy) - (process.cpu_s() - own)
                is_disturbed = others > DISTURBED * elapsed + 0.02  # the clock ticks at 100 Hz
                if not is_disturbed or attempt == MAX_RETRIES:
                    times[name].seconds += seconds
                    times[name].n_disturbed += is_disturbed
                    break
    for name, process in processes.items():
        times[name].memory_mb = process.ask("memory")
    return times


def python_of(environment: str) -> str | None:
    """Return the interpreter of a virtual environment, None where it is not installed."""
    found = Path(environment) / "bin" / "python"
    return str(found) if found.exists() else None


THIS_PYTHON = sys.executable
