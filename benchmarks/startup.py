"""``python -m benchmarks.startup``: how soon a program can begin: imports, and the first step of a large network.

Imports are measured as whole processes, taken in turn; an interpreter that does nothing is subtracted. The network is
ResNet-50 of ONNX's light set at 224 x 224, batch 1, made trainable with Adam.
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


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Print how long a call takes and return its result."""
    start = time.perf_counter()
    result = call()
    print(row([what, f"{time.perf_counter() - start:.2f}"]))
    return result


def network() -> None:
    """Print the way of a large network to its first steps."""
    import onnx

    import renom_onnx as rm
    from renom_onnx.converters.promotion import with_weights_of_constants
    from renom_onnx.converters.tree import as_bytes

    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    model, _ = with_weights_of_constants(onnx.load(light))
    print(f"\n{header(['ResNet-50', 's'])}")
    trainable = timed(
        "make_trainable",
        lambda: rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=rm.graph.Adam(0.0001)),
    )
    data = timed("as bytes", lambda: as_bytes(trainable))
    session = timed("TrainingSession", lambda: rm.runtime.TrainingSession(data, device="cpu"))
    shapes = {spec.name: [d if isinstance(d, int) else 1 for d in spec.shape or ()] for spec in session.feeds}
    name = next(name for name, shape in shapes.items() if len(shape) == 4)
    feeds = {name: np.zeros(shapes[name], np.float32), "labels": np.zeros(1, np.int64)}
    timed("first step, which opens the session", lambda: float(session.step(feeds)))
    timed("second step", lambda: float(session.step(feeds)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind")
    options = parser.parse_args()
    print(f"machine: {machine()}\n")
    imports(options.rounds)
    network()


if __name__ == "__main__":
    main()
