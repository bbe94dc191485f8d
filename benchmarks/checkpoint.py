"""``python -m benchmarks.checkpoint``: what ``checkpoint=True`` saves of memory, and what it costs of time.

Every setting is measured in processes of its own, because a peak of resident memory never falls; they are taken in
turn. The losses of both settings must agree to five digits.
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

from benchmarks.memory import peak_mb
from benchmarks.report import header, machine, row

N_LOSSES = 2
"""First losses that are compared: a session may round otherwise in the two, which deep networks make large."""


def dense_blocks(n_blocks: int) -> tuple[list[Any], tuple[int, ...]]:
    """Return blocks of two dense layers, and the shape of a batch."""
    from renom_onnx import graph as g

    size = 256
    return [g.Sequential([g.Dense(size), g.Gelu(), g.Dense(size), g.Tanh()]) for _ in range(n_blocks)], (4096, size)


def convolution_blocks(n_blocks: int) -> tuple[list[Any], tuple[int, ...]]:
    """Return blocks of two convolutions with batch normalization, and the shape of a batch."""
    from renom_onnx import graph as g

    def layers() -> list[Any]:
        return [g.Conv(16, padding=1), g.BatchNormalize(), g.Relu()]

    return [g.Sequential([*layers(), *layers()]) for _ in range(n_blocks)], (64, 16, 32, 32)


def transformer_blocks(n_blocks: int) -> tuple[list[Any], tuple[int, ...]]:
    """Return blocks of attention and two dense layers, and the shape of a batch."""
    from benchmarks.workloads.sequence import LENGTH, SIZE, block

    return [block(causal=False) for _ in range(n_blocks)], (16, LENGTH, SIZE)


NETWORKS = {"dense": dense_blocks, "convolution": convolution_blocks, "transformer": transformer_blocks}


def measure(network: str, n_blocks: int, steps: int, threads: int, *, checkpoint: bool) -> dict[str, Any]:
    """Return the losses, the seconds of steps and the peak in MB of this process."""
    import renom_onnx as rm

    g, rng = rm.graph, np.random.default_rng(0)
    blocks, shape = NETWORKS[network](n_blocks)
    for block in blocks:
        block.checkpoint = checkpoint
    x, y = rng.normal(size=shape).astype(np.float32), rng.integers(0, 10, shape[0])
    loss = g.SoftmaxCrossEntropy()(g.Sequential([*blocks, g.Flatten(), g.Dense(10)])(x), y)
    model = rm.converters.to_training_onnx(loss, g.Sgd(0.001))
    session = rm.runtime.TrainingSession(model, device="cpu", threads=threads)
    losses = [float(session.step({"x": x, "y": y})) for _ in range(N_LOSSES)]
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        float(session.step({"x": x, "y": y}))
        seconds.append(time.perf_counter() - start)
    return {"losses": losses, "seconds": seconds, "peak_mb": peak_mb()}


def measured(network: str, options: argparse.Namespace, *, checkpoint: bool) -> dict[str, Any]:
    """Measure in another process."""
    command = [sys.executable, "-m", "benchmarks.checkpoint", network, "--blocks", str(options.blocks)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads), f"--one={int(checkpoint)}"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of a network, each of them with checkpoint=True")
    parser.add_argument("--steps", type=int, default=5, help="steps of a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each setting, in turn")
    parser.add_argument("--threads", type=int, default=2, help="of every process")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        (network,) = options.networks
        found = measure(network, options.blocks, options.steps, options.threads, checkpoint=bool(options.one))
        print(json.dumps(found))
        return
    print(f"machine: {machine()}\nthreads: {options.threads}\nblocks: {options.blocks}\n")
    print(header(["network", "peak MB", "with checkpoint", "ratio", "step ms", "with checkpoint", "ratio"]))
    for network in options.networks:
        peaks: dict[bool, list[float]] = {False: [], True: []}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        losses = []
        for _ in range(options.rounds):
            for checkpoint in (False, True):
                found = measured(network, options, checkpoint=checkpoint)
                peaks[checkpoint].append(found["peak_mb"])
                seconds[checkpoint] += found["seconds"]
                losses.append(found["losses"])
        if not np.allclose(losses, losses[0], rtol=1e-5):
            raise SystemExit(f"benchmarks: the losses must not depend on checkpoint, got {losses}")
        cells = [network]
        for kept, again, form in (
            (*map(statistics.median, peaks.values()), "{:.0f}"),
            (*(1e3 * statistics.median(found) for found in seconds.values()), "{:.1f}"),
        ):
            cells += [form.format(kept), form.format(again), f"{again / kept:.2f}"]
        print(row(cells), flush=True)


if __name__ == "__main__":
    main()
