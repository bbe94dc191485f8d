"""Pictures of a training, with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renom_onnx.runtime.history import History


def plot_history(history: History, path: str | os.PathLike[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draw losses at the left and, if there are any, further series at the right."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("plot: matplotlib must be installed. Install it: pip install 'renom-onnx[plot]'.") from e
    figure = Figure(figsize=(9 if series else 5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if series else 1, squeeze=False)[0]
    curves: list[tuple[str, Sequence[float]]] = [("training", history.losses)]
    curves.append(("validation", history.validation_losses))
    for name, values in curves:
        if values:
            axes[0].plot(range(1, len(values) + 1), values, marker=".", label=name)
    axes[0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    axes[0].legend()
    for name, values in series.items():
        axes[1].plot(range(1, len(values) + 1), values, marker=".", label=name)
    if series:
        axes[1].set(xlabel="epoch")
        axes[1].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(os.fspath(path), dpi=120)
