"""Workloads: one model each, written once for us and once for PyTorch, with the same weights and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A model, a batch and an optimizer.

    Attributes:
        units: sizes of the dense layers, input first; Relu between them.
        batch_size: rows of a batch.
        optimizer: "sgd" or "adam".
    """

    name: str
    units: tuple[int, ...]
    batch_size: int
    optimizer: str
    n_batches: int = 16

    def data(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return rows and labels for some batches."""
        rng = np.random.default_rng(0)
        rows = self.batch_size * self.n_batches
        x = rng.normal(size=(rows, self.units[0])).astype(np.float32)
        return x, rng.integers(0, self.units[-1], rows)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("mlp-small-sgd", (784, 128, 10), 32, "sgd"),
        Workload("mlp-small-adam", (784, 128, 10), 32, "adam"),
        Workload("mlp-large-sgd", (784, 512, 512, 10), 128, "sgd"),
        Workload("mlp-large-adam", (784, 512, 512, 10), 128, "adam"),
    )
}

RATES = {"sgd": 0.01, "adam": 0.001}


def build(workload: Workload) -> tuple[Any, Any, Any]:
    """Return model, loss element and optimizer of renom_onnx."""
    import renom_onnx as rm

    x, y = rm.graph.DistributorElement(*workload.data(), workload.batch_size, shuffle=False).get_output_graphs()
    layers: list[Any] = []
    for units in workload.units[1:]:
        layers += [rm.graph.Dense(units), rm.graph.Relu()]
    model = rm.graph.Sequential(layers[:-1])
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    rate = RATES[workload.optimizer]
    return model, loss, rm.graph.Sgd(rate) if workload.optimizer == "sgd" else rm.graph.Adam(rate)


def write(workload: Workload, folder: Path) -> None:
    """Write the trainable file that every contender starts from."""
    import renom_onnx as rm

    _, loss, optimizer = build(workload)
    rm.export_training(loss, optimizer, folder / f"{workload.name}.onnx")


Step = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], float]
