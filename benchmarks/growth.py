"""``python -m benchmarks.growth``: how cost grows with depth, with the batch and with the number of parameters.

Three ladders of networks, each of which doubles one thing and leaves the others: layers of one width, rows of a batch
for one network, and layers again, so wide and for so few rows that the parameters are what costs. Measured are the
building of the tree, its export, the opening of a session with its first step, and a step. For each the exponent of
growth is fitted, k in cost = c n^k: 1 is linear. Where parameters leave the processor's cache, a step costs more once.
Prints a table; ``--out FOLDER`` draws it too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.report import header, machine, row

STEPS = 9
PARTS = ("build", "export", "open", "step")
"""What is measured: seconds each."""

LADDERS = {
    "depth": [(n, {"layers": n}) for n in (8, 16, 32, 64, 128, 256)],
    "batch": [(n, {"rows": n, "layers": 4, "width": 256}) for n in (64, 128, 256, 512, 1024, 2048)],
    "parameters": [(n * 512 * 513, {"layers": n, "width": 512, "rows": 2}) for n in (2, 4, 8, 16, 32, 64)],
}
"""What grows: its amount, and the network."""
CONSIDERED = {"depth": PARTS, "batch": ("step",), "parameters": ("export", "open", "step")}
"""Which parts of the cost a ladder is about; the others do not depend on it or are dominated by something else."""


def measure(layers: int = 8, width: int = 32, rows: int = 32) -> dict[str, float]:
    """Return the seconds of each part for a perceptron, on one thread."""
    import renom_onnx as rm

    g = rm.graph
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)).astype(np.float32), rng.integers(0, width, rows)
    model = g.Sequential([layer for _ in range(layers) for layer in (g.Dense(width), g.Relu())])
    model(x)  # draws the parameters
    found = {}
    start = time.perf_counter()
    loss = g.SoftmaxCrossEntropy()(model(x), y).backward()
    found["build"] = time.perf_counter() - start
    start = time.perf_counter()
    file = rm.converters.to_training_onnx(loss, g.Sgd(0.01))
    found["export"] = time.perf_counter() - start
    start = time.perf_counter()
    session = rm.runtime.TrainingSession(file, device="cpu", threads=1)
    float(session.step({"x": x, "y": y}))
    found["open"] = time.perf_counter() - start
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        float(session.step({"x": x, "y": y}))
        seconds.append(time.perf_counter() - start)
    found["step"] = min(seconds)
    return found


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Return k of the c n^k that is nearest to the larger half of the costs, in logarithms.

    The smaller half tells of what a call costs that does nothing.

    Example:
        >>> round(exponent([1, 2, 4, 8], [5, 5, 10, 20]), 2)
        1.0
    """
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def measured(network: Mapping[str, int]) -> dict[str, float]:
    """Measure in a process of its own, the second network of it, so that nothing is imported or inferred anew."""
    program = f"import json; from benchmarks.growth import measure; measure(); print(json.dumps(measure(**{network})))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def climb(ladder: str, rounds: int) -> dict[str, list[float]]:
    """Return the medians over rounds of each part, in the order of the ladder."""
    costs: dict[str, list[float]] = {part: [] for part in CONSIDERED[ladder]}
    for _, network in LADDERS[ladder]:
        found = [measured(network) for _ in range(rounds)]
        for part, seconds in costs.items():
            seconds.append(statistics.median(one[part] for one in found))
    return costs


def draw(path: Path, results: Mapping[str, Mapping[str, list[float]]], title: str) -> None:
    """Draw each ladder in logarithms, with a line of slope 1 beside each curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(4.2 * len(results), 4), layout="constrained")
    for axes, (ladder, costs) in zip(np.atleast_1d(panels), results.items(), strict=True):
        sizes = [float(size) for size, _ in LADDERS[ladder]]
        for part, seconds in costs.items():
            color = f"C{PARTS.index(part)}"
            milliseconds = [1e3 * s for s in seconds]
            label = f"{part}: n^{exponent(sizes, seconds):.2f}"
            axes.plot(sizes, milliseconds, "o-", color=color, label=label, markersize=4)
            linear = [milliseconds[-1] * size / sizes[-1] for size in sizes]
            axes.plot(sizes, linear, ":", color=color, linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel({"depth": "layers", "batch": "rows of a batch"}.get(ladder, ladder))
        axes.legend(frameon=False, fontsize=9)
        axes.grid(linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("ms (dotted: linear)")
    figure.supxlabel(title, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ladders", nargs="*", default=list(LADDERS), help=f"default: {' '.join(LADDERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each network")
    parser.add_argument("--out", type=Path, help="folder for growth.json and growth.png")
    options = parser.parse_args()
    print(f"machine: {machine()}\nthreads: 1")
    results = {}
    for ladder in options.ladders:
        costs = results[ladder] = climb(ladder, options.rounds)
        print(f"\n{header([ladder, *(f'{part} ms' for part in costs)])}")
        for i, (size, _) in enumerate(LADDERS[ladder]):
            print(row([f"{size:,}", *(f"{seconds[i] * 1e3:.2f}" for seconds in costs.values())]))
        sizes = [float(size) for size, _ in LADDERS[ladder]]
        fits = [f"{exponent(sizes, seconds):.2f}" for seconds in costs.values()]
        print(row(["exponent of growth", *fits]), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "growth.json").write_text(
            json.dumps({"machine": machine(), "seconds": results}, indent=1) + "\n"
        )
        draw(options.out / "growth.png", results, machine().split(", Python")[0] + ", 1 thread")


if __name__ == "__main__":
    main()
