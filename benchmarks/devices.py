"""``python -m benchmarks.devices``: one training on several CPU sessions of one thread each, against one such session.

The network is that of ``make demo``. The contenders are processes that take their epochs in turn; they start from the
same weights, take the same batches, and must have the same losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.process import IDLE_S
from benchmarks.report import header, machine, row

N_ROWS = 4096


def contend(n_devices: int, batch_size: int) -> None:
    """Answer each line on stdin with the seconds of a step and the loss of an epoch, as JSON."""
    import numpy as np

    import renom_onnx as rm
    from examples.digits import load, network

    digits, _ = load()
    rows = np.resize(np.arange(len(digits.labels)), N_ROWS)
    x, y = rm.graph.DistributorElement(
        digits.images[rows], digits.labels[rows], batch_size=batch_size, shuffle=False
    ).get_output_graphs()
    loss = rm.graph.SoftmaxCrossEntropy()(network()(x), y)
    executor = loss.get_training_executor(rm.graph.Adam(0.001), devices=["cpu"] * n_devices, threads=1)
    n_steps = -(-N_ROWS // batch_size)
    for _ in sys.stdin:
        start = time.perf_counter()
        history = executor.execute(1, progress=False)
        print(json.dumps([(time.perf_counter() - start) / n_steps, history.losses[-1]]), flush=True)


class Contender:
    """A process that trains on some sessions."""

    def __init__(self, n_devices: int, batch_size: int) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.devices",
            "--contend",
            str(n_devices),
            "--batch-size",
            str(batch_size),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def epoch(self) -> tuple[float, float]:
        """Return the seconds of a step, and the loss."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()
        seconds, loss = json.loads(self._process.stdout.readline())
        return seconds, loss

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(batch_size: int, counts: list[int], rounds: int) -> None:
    """Print a row for each number of sessions."""
    contenders = {n: Contender(n, batch_size) for n in counts}
    times: dict[int, list[float]] = {n: [] for n in counts}
    for number in range(rounds + 1):
        losses = {}
        for n, contender in contenders.items():
            time.sleep(IDLE_S)
            seconds, losses[n] = contender.epoch()
            if number:  # the first opens the sessions
                times[n].append(seconds)
        for n, loss in losses.items():
            if abs(loss - losses[1]) > 1e-5 * abs(losses[1]):
                raise SystemExit(f"benchmarks.devices: {n} sessions must train as one, got losses {losses}")
    for contender in contenders.values():
        contender.close()
    one = statistics.median(times[1])
    for n in counts:
        median = statistics.median(times[n])
        print(row([str(batch_size), str(n), f"{one / median:.2f}", f"{median * 1e3:.2f}"]), flush=True)


def main(arguments: Any = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512], help="rows of a step, of all devices")
    parser.add_argument(
        "--sessions", type=int, nargs="+", default=[1, 2], help="numbers of sessions; 1 is always there"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contend", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contend:
        contend(options.contend, options.batch_size)
        return
    print(f"machine: {machine()}\n")
    print(header(["batch", "sessions of one thread", "times one session", "ms a step"]))
    for size in options.batch_sizes:
        measure(size, sorted({1, *options.sessions}), options.rounds)


if __name__ == "__main__":
    main()
