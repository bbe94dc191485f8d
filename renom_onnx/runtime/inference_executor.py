"""Executors that evaluate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.converters.export import to_onnx
from renom_onnx.graph.node import ancestors
from renom_onnx.runtime.engine import Engine, RanksLostError
from renom_onnx.runtime.event import Event, Events, Listener
from renom_onnx.runtime.failure import index_lines, user_lines
from renom_onnx.runtime.feeding import EpochLoss, Feeds, Source, converted
from renom_onnx.runtime.history import History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.inference_pool import InferencePool
from renom_onnx.runtime.processes.launch import default_engine, own_device
from renom_onnx.runtime.progress import epoch_bar
from renom_onnx.runtime.shard import Deal, batch_rows

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]
Result = Callable[[], dict[str, Array]]


class InferenceExecutor:
    """Evaluates an element over all data; made by `GraphElement.get_inference_executor`.

    Args:
        element: usually a loss.
        device: default: the best there is.
        devices: instead of one device, several, each of which is given whole batches.
        engine: what joins processes, each of which is given whole batches in turn, while all return the same; default:
            all that mpiexec started.
    """

    def __init__(
        self,
        element: GraphElement,
        *,
        device: str | None = None,
        devices: Sequence[str] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._element = element
        several = [devices] if isinstance(devices, str) else devices
        self._devices: list[str | None] = [*several] if several else [device]
        self._source = Source(ancestors([element.output]), element.output)
        self._engine = engine or default_engine()
        if self._devices == [None]:
            self._devices = [own_device(self._engine)]
        self._events = Events("InferenceExecutor")

    def register_event(self, name: str, function: Listener) -> None:
        """Call a function at every event of a name; see `TrainingExecutor.register_event`."""
        self._events.of(name).append(function)

    def unregister_events(self, name: str) -> None:
        """Forget all functions of an event."""
        self._events.of(name).clear()

    def execute(self, epochs: int = 1, *, progress: bool = True) -> History:
        """Return the history of the losses, one for each pass over the data."""
        with self._engine.failing():
            return self._execute(epochs, progress=progress and self._engine.rank == 0)

    def _execute(self, epochs: int, *, progress: bool) -> History:
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
                for n_rows, value in self._values(session, lambda: emit("Step-Start")):
                    loss = float(value.sum())
                    n_steps += 1
                    emit("Step-Finish", loss)
                    total.add(loss, n_rows)
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
        with self._engine.failing():
            values = [np.atleast_1d(value) for _, value in self._values(self._session())]
        if values:
            return np.concatenate(values)
        sizes = [size if isinstance(size, int) else 0 for size in (self._element.shape or ())[1:]]
        return np.empty((0, *sizes), self._element.dtype)

    def _session(self) -> InferenceSession | InferencePool:
        model = to_onnx(self._element, outputs={"output": self._element})
        threads = max(1, self._engine.cores() // len(self._devices)) if self._engine.size > 1 else None
        session: InferenceSession | InferencePool
        if len(self._devices) > 1:
            session = InferencePool(model, self._devices, threads=threads)
        else:
            session = InferenceSession(model, self._devices[0], threads=threads)
        with index_lines([self._element.output]):
            session.check_indices(self._source.loaded())
        return session

    def _values(
        self, session: InferenceSession | InferencePool, begin: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[int, Array]]:
        """Yield the rows of each batch and the element's value, in the order of the batches.

        Args:
            session: what runs them; several devices have two batches each ahead.
            begin: called before each batch.
        """
        self._source.begin()
        if self._engine.size > 1:
            yield from self._values_of_all(session, begin)
            return
        types = {spec.name: spec.dtype for spec in session.inputs}
        waiting: deque[tuple[int, Result]] = deque()
        for batch in self._source.batches():
            begin()
            waiting.append((batch_rows(batch), _submitted(session, converted(batch, types))))
            if isinstance(session, InferenceSession) or len(waiting) > 2 * len(self._devices):
                yield self._taken(*waiting.popleft())
        while waiting:
            yield self._taken(*waiting.popleft())

    def _values_of_all(
        self, session: InferenceSession | InferencePool, begin: Callable[[], object]
    ) -> Iterator[tuple[int, Array]]:
        """Yield what all processes compute, each of them as many batches in turn as it has devices."""
        epoch, n_done = self._source.epoch or 0, 0
        while True:
            try:
                for found in self._rounds(session, n_done):
                    for n_rows, value in found:
                        n_done += 1
                        begin()
                        yield n_rows, value
                return
            except RanksLostError:  # from the first batch on whose value is not known
                self._source.go_to(epoch, n_done)

    def _rounds(self, session: InferenceSession | InferencePool, first: int) -> Iterator[list[tuple[int, Array]]]:
        """Yield the values of a round, in which every process has its turn, from a batch on."""
        engine, n_own = self._engine, len(self._devices)
        types = {spec.name: spec.dtype for spec in session.inputs}

        def is_own(position: int) -> bool:
            return (position - first) // n_own % engine.size == engine.rank

        def exchanged(own: list[tuple[int, Result]]) -> list[tuple[int, Array]]:
            values = [self._taken(*waiting) for waiting in own]
            return [value for found in engine.together(lambda: engine.gather(values)) for value in found]

        deal = Deal((), lambda position, n_rows: slice(0, n_rows if is_own(position) else 0))
        own: list[tuple[int, Result]] = []
        position = first - 1
        for position, batch in enumerate(self._source.batches(deal=deal), first):
            if is_own(position):
                own.append((batch_rows(batch), _submitted(session, converted(batch, types))))
            if (position + 1 - first) % (n_own * engine.size) == 0:
                yield exchanged(own)
                own = []
        if (position + 1 - first) % (n_own * engine.size):
            yield exchanged(own)

    def _taken(self, n_rows: int, result: Result) -> tuple[int, Array]:
        with user_lines("execute", [self._element.output]):
            return n_rows, result()["output"]


def _submitted(session: InferenceSession | InferencePool, feeds: Feeds) -> Result:
    """Return what gives the outputs, which several devices compute meanwhile."""
    return session.submit(feeds).result if isinstance(session, InferencePool) else partial(session.run, feeds)


class PrintingInferenceExecutor(InferenceExecutor):
    """The seed's executor: `execute` prints the loss of every epoch as an array of one element."""

    def execute(self, epochs: int = 1, *, progress: bool = False) -> None:  # type: ignore[override]
        """Print the losses."""
        for loss in super().execute(epochs, progress=progress).losses:
            if self._engine.rank == 0:
                print(np.array([loss], dtype=self._element.dtype))
