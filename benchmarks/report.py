"""What a run prints and writes: one table with the ratios first, a JSON file and a bar chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.process import Times

Found = dict[str, Times]
VERSIONS = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "torch", "jax")
TORCH = ("torch", "torch-fused", "torch-channels-last", "torch-compile", "torch-cuda-graph")

COLUMNS = (
    ("torch / ours", "torch", "session"),
    ("best torch / ours", None, "session"),
    ("JAX / ours", "jax", "session"),
    ("ort-training / ours", "ort-training", "session"),
    ("ours / bare", "session", "bare"),
    ("executor / bare", "executor", "bare"),
)
TRAINING_PEERS = (*TORCH, "jax", "ort-training")
INFERENCE_PEERS = ("infer-torch",)
LONGEST = 6.0
"""Where bars end; the number says how long a longer one would be."""
WORDS = (
    "Ratios of medians; above 1 the other is slower, or needs more memory. Every contender runs in a process of its",
    "own and takes its blocks in turn. All have the same threads, weights and batches, and their first losses agree to",
    "five digits. A block that other programs disturbed was taken again; `disturbed` counts those that stayed so.",
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


def markdown(
    facts: Mapping[str, Any],
    results: Mapping[str, Found],
    notes: Sequence[str],
    floors: Mapping[str, float | None],
    *,
    is_inference: bool,
) -> str:
    """Return the page of a run: what it ran on, the ratios, then what they were made of."""
    kind = "Inference" if is_inference else "Training steps"
    lines = [f"# {kind}, {facts['date']}", "", f"Printed by `{facts['command']}`.", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key not in ("date", "command")]
    lines += ["", *WORDS, "", "![Ratios](benchmark.png)", ""]
    if is_inference:
        lines += [inference_header(), *(inference_row(name, found) for name, found in results.items())]
    else:
        lines += [training_header(), *(training_row(name, found, floors[name]) for name, found in results.items())]
    peers = list(dict.fromkeys(peer for found in results.values() for peer in found))
    lines += ["", "Milliseconds, median [10th, 90th percentile]:", "", header(["workload", *peers])]
    lines += [row([name, *(milliseconds(found.get(peer)) for peer in peers)]) for name, found in results.items()]
    lines += ["", "Peak resident memory in MB:", "", header(["workload", *peers])]
    for name, found in results.items():
        lines.append(row([name, *(f"{found[peer].memory_mb:.0f}" if peer in found else "-" for peer in peers)]))
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def draw(path: Path, facts: Mapping[str, Any], results: Mapping[str, Found], *, is_inference: bool) -> None:
    """Draw time and memory of every peer over ours; longer bars are worse than this library.

    The thin lines reach from the 10th to the 90th percentile of the peer's times.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ours, peers = ("infer-session", INFERENCE_PEERS) if is_inference else ("session", TRAINING_PEERS)
    shown = {name: found for name, found in results.items() if ours in found}
    peers = tuple(peer for peer in peers if any(peer in found for found in shown.values()))
    size = (11, 1.4 + max(1, len(shown)) * (0.25 + 0.16 * len(peers)))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=True, width_ratios=[3, 2])
    height = 0.86 / max(1, len(peers))
    for axes, quantity in ((left, "time"), (right, "memory")):
        for i, found in enumerate(shown.values()):
            present = [peer for peer in peers if peer in found]
            for k, peer in enumerate(present):
                place = i + (k - (len(present) - 1) / 2) * height
                _bar(axes, place, height, ratios(found[peer], found[ours], quantity), f"C{peers.index(peer)}")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlim(0, LONGEST * 1.12)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    left.set_xlabel(f"time of {'an inference' if is_inference else 'a training step'} / ours")
    right.set_xlabel("peak memory / ours")
    left.set_yticks(range(len(shown)), list(shown))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=f"C{k}") for k in range(len(peers))]
    figure.legend(handles, peers, loc="outside upper center", ncols=max(1, len(peers)), frameon=False, fontsize=9)
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}, {facts['device']}"
    figure.supxlabel(f"{str(facts['machine']).split(', Python')[0]}, {threads}, {facts['date']}", fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def ratios(peer: Times, ours: Times, quantity: str) -> tuple[float, float, float]:
    """Return the 10th percentile, median and 90th percentile of a peer's time over our median; its memory thrice."""
    if quantity == "memory":
        return (peer.memory_mb / ours.memory_mb,) * 3
    return peer.p10 / ours.median, peer.median / ours.median, peer.p90 / ours.median


def _bar(axes: Any, place: float, height: float, found: tuple[float, float, float], color: str) -> None:
    low, middle, high = (min(ratio, LONGEST) for ratio in found)
    axes.barh(place, middle, height, color=color)
    axes.plot([low, high], [place, place], color="black", linewidth=0.8)
    text = f"{found[1]:.1f}" if found[1] < LONGEST else f"{found[1]:.1f} →"
    axes.text(max(middle, high) + 0.04, place, text, va="center", fontsize=6.5)
