"""Executors: they take batches from a distributor, run a session and return the losses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.converters.export import to_onnx, training_model
from renom_onnx.converters.tree import as_bytes, data_names
from renom_onnx.errors import ConversionError, DeviceError
from renom_onnx.graph.distributor import DistributorElement, Stream
from renom_onnx.graph.node import Mutable, Node, Static, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.site import created_at
from renom_onnx.runtime.history import Epoch, History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.progress import epoch_bar
from renom_onnx.runtime.training import TrainingSession

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Callback = Callable[[Epoch], Any]
Validation = DistributorElement | tuple[Any, Any]


class _Source:
    """The data leaves of a tree: batches of its distributor, or the arrays given to its layers."""

    def __init__(self, nodes: Sequence[Node], root: Value) -> None:
        streams = [node for node in nodes if isinstance(node, Stream)]
        self.distributors = list(dict.fromkeys(stream.distributor for stream in streams))
        names = data_names(nodes)
        self.arrays: Feeds = {name: leaf.array for leaf, name in names.items() if isinstance(leaf, Static)}
        self._columns = {names[stream]: stream.index for stream in streams}
        if len(self.distributors) > 1:
            raise ConversionError(
                f"executor: the data must come from one distributor, got {len(self.distributors)}. "
                f"{created_at(root.node.site)}"
            )

    @property
    def n_batches(self) -> int:
        """Steps of an epoch."""
        return self.distributors[0].n_batches if self.distributors else 1

    def batches(self, data: DistributorElement | None = None) -> Iterator[Feeds]:
        """Yield the feeds of one epoch, of another distributor if one is given."""
        source = data or next(iter(self.distributors), None)
        if source is None:
            yield dict(self.arrays)
            return
        columns = self._columns or {name: i for i, name in enumerate(self.arrays)}  # arrays: x and y in this order
        indices = sorted(set(columns.values()))
        for batch in source.batches(indices):
            rows = dict(zip(indices, batch, strict=True))
            yield {**self.arrays, **{name: rows[index] for name, index in columns.items()}}


def _converted(feeds: Feeds, types: Mapping[str, np.dtype[Any]]) -> Feeds:
    """Return the feeds in the types of the file, which holds data as its layers want them."""
    return {n: a if a.dtype == types[n] else a.astype(types[n]) for n, a in feeds.items() if n in types}


class _EpochLoss:
    """The loss of an epoch: the sum of sums, or the mean weighted by rows."""

    def __init__(self, root: Value) -> None:
        self._is_mean = root.node.reduction == "mean"
        self._sum = 0.0
        self._rows = 0

    def add(self, loss: float, feeds: Feeds) -> None:
        rows = max((len(a) for a in feeds.values() if a.ndim), default=1)
        self._sum += loss * (rows if self._is_mean else 1)
        self._rows += rows

    def value(self) -> float:
        return self._sum / max(self._rows, 1) if self._is_mean else self._sum


class TrainingExecutor:
    """Trains the parameters before a loss; made by `GraphElement.get_training_executor`.

    The session stays open between calls of `execute`, and so does the optimizer's state. The parameters of the program
    have the trained values whenever somebody looks at them.

    Args:
        loss: the element to make small.
        optimizer: how.
        devices: one device such as ["cuda:0"]; default: the best there is.

    Attributes:
        session: the `TrainingSession` that takes the steps.
        history: losses of all epochs so far.
    """

    def __init__(self, loss: GraphElement, optimizer: Optimizer, *, devices: Sequence[str] | None = None) -> None:
        if devices is not None and len(devices) != 1:
            raise DeviceError(f"get_training_executor: one device must be given, got {list(devices)}.")
        self._updates = loss._updates(optimizer)
        self._optimizer = optimizer
        root = self._updates.loss
        self._root = root
        self._source = _Source(ancestors([*(root.node.loss or ()), root]), root)  # in the order of the file's inputs
        model, self._names = training_model(self._updates)
        self.session = TrainingSession(as_bytes(model), devices[0] if devices else None)
        self._types = {spec.name: spec.dtype for spec in self.session.feeds}
        self._sources: dict[Mutable, Any] = {}
        self.history = History()
        self._n_steps = 0

    def execute(
        self,
        epochs: int = 1,
        *,
        validation: Validation | None = None,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        learning_rate: Callable[[int], float] | None = None,
    ) -> History:
        """Train.

        Args:
            epochs: passes over the data; without a distributor an epoch is one step.
            validation: a distributor, or arrays (x, y), whose loss is computed after each epoch.
            progress: show a bar on stderr.
            callbacks: each is called after an epoch with its `Epoch`; one that returns True ends the training.
            learning_rate: a schedule: called with the number of steps taken so far, returns the step size.

        Returns:
            The history of all epochs so far.
        """
        data = _as_distributor(validation, self._source)
        for _ in range(epochs):
            number = len(self.history.losses)
            self._push()
            with epoch_bar(number, self._source.n_batches, enabled=progress) as bar:
                try:
                    loss = self._train_epoch(bar, learning_rate)
                finally:
                    self._pull()
                checked = None if validation is None else self._validate(data)
                bar.finish(loss, checked)
            epoch = self.history.add(loss, checked, self._n_steps)
            ends = [callback(epoch) is True for callback in callbacks]  # every callback is called
            if any(ends):
                break
        return self.history

    def _train_epoch(self, bar: Any, schedule: Callable[[int], float] | None) -> float:
        total = _EpochLoss(self._root)
        for batch in self._source.batches():
            feeds = _converted(batch, self._types)
            if schedule is not None:
                self._optimizer.learning_rate = schedule(self._n_steps)
                self.session.learning_rate = self._optimizer.learning_rate
            loss = float(self.session.step(feeds))
            self._n_steps += 1
            total.add(loss, feeds)
            bar.step(loss)
        return total.value()

    def _validate(self, data: DistributorElement | None) -> float:
        total = _EpochLoss(self._root)
        for batch in self._source.batches(data):
            feeds = _converted(batch, self._types)
            total.add(float(self.session.evaluate(feeds)[self.session.loss_name].reshape(-1)[0]), feeds)
        return total.value()

    def _push(self) -> None:
        """Give the session what the program changed since the last epoch."""
        for leaf, name in self._names.items():
            if leaf.source is None or leaf.source is not self._sources.get(leaf):
                self.session.write(name, leaf.array)

    def _pull(self) -> None:
        """Let the program's parameters and state be read from the session when somebody looks."""
        for leaf in self._updates.next_values:
            name = self._names[leaf]
            self._sources[leaf] = leaf.source = functools.partial(self.session.read, name)


def _as_distributor(data: Validation | None, source: _Source) -> DistributorElement | None:
    if data is None or isinstance(data, DistributorElement):
        return data
    size = source.distributors[0].batch_size if source.distributors else len(data[0])
    return DistributorElement(*data, batch_size=size, shuffle=False)


class InferenceExecutor:
    """Evaluates an element over all data; made by `GraphElement.get_inference_executor`.

    Args:
        element: usually a loss.
        device: default: the best there is.
    """

    def __init__(self, element: GraphElement, *, device: str | None = None) -> None:
        self._element = element
        self._device = device
        self._source = _Source(ancestors([element.output]), element.output)

    def execute(self, epochs: int = 1, *, progress: bool = True) -> History:
        """Return the history of the losses, one for each pass over the data."""
        history = History()
        session = self._session()
        for number in range(epochs):
            total = _EpochLoss(self._element.output)
            with epoch_bar(number, self._source.n_batches, enabled=progress) as bar:
                for feeds, value in self._run(session):
                    total.add(float(value.sum()), feeds)
                    bar.step(float(value.sum()))
                bar.finish(total.value(), None)
            history.add(total.value(), None, 0)
        return history

    def predict(self) -> Array:
        """Return the element's value for all rows, batches joined."""
        return np.concatenate([np.atleast_1d(value) for _, value in self._run(self._session())])

    def _session(self) -> InferenceSession:
        return InferenceSession(to_onnx(self._element, outputs={"output": self._element}), self._device)

    def _run(self, session: InferenceSession) -> Iterator[tuple[Feeds, Array]]:
        types = {spec.name: spec.dtype for spec in session.inputs}
        for batch in self._source.batches():
            feeds = _converted(batch, types)
            yield feeds, session.run(feeds)["output"]


class PrintingInferenceExecutor(InferenceExecutor):
    """The seed's executor: `execute` prints the loss of every epoch as an array of one element."""

    def execute(self, epochs: int = 1, *, progress: bool = False) -> None:  # type: ignore[override]
        """Print the losses."""
        for loss in super().execute(epochs, progress=progress).losses:
            print(np.array([loss], dtype=self._element.dtype))
