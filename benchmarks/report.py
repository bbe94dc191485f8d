"""What a run prints and writes: one table with the ratios first, a JSON file and a bar chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.process import Times

Found = dict[str, Times]
VERSIONS = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "torch", "jax")
TORCH = ("torch", "torch-fused", "torch-channels-last", "torch-compile")

COLUMNS = (
    ("torch / ours", "torch", "session"),
    ("best torch / ours", None, "session"),
    ("JAX / ours", "jax", "session"),
    ("ort-training / ours", "ort-training", "session"),
    ("ours / bare", "session", "bare"),
    ("executor / bare", "executor", "bare"),
)
INFERENCE = (("torch / ours", "infer-torch", "infer-session"), ("ours / bare", "infer-session", "infer-bare"))


def machine() -> str:
    """Return one line about this machine and the software."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    found = []
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}; {', '.join(found)}"


def ratio(found: Found, a: str | None, b: str) -> str:
    """Return the ratio of two medians; of PyTorch's best where no name is given."""
    if a is None:
        names = [name for name in TORCH if name in found]
        a = min(names, key=lambda name: found[name].median) if names else ""
    return f"{found[a].median / found[b].median:.2f}" if a in found and b in found else "-"


def milliseconds(times: Times | None) -> str:
    """Return ``median [10th, 90th percentile]``."""
    return "-" if times is None else f"{times.median * 1e3:.2f} [{times.p10 * 1e3:.2f}, {times.p90 * 1e3:.2f}]"


def training_header() -> str:
    names = [title for title, _, _ in COLUMNS]
    cells = ["workload", *names, "memory ours / torch", "floor / ours", "ours ms [p10, p90]", "torch ms", "disturbed"]
    return header(cells)


def training_row(name: str, found: Found, floor_s: float | None) -> str:
    cells = [name, *(ratio(found, a, b) for _, a, b in COLUMNS)]
    ours, torch = found.get("session"), found.get("torch")
    cells.append(f"{ours.memory_mb / torch.memory_mb:.2f}" if ours and torch else "-")
    cells.append(f"{floor_s / ours.median:.2f}" if ours and floor_s else "-")
    cells += [milliseconds(ours), milliseconds(torch), str(sum(times.n_disturbed for times in found.values()))]
    return row(cells)


def inference_header() -> str:
    return header(["workload", *(title for title, _, _ in INFERENCE), "ours ms [p10, p90]", "torch ms"])


def inference_row(name: str, found: Found) -> str:
    cells = [name, *(ratio(found, a, b) for _, a, b in INFERENCE)]
    return row([*cells, milliseconds(found.get("infer-session")), milliseconds(found.get("infer-torch"))])


def header(cells: list[str]) -> str:
    return f"{row(cells)}\n{row(['---'] * len(cells))}"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_json(path: Path, facts: Mapping[str, Any], results: Mapping[str, Found]) -> None:
    """Write every median, percentile and peak."""
    tables = {name: {peer: times.as_dict() for peer, times in found.items()} for name, found in results.items()}
    path.write_text(json.dumps({**facts, "results": tables}, indent=1) + "\n")


def draw(path: Path, title: str, results: Mapping[str, Found]) -> None:
    """Draw the time of every peer over ours; longer bars are slower peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = ["torch", *(name for name in TORCH[1:]), "jax", "ort-training"]
    shown = {name: found for name, found in results.items() if "session" in found}
    peers = [peer for peer in peers if any(peer in found for found in shown.values())]
    height = 0.8 / max(1, len(peers))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.75 * len(shown)), layout="constrained")
    for k, peer in enumerate(peers):
        places, widths = [], []
        for i, found in enumerate(shown.values()):
            if peer in found:
                places.append(i + (k - (len(peers) - 1) / 2) * height)
                widths.append(found[peer].median / found["session"].median)
        bars = axes.barh(places, widths, height, label=peer)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set_xlabel("time of a training step / ours (beyond the line: slower than this library)")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
