"""``python -m benchmarks.eager``: a loop that builds its tree for every batch, over an executor that builds it once.

The network is the large perceptron, 784-512-512-10, with SGD. Loop and executor run in a process each, in turn. Then
the time to build trees of growing length, which must be linear: the last column would be constant.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.report import header, machine, row

BATCHES = (32, 128)
LENGTHS = (1_000, 2_000, 5_000, 10_000)
N_BATCHES = 20


def data(batch_size: int) -> tuple[Any, Any]:
    """Return rows and labels of some batches."""
    rng = np.random.default_rng(0)
    rows = batch_size * N_BATCHES
    return rng.normal(size=(rows, 784)).astype(np.float32), rng.integers(0, 10, rows)


def network() -> Any:
    """Return the perceptron."""
    from renom_onnx import graph as g

    return g.Sequential([g.Dense(512), g.Relu(), g.Dense(512), g.Relu(), g.Dense(10)])


def eager(batch_size: int, epochs: int) -> list[float]:
    """Return the seconds of the steps of a loop."""
    import renom_onnx as rm

    x, y = data(batch_size)
    model, loss_of, optimizer = network(), rm.graph.SoftmaxCrossEntropy(), rm.graph.Sgd(0.01)
    found = []
    for _ in range(epochs):
        for i in range(0, len(x), batch_size):
            start = time.perf_counter()
            loss_of(model(x[i : i + batch_size]), y[i : i + batch_size]).backward().update(optimizer)
            found.append(time.perf_counter() - start)
    return found


def executor(batch_size: int, epochs: int) -> list[float]:
    """Return the seconds of the steps of an executor, each epoch's shared out evenly."""
    import renom_onnx as rm

    rows, labels = rm.graph.DistributorElement(*data(batch_size), batch_size=batch_size).getOutputGraphs()
    loss = rm.graph.SoftmaxCrossEntropy()(network()(rows), labels)
    training = loss.get_training_executor(rm.graph.Sgd(0.01), devices=["cpu"])
    found = []
    for _ in range(epochs):
        start = time.perf_counter()
        training.execute(1, progress=False)
        found += [(time.perf_counter() - start) / N_BATCHES] * N_BATCHES
    return found


def build(length: int, epochs: int) -> list[float]:
    """Return the seconds to build a chain of operators and its backward pass."""
    import renom_onnx as rm

    found = []
    for _ in range(epochs):
        start = time.perf_counter()
        x = rm.graph.StaticVariable(np.ones(3, np.float32))
        y = x
        for _ in range(length):
            y = y + x
        rm.graph.ConstantLoss()(y).backward()
        found.append(time.perf_counter() - start)
    return found


PARTS = {"eager": eager, "executor": executor, "build": build}


def seconds(part: str, size: int, epochs: int) -> list[float]:
    """Return what a part measures in a process of its own; the first epoch, which opens sessions, is left out."""
    command = [sys.executable, "-m", "benchmarks.eager", "--part", part, "--size", str(size), "--epochs", str(epochs)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return list(found[len(found) // epochs :])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eager", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind, in turn")
    parser.add_argument("--epochs", type=int, default=6, help="of a process, the first of which is not counted")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.size, options.epochs)))
        return
    print(f"machine: {machine()}\n\n{header(['batch', 'eager / executor', 'eager ms', 'executor ms'])}")
    for batch_size in BATCHES:
        times: dict[str, list[float]] = {"eager": [], "executor": []}
        for _ in range(options.rounds):
            for part, found in times.items():
                found += seconds(part, batch_size, options.epochs)
        loop, once = (statistics.median(found) for found in times.values())
        print(row([str(batch_size), f"{loop / once:.2f}", f"{loop * 1e3:.2f}", f"{once * 1e3:.2f}"]), flush=True)
    print(f"\n{header(['elements and as many gradients', 'ms', 'µs each'])}")
    for length in LENGTHS:
        spent = min(seconds("build", length, 3))
        print(row([str(length), f"{spent * 1e3:.0f}", f"{spent / length * 1e6:.1f}"]), flush=True)


if __name__ == "__main__":
    main()
