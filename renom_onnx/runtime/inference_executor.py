"""Executors that evaluate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.converters.export import to_onnx
from renom_onnx.graph.node import ancestors
from renom_onnx.runtime.event import Event, Events, Listener
from renom_onnx.runtime.failure import user_lines
from renom_onnx.runtime.feeding import EpochLoss, Feeds, Source, converted
from renom_onnx.runtime.history import History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.inference_pool import InferencePool
from renom_onnx.runtime.progress import epoch_bar

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]


class InferenceExecutor:
    """Evaluates an element over all data; made by `GraphElement.get_inference_executor`.

    Args:
        element: usually a loss.
        device: default: the best there is.
        devices: instead of one device, several, each of which is given whole batches.
    """

    def __init__(
        self, element: GraphElement, *, device: str | None = None, devices: Sequence[str] | None = None
    ) -> None:
        self._element = element
        several = [devices] if isinstance(devices, str) else devices
        self._devices: list[str | None] = [*several] if several else [device]
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
                for feeds, value in self._values(session, lambda: emit("Step-Start")):
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
        values = [np.atleast_1d(value) for _, value in self._values(self._session())]
        if values:
            return np.concatenate(values)
        sizes = [size if isinstance(size, int) else 0 for size in (self._element.shape or ())[1:]]
        return np.empty((0, *sizes), self._element.dtype)

    def _session(self) -> InferenceSession | InferencePool:
        model = to_onnx(self._element, outputs={"output": self._element})
        if len(self._devices) > 1:
            return InferencePool(model, self._devices)
        return InferenceSession(model, self._devices[0])

    def _values(
        self, session: InferenceSession | InferencePool, begin: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[Feeds, Array]]:
        """Yield what each batch was fed and the element's value, in the order of the batches.

        Args:
            session: what runs them; several devices have two batches each ahead.
            begin: called before each batch.
        """
        types = {spec.name: spec.dtype for spec in session.inputs}
        waiting: deque[tuple[Feeds, Callable[[], dict[str, Array]]]] = deque()
        for batch in self._source.batches():
            begin()
            feeds = converted(batch, types)
            if isinstance(session, InferencePool):
                waiting.append((feeds, session.submit(feeds).result))
            else:
                waiting.append((feeds, partial(session.run, feeds)))
            if isinstance(session, InferenceSession) or len(waiting) > 2 * len(self._devices):
                yield self._taken(*waiting.popleft())
        while waiting:
            yield self._taken(*waiting.popleft())

    def _taken(self, feeds: Feeds, result: Callable[[], dict[str, Array]]) -> tuple[Feeds, Array]:
        with user_lines("execute", [self._element.output]):
            return feeds, result()["output"]


class PrintingInferenceExecutor(InferenceExecutor):
    """The seed's executor: `execute` prints the loss of every epoch as an array of one element."""

    def execute(self, epochs: int = 1, *, progress: bool = False) -> None:  # type: ignore[override]
        """Print the losses."""
        for loss in super().execute(epochs, progress=progress).losses:
            print(np.array([loss], dtype=self._element.dtype))
