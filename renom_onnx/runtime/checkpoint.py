"""Checkpoints of an executor: a trainable file that also says how far the training is."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renom_onnx.converters.export import write_file
from renom_onnx.errors import ConversionError
from renom_onnx.runtime.history import History

if TYPE_CHECKING:
    from renom_onnx.runtime.executor import TrainingExecutor


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: of the distributor, whose order of the rows it decides.
        batch: steps taken in this epoch.
        n_steps: steps taken in all.
        loss_sum, n_rows: of the steps of this epoch, see `renom_onnx.runtime.feeding.EpochLoss`.
        history: losses of the epochs before.
        is_end: whether a callback ended the training.
    """

    epoch: int = 0
    batch: int = 0
    n_steps: int = 0
    loss_sum: float = 0.0
    n_rows: int = 0
    history: History = field(default_factory=History)
    is_end: bool = False

    def metadata(self) -> dict[str, str]:
        """Return entries of ``metadata_props``, from which `of` makes the same numbers."""
        rest = {
            "n_steps": self.n_steps,
            "loss_sum": self.loss_sum,
            "n_rows": self.n_rows,
            "losses": self.history.losses,
            "validation_losses": self.history.validation_losses,
            "metrics": self.history.metrics,
            "is_end": self.is_end,
        }
        return {"epoch": str(self.epoch), "batch": str(self.batch), "history": json.dumps(rest)}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Progress:
        """Return what the metadata of a file say; of one that no executor wrote, that nothing was done.

        Raises:
            ConversionError: they are broken.
        """
        try:
            rest = json.loads(metadata.get("history", "{}"))
            history = History(
                [float(loss) for loss in rest.get("losses", ())],
                [float(loss) for loss in rest.get("validation_losses", ())],
                {str(name): [float(v) for v in values] for name, values in rest.get("metrics", {}).items()},
            )
            numbers: dict[str, Any] = {name: int(metadata.get(name, 0)) for name in ("epoch", "batch")}
            numbers |= {name: int(rest.get(name, 0)) for name in ("n_steps", "n_rows")}
            loss_sum, is_end = float(rest.get("loss_sum", 0.0)), bool(rest.get("is_end", False))
            return cls(loss_sum=loss_sum, history=history, is_end=is_end, **numbers)
        except (ValueError, TypeError, AttributeError) as e:
            raise ConversionError(
                f"resume: the metadata epoch, batch and history must be those of a checkpoint, got {metadata}."
            ) from e


class Keeper:
    """Writes the checkpoints of an executor, and finds the one to go on from.

    Args:
        executor: what is trained.
        path: of the file; None keeps nothing.
        every: steps after which it is written, besides the ends of epochs.
        resumes: whether a file that is there is gone on from.

    Raises:
        ConversionError: the number of steps is not positive, or there is no file.
    """

    def __init__(
        self,
        executor: TrainingExecutor,
        path: str | os.PathLike[str] | None,
        every: int | None,
        *,
        resumes: bool = True,
    ) -> None:
        if every is not None and (every < 1 or path is None):
            raise ConversionError(
                f"execute: checkpoint_every must be 1 or more steps between writing a checkpoint, got {every} and "
                f"checkpoint={path!r}."
            )
        self._executor = executor
        self._session = executor.session
        self._path = None if path is None else Path(path)
        self._every = every
        self._resumes = resumes
        self._written = 0

    def find(self) -> None:
        """Let a new executor go on from the file, where rank 0 finds it."""
        if self._path is None:
            return
        if self._session.engine.rank == 0:
            remove_leftovers(self._path)
        is_new = self._resumes and not self._executor.progress().n_steps
        if is_new and self._session.of_all(self._path.exists())[0]:
            self._executor.resume(self._path)
        self._written = self._executor.progress().n_steps

    def step(self) -> None:
        """Write the file if that many steps were taken, once all processes have the same weights."""
        if self._every is None or not self._session.is_settled:
            return
        if self._executor.progress().n_steps - self._written >= self._every:
            self._executor.join_loss()
            self.write()

    def write(self, *, is_end: bool = False) -> None:
        """Write the file, from rank 0."""
        if self._path is None:
            return
        progress = replace(self._executor.progress(), is_end=is_end)
        self._written = progress.n_steps
        if self._session.engine.rank == 0:
            write_file(self._session.to_model(progress.metadata()), self._path)

    def wait(self) -> None:
        """Return on every process when the file is there."""
        if self._path is not None:
            self._session.of_all(None)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files that writers of a file left who were killed."""
    target = Path(path)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()
