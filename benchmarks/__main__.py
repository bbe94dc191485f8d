"""``python -m benchmarks``: training steps and inference side by side, as ratios of medians.

Every contender runs in a process of its own and takes its blocks in turn, with idle gaps, because onnxruntime's workers
spin for about 50 ms after a run and would disturb a neighbour. All use the same number of threads, start from the same
weights and take the same batches; the first losses must agree to five digits before anything is timed. A block
during which other programs used more than an eighth of a core is taken again.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.floor import gemm_rate
from benchmarks.process import THIS_PYTHON, ContenderError, Process, Times, interleave, python_of
from benchmarks.workloads import PRECISIONS, WORKLOADS, Workload

PEERS = (
    "session",
    "bare",
    "executor",
    "torch",
    "torch-fused",
    "torch-channels-last",
    "torch-compile",
    "torch-cuda-graph",
    "jax",
    "ort-training",
)
INFERENCE = ("infer-session", "infer-bare", "infer-torch")
WITHOUT_CUDA = {"bare", "jax", "ort-training", "infer-bare"}
ORT_TRAINING = ".venv-ort-training"
"""Environment of onnxruntime-training-cpu, which needs another NumPy; ``make bench`` makes it."""
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 2e-2}
"""Of the first losses: five digits, or what the precision has."""
INFERENCE_STEPS = 3
"""Inferences that take about as long as a training step."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    options = _parse(arguments)
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": report.machine(),
        "threads": options.threads,
        "device": options.device,
        "precision": options.precision,
        "command": f"python -m benchmarks {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip(),
    }
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    rate = gemm_rate(options.threads) if options.device == "cpu" else None
    if rate:
        facts["matrix product"] = f"{rate / 1e9:.0f} GFLOP/s"
        print(f"matrix product: {facts['matrix product']}")
    print(f"\n{report.inference_header() if options.inference else report.training_header()}", flush=True)
    results: dict[str, dict[str, Times]] = {}
    floors: dict[str, float | None] = {}
    notes: list[str] = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        found, refused = measure(workload, options)
        results[name], floors[name] = found, None if options.inference else _floor_s(workload, rate)
        notes += [f"{name}: {peer} cannot take part: {why}" for peer, why in refused.items()]
        if options.inference:
            print(report.inference_row(name, found), flush=True)
        else:
            print(report.training_row(name, found, floors[name]), flush=True)
    print("\n" + "\n".join(notes))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report.write_json(options.out / "benchmark.json", facts, results)
        text = report.markdown(facts, results, notes, floors, is_inference=options.inference)
        (options.out / "benchmark.md").write_text(text)
        report.draw(options.out / "benchmark.png", facts, results, is_inference=options.inference)
        print(f"Wrote {options.out}.")
    return 0


def measure(workload: Workload, options: argparse.Namespace) -> tuple[dict[str, Times], dict[str, str]]:
    """Return the times of those who can take part, and why the others cannot."""
    refused: dict[str, str] = {}
    processes: dict[str, Process] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.write(folder, options.precision)
        try:
            for peer in options.peers:
                why = _refusal(peer, workload, options.device)
                if why is None:
                    python = THIS_PYTHON if peer != "ort-training" else python_of(ORT_TRAINING) or ""
                    place = options.device, options.precision
                    process = Process(peer, workload.name, folder, options.threads, place, python)
                    why = process.refusal
                    if why is None:
                        processes[peer] = process
                if why is not None:
                    refused[peer] = why
            refused |= _leave_out(processes, TOLERANCES[options.precision])
            steps = options.steps or workload.steps * (INFERENCE_STEPS if options.inference else 1)
            return interleave(processes, options.rounds, steps), refused
        finally:
            for process in processes.values():
                process.close()


def _refusal(peer: str, workload: Workload, device: str) -> str | None:
    if device != "cpu" and peer in WITHOUT_CUDA:
        return "it is measured on the CPU only"
    if device == "cpu" and peer == "torch-cuda-graph":
        return "there is no GPU"
    if peer == "ort-training" and python_of(ORT_TRAINING) is None:
        return f"{ORT_TRAINING} is not installed (make bench makes it)"
    if peer == "torch-channels-last" and not workload.is_image:
        return "its input is no image"
    return workload.unsupported.get(peer)


def _leave_out(processes: dict[str, Process], tolerance: float) -> dict[str, str]:
    """Take those out who fail at their first steps or whose losses are not those of the first; return why."""
    refused: dict[str, str] = {}
    expected: list[float] | None = None
    for peer, process in list(processes.items()):
        try:
            losses = process.ask("losses")
        except ContenderError as error:
            refused[peer] = str(error)
        else:
            expected = expected or losses
            if not _agree(expected, losses, tolerance):
                refused[peer] = f"it does not train the same model, its losses are {losses}, not {expected}"
        if peer in refused:
            processes.pop(peer).close()
    return refused


def _agree(expected: list[float], losses: list[float], tolerance: float) -> bool:
    """Whether losses are the same; the executor gives the mean of an epoch."""
    if len(losses) == 1:
        expected = [sum(expected) / len(expected)]
    pairs = zip(expected, losses, strict=True)
    return all(abs(a - b) <= tolerance * max(1.0, abs(a)) for a, b in pairs)


def _floor_s(workload: Workload, rate: float | None) -> float | None:
    if rate is None:
        return None
    from benchmarks.contenders.torch_steps import flops

    return flops(workload) / rate


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "workloads", nargs="*", help=f"of {' '.join(WORKLOADS)}; default: all, on the CPU those that it can bear"
    )
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, *INFERENCE], help="default: all that can take part")
    parser.add_argument("--inference", action="store_true", help="measure inference instead of training steps")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--steps", type=int, default=0, help="steps of a block; default: about a second's")
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of products, on a GPU")
    parser.add_argument("--out", type=Path, help="folder for benchmark.md, benchmark.json and benchmark.png")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and options.precision != "float32":
        parser.error(f"precision must be float32 on the CPU, got {options.precision}.")
    options.workloads = options.workloads or [
        name for name, workload in WORKLOADS.items() if options.device != "cpu" or not workload.needs_gpu
    ]
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"a workload must be one of {', '.join(WORKLOADS)}, got {unknown[0]}.")
    options.peers = options.peers or list(INFERENCE if options.inference else PEERS)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
