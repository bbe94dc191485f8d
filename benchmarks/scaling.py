"""``python -m benchmarks.scaling``: a model of the step on several ranks, checked here, and what it says of others.

With b rows on p ranks, a step takes

    T(p) = ceil(p / cores) C(b / p) + R(p),    R(p) = 2 (p - 1) l + 2 (p - 1) / p n / w

where C(r) is the step of one session on r rows, as measured here, and R the sum of n bytes of gradients around a ring
of links that take l seconds for a message and pass w bytes a second, fitted to sums on two ranks. Gradients are added
after all of them are computed, so that nothing of R is hidden behind computation. Where ranks share cores, all wait for
those of the core that has most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.devices import ONE, in_turn
from benchmarks.process import IDLE_S
from benchmarks.report import header, machine, row
from benchmarks.training_job import TrainingJob, environment, mpiexec

SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Float32 elements of the sums that are timed."""
LINKS = {
    "NVLink, 300 GB/s, 10 us": (10e-6, 300e9),
    "100 Gbit/s, 20 us": (20e-6, 12.5e9),
    "10 Gbit/s, 50 us": (50e-6, 1.25e9),
}
BACKWARD = 2 / 3
"""Share of the computation that a sum could hide behind: the gradients, of forward pass and gradients."""


@dataclass(frozen=True)
class Link:
    """What a message costs: seconds for each, and bytes a second."""

    latency_s: float
    bytes_a_second: float

    def sum_s(self, n_bytes: float, n: int) -> float:
        """Return the seconds of a sum around a ring of n."""
        return 2 * (n - 1) * self.latency_s + 2 * (n - 1) / n * n_bytes / self.bytes_a_second


def print_sums() -> None:
    """On two ranks: print the median seconds of the sums of all sizes, as JSON."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    found = []
    for size in SIZES:
        array, times = np.ones(size, np.float32), []
        for _ in range(60):
            comm.Barrier()
            start = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, array)
            times.append(time.perf_counter() - start)
        found.append(statistics.median(times))
    if comm.rank == 0:
        print(json.dumps(found))


def link_of_this_machine() -> Link:
    """Fit a link to the sums of two ranks, of which the smallest tells the latency and the largest the rest."""
    command = [*mpiexec(2), sys.executable, "-m", "mpi4py", "-m", "benchmarks.scaling", "--print-sums"]
    output = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, env=environment()
    ).stdout
    times = json.loads(output.strip().splitlines()[-1])
    slope = (times[-1] - times[0]) / (4 * (SIZES[-1] - SIZES[0]))
    link = Link(max(0.0, times[0] - slope * 4 * SIZES[0]) / 2, 1 / slope)
    print(header(["sum of", "measured us", "fitted us"]))
    for size, seconds in zip(SIZES, times, strict=True):
        print(row([f"{4 * size} bytes", f"{seconds * 1e6:.0f}", f"{link.sum_s(4 * size, 2) * 1e6:.0f}"]))
    return link


def check(batch_size: int, counts: list[int], rounds: int) -> None:
    """Print prediction and measurement for each number of ranks."""
    link = link_of_this_machine()
    cores = os.cpu_count() or 1
    sizes = sorted({batch_size, *(-(-batch_size // p) for p in counts)})
    alone = {size: TrainingJob(size) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size, job in alone.items():
            time.sleep(IDLE_S)
            seconds, _ = job.epoch()
            if number:
                times[size].append(seconds)
    for job in alone.values():
        job.close()
    step_s = {size: statistics.median(found) for size, found in times.items()}
    jobs = {ONE: TrainingJob(batch_size), **{str(p): TrainingJob(batch_size, n_ranks=p) for p in counts}}
    measured = {name: statistics.median(found) for name, found in in_turn(jobs, rounds).items()}
    n_bytes = 4 * gradient_count()
    print(f"\ngradients: {n_bytes} bytes; cores: {cores}\n")
    print(header(["batch", "ranks", "predicted ms", "measured ms", "measured / predicted"]))
    for p in counts:
        predicted = math.ceil(p / cores) * step_s[-(-batch_size // p)] + link.sum_s(n_bytes, p)
        found = measured[str(p)]
        figures = [f"{predicted * 1e3:.2f}", f"{found * 1e3:.2f}", f"{found / predicted:.2f}"]
        print(row([str(batch_size), str(p), *figures]))


def gradient_count() -> int:
    """Return the number of weights of the network that jobs train."""
    import renom_onnx as rm
    from examples.digits import network

    model = rm.converters.to_onnx(network(), inputs={"x": ("N", 1, 8, 8)})
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.dims)


def predict(name: str, rows: int, flops: float) -> None:
    """Print what the model says of a network of ONNX's light set on many devices, each with its own rows."""
    import onnx

    import renom_onnx as rm
    from renom_onnx.converters.promotion import with_weights_of_constants

    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    summary = rm.converters.summarize(with_weights_of_constants(model)[0])
    weights, work = summary.n_parameters, 3 * summary.flops * rows  # the gradients cost about two forward passes
    compute_s, n_bytes = work / flops, 4 * weights
    device = f"{compute_s * 1e3:.1f} ms on a device that sustains {flops / 1e12:.0f} TFLOP/s"
    print(f"\n{name}: {weights} weights, {work / 1e9:.0f} GFLOP a step of {rows} rows, {device}\n")
    names = ["devices", "joined by", "ms a step", "efficiency", "with float16 on the wire", "if sums were hidden"]
    print(header(names))
    for n, where in ((8, list(LINKS)[:1]), (64, list(LINKS)[1:])):
        for text in where:
            link = Link(*LINKS[text])
            whole, half = link.sum_s(n_bytes, n), link.sum_s(n_bytes / 2, n)
            hidden = compute_s + max(0.0, whole - BACKWARD * compute_s)
            shares = [compute_s / (compute_s + whole), compute_s / (compute_s + half), compute_s / hidden]
            print(row([str(n), text, f"{(compute_s + whole) * 1e3:.1f}", *(f"{share:.2f}" for share in shares)]))


def main(arguments: Any = None) -> None:
    """Measure, compare, and print what follows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=1024, help="rows of a step, of all ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="*", default=["resnet50", "vgg19"], help="of ONNX's light set")
    parser.add_argument("--rows", type=int, default=64, help="of a device, in the prediction")
    parser.add_argument("--flops", type=float, default=20e12, help="that a device sustains a second, in the prediction")
    parser.add_argument("--no-check", action="store_true", help="predict only")
    parser.add_argument("--print-sums", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.print_sums:
        print_sums()
        return
    print(f"machine: {machine()}\n")
    if not options.no_check:
        check(options.batch_size, options.ranks, options.rounds)
    for name in options.networks:
        predict(name, options.rows, options.flops)


if __name__ == "__main__":
    main()
