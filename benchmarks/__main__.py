"""``python -m benchmarks``: training steps side by side, as ratios of medians.

Every contender runs in a process of its own and takes its blocks in turn, with idle gaps, because onnxruntime's workers
spin for about 50 ms after a run and would disturb a neighbour. The first three losses must agree to five digits before
anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contender import CONTENDERS
from benchmarks.workload import WORKLOADS, Workload, write


class Process:
    """A contender's process."""

    def __init__(self, name: str, workload: Workload, folder: str) -> None:
        command = [sys.executable, "-m", "benchmarks.contender", name, workload.name, folder]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str) -> Any:
        """Send a command and return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate("quit\n")


def measure(workload: Workload, names: Sequence[str], rounds: int, steps: int) -> dict[str, tuple[float, float, float]]:
    """Return median and 10th percentile of a step in seconds, and peak memory in MB, by contender."""
    with tempfile.TemporaryDirectory() as folder:
        write(workload, Path(folder))
        processes = {name: Process(name, workload, folder) for name in names}
        losses = {name: process.ask("losses") for name, process in processes.items()}
        _check(losses)
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, process in processes.items():
                time.sleep(0.1)
                process.ask("block 5")  # wakes its threads
                times[name] += process.ask(f"block {steps}")
        memory = {name: process.ask("memory") for name, process in processes.items()}
        for process in processes.values():
            process.close()
    return {
        name: (statistics.median(times[name]), statistics.quantiles(times[name], n=10)[0], memory[name])
        for name in names
    }


def _check(losses: dict[str, list[float]]) -> None:
    first, *others = losses
    for other in others:
        for a, b in zip(losses[first], losses[other], strict=True):
            if abs(a - b) > 1e-5 * abs(a):
                raise SystemExit(f"{first} and {other} do not train the same model: losses {losses}")


def machine() -> str:
    """Return one line about this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = found[0] if found else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Training steps against peers.")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=f"default: {' '.join(WORKLOADS)}")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--steps", type=int, default=150, help="steps of a block")
    options = parser.parse_args()
    print(f"Machine: {machine()}")
    print("session: TrainingSession.step with the loss read; bare: onnxruntime alone on the same graph; torch: PyTorch")
    print("eager. Ratios of medians; memory is the peak resident size of the process.\n")
    print("| workload | session us | bare us | torch us | session / bare | torch / session | MB session / torch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.workloads:
        found = measure(WORKLOADS[name], options.contenders, options.rounds, options.steps)
        print(_row(name, found), flush=True)


def _row(name: str, found: dict[str, tuple[float, float, float]]) -> str:
    def microseconds(contender: str) -> str:
        return f"{found[contender][0] * 1e6:.0f}" if contender in found else "-"

    def ratio(a: str, b: str, index: int = 0) -> str:
        return f"{found[a][index] / found[b][index]:.2f}" if a in found and b in found else "-"

    cells = [name, *(microseconds(c) for c in ("session", "bare", "torch"))]
    cells += [ratio("session", "bare"), ratio("torch", "session"), ratio("session", "torch", 2)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
