"""``python -m benchmarks.step_profile WORKLOAD ...``: where the time of a step goes, by operator.

Runs the step that `TrainingSession` runs under onnxruntime's profiler, which itself costs some microseconds a node, and
takes the minimum of each node over all steps. Prints a table for each workload; the floor is that of the products and
convolutions at the rate of this machine's matrix product.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.floor import gemm_rate
from benchmarks.report import header, machine, row
from benchmarks.workloads import WORKLOADS, Workload

PRODUCTS = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}


def profile(workload: Workload, threads: int, steps: int) -> list[tuple[str, str, float]]:
    """Return name, operator and seconds of each node of a step; control flow counts with what is in it."""
    import onnxruntime

    import renom_onnx as rm

    make_options, make_session = onnxruntime.SessionOptions, onnxruntime.InferenceSession
    sessions: list[Any] = []

    def profiled() -> Any:
        options = make_options()
        options.enable_profiling = True
        return options

    def session_of(*args: Any, **kwargs: Any) -> Any:
        sessions.append(make_session(*args, **kwargs))
        return sessions[-1]

    with tempfile.TemporaryDirectory() as folder:
        workload.write(Path(folder))
        x, y = workload.batches()[0]
        here = Path.cwd()
        os.chdir(folder)  # where the profiler writes
        try:
            with (
                mock.patch.object(onnxruntime, "SessionOptions", profiled),
                mock.patch.object(onnxruntime, "InferenceSession", session_of),
            ):
                training = rm.runtime.TrainingSession(Path(folder) / f"{workload.name}.train.onnx", threads=threads)
                for _ in range(steps):
                    training.step({"x": x, "y": y})
            files = [session.end_profiling() for session in sessions]
            return max((_nodes(Path(file)) for file in files), key=len)  # the others are probes of one node
        finally:
            os.chdir(here)


def _nodes(file: Path) -> list[tuple[str, str, float]]:
    least: dict[tuple[str, str], float] = {}
    for event in json.loads(file.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            least[key] = min(event["dur"] * 1e-6, least.get(key, float("inf")))
    return [(name, op_type, seconds) for (name, op_type), seconds in least.items()]


def table(name: str, nodes: list[tuple[str, str, float]], floor_s: float, most: int) -> str:
    """Return a table of operators, the dearest first, those with bodies left out as their nodes are there."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for _, op_type, seconds in nodes:
        if op_type not in ("If", "Loop", "Scan"):
            by_type[op_type].append(seconds)
    total = sum(map(sum, by_type.values()))
    products = sum(sum(seconds) for op_type, seconds in by_type.items() if op_type in PRODUCTS)
    lines = [
        f"{name}: {total * 1e3:.2f} ms in {sum(map(len, by_type.values()))} nodes, of which products "
        f"{products * 1e3:.2f} ms; at the rate of the matrix product {floor_s * 1e3:.2f} ms.",
        "",
        header(["operator", "nodes", "us", "share"]),
    ]
    for op_type, seconds in sorted(by_type.items(), key=lambda item: -sum(item[1]))[:most]:
        spent = sum(seconds)
        lines.append(row([op_type, str(len(seconds)), f"{spent * 1e6:.0f}", f"{spent / total:.0%}"]))
    return "\n".join(lines)


def main() -> None:
    from benchmarks.contenders.torch_steps import flops

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=sorted(WORKLOADS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--most", type=int, default=12, help="operators to print")
    arguments = parser.parse_args()
    print(f"{machine()}; {arguments.threads} threads")
    rate = gemm_rate(arguments.threads)
    for name in arguments.workloads:
        nodes = profile(WORKLOADS[name], arguments.threads, arguments.steps)
        print(f"\n{table(name, nodes, flops(WORKLOADS[name]) / rate, arguments.most)}")


if __name__ == "__main__":
    main()
