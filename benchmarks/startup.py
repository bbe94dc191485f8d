"""``python -m benchmarks.startup``: how soon a program can begin: imports, and the first steps of networks.

Imports are measured as whole processes, taken in turn; an interpreter that does nothing is subtracted. The networks
are ResNet-50 of ONNX's light set, made trainable, a decoder of twelve blocks, and that of ``renom-onnx demo``, all with
Adam. The first step opens onnxruntime's session. The last column tells which share of weights and state is held once.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import header, machine, row
from benchmarks.workloads import sequence

Feeds = dict[str, np.ndarray[Any, Any]]

PROGRAMS = {
    "import onnx": "import onnx",
    "import renom_onnx": "import renom_onnx",
    "and its graph": "import renom_onnx as rm; rm.graph",
    "and its runtime": "import renom_onnx as rm; rm.graph, rm.runtime",
    "import torch": "import torch",
}


def seconds_of(program: str) -> float:
    """Return how long a process takes that runs the program."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def imports(rounds: int) -> None:
    """Print the imports."""
    times: dict[str, list[float]] = {name: [] for name in ("pass", *PROGRAMS)}
    for _ in range(rounds):
        for name, found in times.items():
            found.append(seconds_of(PROGRAMS.get(name, name)))
    nothing = statistics.median(times.pop("pass"))
    medians = {name: statistics.median(values) - nothing for name, values in times.items()}
    print(header(["program", "over import onnx", "ms"]))
    for name, median in medians.items():
        print(row([name, f"{median / medians['import onnx']:.2f}", f"{median * 1e3:.0f}"]))


def resnet() -> tuple[Any, Feeds]:
    """Return ResNet-50 of ONNX's light set at 224 x 224, batch 1."""
    import onnx

    import renom_onnx as rm
    from renom_onnx.converters.promotion import with_weights_of_constants

    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    model, _ = with_weights_of_constants(onnx.load(light))
    image = next(value.name for value in model.graph.input if len(value.type.tensor_type.shape.dim) == 4)
    feeds = {image: np.zeros((1, 3, 224, 224), np.float32), "labels": np.zeros(1, np.int64)}
    return rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=rm.graph.Adam(0.0001)), feeds


def transformer() -> tuple[Any, Feeds]:
    """Return a decoder of twelve blocks, batch 8."""
    import renom_onnx as rm

    data = sequence.tokens(np.random.default_rng(0), 8)
    x, y = rm.graph.DistributorElement(*data, batch_size=8).get_output_graphs()
    scores = sequence.decoder(12)(x)
    rows, labels = rm.graph.reshape(scores, [-1, scores.shape[2]]), rm.graph.reshape(y, [-1])
    loss = rm.graph.SoftmaxCrossEntropy()(rows, labels)
    return rm.converters.to_training_onnx(loss, rm.graph.Adam(0.001)), dict(zip("xy", data, strict=True))


def demo() -> tuple[Any, Feeds]:
    """Return the network of ``renom-onnx demo``, batch 50."""
    import renom_onnx as rm
    from renom_onnx.cli.demo import network, shapes

    x, y = shapes(50, np.random.default_rng(0))
    loss = rm.graph.SoftmaxCrossEntropy()(network()(x), y)
    return rm.converters.to_training_onnx(loss, rm.graph.Adam(0.005)), {"x": x, "y": y}


NETWORKS: dict[str, Callable[[], tuple[Any, Feeds]]] = {
    "ResNet-50": resnet,
    "12 blocks of a decoder": transformer,
    "demo": demo,
}


def opening(name: str, rounds: int) -> None:
    """Print the way of a network to its second step, each part at its fastest."""
    import renom_onnx as rm
    from renom_onnx.converters.tree import as_bytes

    start = time.perf_counter()
    model, feeds = NETWORKS[name]()
    parts = [time.perf_counter() - start]
    data = as_bytes(model)
    found: list[list[float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        session = rm.runtime.TrainingSession(data, device="cpu")
        times = [time.perf_counter()]
        for _ in range(2):
            float(session.step(feeds))
            times.append(time.perf_counter())
        found.append([end - begin for begin, end in zip([start, *times], times, strict=False)])
    parts += [min(column) for column in zip(*found, strict=True)]
    sizes = {state: session.read(state).nbytes for state in session._held()}
    once = sum(sizes[state] for state in session.held_once) / sum(sizes.values())
    print(row([name, *(f"{part:.2f}" for part in parts), f"{once:.0%}"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind, and sessions")
    options = parser.parse_args()
    print(f"machine: {machine()}\n")
    imports(options.rounds)
    print(f"\n{header(['network', 'file, s', 'session, s', 'first step, s', 'second step, s', 'held once'])}")
    for name in NETWORKS:
        opening(name, options.rounds)


if __name__ == "__main__":
    main()
