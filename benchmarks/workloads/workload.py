"""What a workload is: one model, written for us, for PyTorch and for JAX, with the same weights and data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Step = Callable[[Array, Array], Any]
"""Takes a batch; returns the loss of a training step, or the scores of an inference."""
Weights = dict[str, Array]

N_LOSSES = 3
"""First losses that are compared before anything is timed; fewer where there are fewer batches."""
RATES = {"sgd": 0.01, "adam": 0.001}
PRECISIONS = ("float32", "tf32", "bfloat16")
"""Of products: float32; float32 with ten bits of mantissa; bfloat16, with weights and state in float32."""
BFLOAT16_OPSET = 22


@dataclass(frozen=True)
class Workload:
    """A model, a batch and an optimizer.

    Attributes:
        name: on the command line and in the table.
        batch_size: rows of a batch.
        optimizer: "sgd" or "adam".
        data: called with a generator and a number of rows, returns x and y.
        model: returns our layer.
        torch: called with torch, returns a module whose leaves come in the order of our layers.
        jax: called with parameters by our names and x, returns the scores.
        is_image: whether channels_last is worth a try.
        n_batches: distinct batches, which are taken in turn.
        steps: of a block, so that a block takes about a second.
        unsupported: peers that cannot run it, and why.
        needs_gpu: whether it is too much for a CPU to be measured with the others.
    """

    name: str
    batch_size: int
    optimizer: str
    data: Callable[[np.random.Generator, int], tuple[Array, Array]]
    model: Callable[[], Any]
    torch: Callable[[Any], Any]
    jax: Callable[[Any, Any], Any]
    is_image: bool = False
    n_batches: int = 4
    steps: int = 20
    unsupported: dict[str, str] = field(default_factory=dict)
    needs_gpu: bool = False

    @property
    def n_losses(self) -> int:
        """How many first losses are compared, each of a batch of its own."""
        return min(N_LOSSES, self.n_batches)

    def batches(self) -> list[tuple[Array, Array]]:
        """Return the batches."""
        x, y = self.data(np.random.default_rng(0), self.batch_size * self.n_batches)
        size = self.batch_size
        return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]

    def elements(
        self, n_batches: int | None = None, *, shuffle: bool = False, precision: str = "float32"
    ) -> tuple[Any, Any, Any]:
        """Return model, loss element and optimizer of renom_onnx, connected to a distributor of the data.

        Args:
            n_batches: of an epoch; default: those of `batches`, of which fewer are the first.
            shuffle: whether the distributor deals the rows in another order in every epoch.
            precision: see `PRECISIONS`.
        """
        import renom_onnx as rm

        rm.set_seed(0)
        n_batches = n_batches or self.n_batches
        data = self.data(np.random.default_rng(0), self.batch_size * max(n_batches, self.n_batches))
        rows = [array[: self.batch_size * n_batches] for array in data]
        x, y = rm.graph.DistributorElement(*rows, batch_size=self.batch_size, shuffle=shuffle).get_output_graphs()
        model = self.model()
        is_half = precision == "bfloat16"
        with rm.graph.autocast("bfloat16", opset=BFLOAT16_OPSET) if is_half else contextlib.nullcontext():
            scores = model(x)
            if len(scores.shape) == 3:  # a token is a row
                scores, y = rm.graph.reshape(scores, [-1, scores.shape[2]]), rm.graph.reshape(y, [-1])
            loss = rm.graph.SoftmaxCrossEntropy()(scores, y)
        rate = RATES[self.optimizer]
        return model, loss, rm.graph.Sgd(rate) if self.optimizer == "sgd" else rm.graph.Adam(rate)

    def write(self, folder: Path, precision: str = "float32") -> None:
        """Write the trainable file that every contender starts from, and the inference model."""
        import renom_onnx as rm

        model, loss, optimizer = self.elements(precision=precision)
        rm.export_training(loss, optimizer, folder / f"{self.name}.train.onnx")
        rm.export(model, folder / f"{self.name}.onnx")
