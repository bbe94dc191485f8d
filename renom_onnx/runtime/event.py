"""Events: what the functions that a program registers with an executor are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from renom_onnx.errors import ConversionError

EVENTS = ("Initialize", "Epoch-Start", "Step-Start", "Step-Finish", "Epoch-Finish", "Teardown")
_WORDS = {
    "epoch_loss": "loss",
    "executor": "executor",
    "mode": "mode",
    "nth_epoch": "epoch",
    "step_loss": "loss",
    "training_loss": "loss",
    "validation_loss": "validation_loss",
}
"""What ReNom's functions, which were told a dict, ask for, and the attribute that has it."""


@dataclass(frozen=True)
class Event:
    """What an event's function is told.

    ReNom told a dict: ``event["nth_epoch"]`` is ``event.epoch``, and so for mode, step_loss, training_loss and
    validation_loss.

    Attributes:
        name: one of Initialize, Epoch-Start, Step-Start, Step-Finish, Epoch-Finish, Teardown.
        executor: the executor.
        epoch: number of the epoch, from 0.
        n_steps: steps taken so far.
        loss: of the step after Step-Finish, of the epoch after Epoch-Finish, else None.
        validation_loss: of the epoch after Epoch-Finish, where there are validation data.
        mode: "training" or "inference".

    Example:
        >>> Event("Step-Finish", executor=None, epoch=2, n_steps=7, loss=0.5)["nth_epoch"]
        2
    """

    name: str
    executor: Any
    epoch: int
    n_steps: int
    loss: float | None = None
    validation_loss: float | None = None
    mode: str = "training"

    def __getitem__(self, word: str) -> Any:
        """Return what ReNom's dict has under a word.

        Raises:
            ConversionError: an event knows no such word.
        """
        if word not in _WORDS:
            raise ConversionError(f"Event: the word must be one of {', '.join(_WORDS)}, got {word!r}.")
        return getattr(self, _WORDS[word])


Listener = Callable[[Event], Any]


class Events:
    """The functions that an executor calls, by event.

    Args:
        owner: class of the executor, for errors.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._listeners: dict[str, list[Listener]] = {name: [] for name in EVENTS}

    def of(self, name: str) -> list[Listener]:
        """Return the functions of an event, to be added to or cleared.

        Raises:
            ConversionError: there is no such event.
        """
        if name not in self._listeners:
            raise ConversionError(f"{self._owner}: an event must be one of {', '.join(EVENTS)}, got {name!r}.")
        return self._listeners[name]

    def emit(self, event: Event) -> None:
        """Call the functions of an event in the order in which they were registered."""
        for function in self._listeners[event.name]:
            function(event)
