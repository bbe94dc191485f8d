"""Executors that evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.converters.export import to_onnx
from renom_onnx.graph.node import ancestors
from renom_onnx.runtime.event import Event, Events, Listener
from renom_onnx.runtime.failure import user_lines
from renom_onnx.runtime.feeding import EpochLoss, Feeds, Source, converted
from renom_onnx.runtime.history import History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.progress import epoch_bar

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]


class InferenceExecutor:
    """Evaluates an element over all data; made by `GraphElement.get_inference_executor`.

    Args:
        element: usually a loss.
        device: default: the best there is.
    """

    def __init__(self, element: GraphElement, *, device: str | None = None) -> None:
        self._element = element
        self._device = device
        self._source = Source(ancestors([element.output]), element.output)
        self._events = Events("InferenceExecutor")

    def register_event(self, name: str, function: Listener) -> None:
        """Call a function at every event of a name; see `TrainingExecutor.register_event`."""
        self._events.of(name).append(function)

    def unregister_events(self, name: str) -> None:
        """Forget all functions of an event."""
        self._events.of(name).clear()

    def execute(self, epochs: int = 1, *, progress: bool = True) -> History:
        """Return the history of the losses, one for each pass over the data."""
        history = History()
        session = self._session()
        n_steps = 0

        def emit(name: str, loss: float | None = None) -> None:
            self._events.emit(Event(name, self, len(history.losses), n_steps, loss, mode="inference"))

        emit("Initialize")
        for number in range(epochs):
            total = EpochLoss(self._element.output)
            emit("Epoch-Start")
            with epoch_bar(number, self._source.n_batches, enabled=progress) as bar:
                for batch in self._source.batches():
                    emit("Step-Start")
                    feeds, value = self._run(session, batch)
                    loss = float(value.sum())
                    n_steps += 1
                    emit("Step-Finish", loss)
                    total.add(loss, feeds)
                    bar.step(loss)
                bar.finish(total.value(), None)
            emit("Epoch-Finish", total.value())
            history.add(total.value(), None, 0)
        emit("Teardown")
        return history

    def step(self) -> Array:
        """Return the element's value for the next batch, computed on the CPU.

        Raises:
            StopIteration: the distributor is at its end; reset it to begin again.
        """
        return self._element.as_ndarray()

    def predict(self) -> Array:
        """Return the element's value for all rows, batches joined; of no rows, an array of none."""
        session = self._session()
        values = [np.atleast_1d(self._run(session, batch)[1]) for batch in self._source.batches()]
        if values:
            return np.concatenate(values)
        sizes = [size if isinstance(size, int) else 0 for size in (self._element.shape or ())[1:]]
        return np.empty((0, *sizes), self._element.dtype)

    def _session(self) -> InferenceSession:
        return InferenceSession(to_onnx(self._element, outputs={"output": self._element}), self._device)

    def _run(self, session: InferenceSession, batch: Feeds) -> tuple[Feeds, Array]:
        types = {spec.name: spec.dtype for spec in session.inputs}
        feeds = converted(batch, types)
        with user_lines("execute", [self._element.output]):
            return feeds, session.run(feeds)["output"]


class PrintingInferenceExecutor(InferenceExecutor):
    """The seed's executor: `execute` prints the loss of every epoch as an array of one element."""

    def execute(self, epochs: int = 1, *, progress: bool = False) -> None:  # type: ignore[override]
        """Print the losses."""
        for loss in super().execute(epochs, progress=progress).losses:
            print(np.array([loss], dtype=self._element.dtype))
