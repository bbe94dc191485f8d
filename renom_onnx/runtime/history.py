"""What an executor returns: the losses of its epochs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: 0 for the first.
        loss: of training, as the loss reduces it.
        validation_loss: None without validation data.
        n_steps: steps taken so far.
        metrics: of the validation data, by name.
    """

    number: int
    loss: float
    validation_loss: float | None
    n_steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class History:
    """Losses by epoch.

    Attributes:
        losses: of training.
        validation_losses: of the validation data, empty without.
        metrics: of the validation data, lists by name.

    Example:
        >>> history = History()
        >>> history.add(0.5, None, 10).number
        0
        >>> history.losses
        [0.5]
    """

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self,
        loss: float,
        validation_loss: float | None,
        n_steps: int,
        metrics: Mapping[str, float] | None = None,
    ) -> Epoch:
        """Append an epoch and return it."""
        epoch = Epoch(len(self.losses), loss, validation_loss, n_steps, dict(metrics or {}))
        for name, value in epoch.metrics.items():
            self.metrics.setdefault(name, []).append(value)
        self.losses.append(loss)
        if validation_loss is not None:
            self.validation_losses.append(validation_loss)
        return epoch

    def take(self, other: History) -> None:
        """Become a copy of another history."""
        self.losses[:] = other.losses
        self.validation_losses[:] = other.validation_losses
        self.metrics.clear()
        self.metrics.update({name: list(values) for name, values in other.metrics.items()})

    def plot(self, path: str | os.PathLike[str], **series: Any) -> None:
        """Draw the losses, the metrics and further series by name, as a PNG.

        Raises:
            ImportError: matplotlib is not installed; it comes with renom-onnx[plot].
        """
        from renom_onnx.runtime.plot import plot_history

        plot_history(self, path, {**self.metrics, **series})
