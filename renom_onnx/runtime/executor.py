"""The executor that trains: batches from a distributor, steps of a session, losses and metrics by epoch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from renom_onnx.converters.export import training_model
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import ConversionError, IndexRangeError, RunError
from renom_onnx.graph.distributor import Distributor, DistributorElement
from renom_onnx.graph.node import Mutable, Node, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.runtime.ahead import ahead
from renom_onnx.runtime.checkpoint import Keeper, Progress
from renom_onnx.runtime.engine import RanksLostError
from renom_onnx.runtime.event import Event, Events, Listener
from renom_onnx.runtime.failure import index_lines, user_lines
from renom_onnx.runtime.feeding import EpochLoss, Feeds, Source, converted
from renom_onnx.runtime.history import Epoch, History
from renom_onnx.runtime.metric import Metric, as_metric
from renom_onnx.runtime.placement import Placement, training_session
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.progress import epoch_bar
from renom_onnx.runtime.shard import Deal, batch_rows
from renom_onnx.runtime.training import TrainingSession

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]
Callback = Callable[[Epoch], Any]
Validation = Distributor | tuple[Any, Any]
Metrics = Mapping[str, Metric | Callable[[Array, Array], Any]]


class TrainingExecutor:
    """Trains the parameters before a loss; made by `GraphElement.get_training_executor`.

    The session stays open between calls of `execute`, and so does the optimizer's state. The parameters of the program
    have the trained values whenever somebody looks at them.

    Args:
        loss: the element to make small.
        optimizer: how.
        devices: such as ["cuda:0"], or several, each of which is dealt a part of every batch; default: the best
            there is.
        placement: options of the session, see `renom_onnx.runtime.placement.Placement`.

    In a job that mpiexec started, all processes make the same executor and call the same methods. Each reads its part
    of the batches, and all have the same losses, metrics and weights; rank 0 shows bars and writes files.

    Attributes:
        session: takes the steps: a `TrainingSession`, a `ParallelTrainingSession` for several devices, or a
            `DistributedTrainingSession` for several processes.
        history: losses of all epochs so far.
    """

    def __init__(
        self,
        loss: GraphElement,
        optimizer: Optimizer,
        *,
        devices: Sequence[str] | None = None,
        **placement: Unpack[Placement],
    ) -> None:
        self._updates = loss._updates(optimizer)
        self._optimizer = optimizer
        root = self._updates.loss
        self._root = root
        self._source = Source(ancestors([*(root.node.loss or ()), root]), root)  # in the order of the file's inputs
        model, self._names = training_model(self._updates)
        with index_lines(self._values()):
            self.session = training_session(as_bytes(model), devices, placement, self._source.whole())
            self.session.check_indices(self._source.loaded())
        self._types = {spec.name: spec.dtype for spec in (*self.session.file_feeds, *self.session.feeds)}
        self._is_resident = self.session.feeds != self.session.file_feeds
        feeds_ahead = placement.get("feed_ahead")
        self._feeds_ahead = feeds_ahead if feeds_ahead is not None else self.session.device_kind == "cuda"
        self._sources: dict[Mutable, Any] = {}
        self._rates: dict[Mutable, Array] = {}
        self._events = Events("TrainingExecutor")
        self._at_start, self._at_finish = self._events.of("Step-Start"), self._events.of("Step-Finish")
        self.history = History()
        self._n_steps = 0
        self._epoch: int | None = None  # of the distributor, which may be ahead of the steps
        self._batch = 0
        self._total = EpochLoss(root)
        self._is_resumed = self._was_ended = False
        self._epochs_before = 0

    def register_event(self, name: str, function: Listener) -> None:
        """Call a function at every event of a name.

        Args:
            name: Initialize, Epoch-Start, Step-Start, Step-Finish, Epoch-Finish or Teardown.
            function: called with an `Event`.

        Raises:
            ConversionError: there is no such event.
        """
        self._events.of(name).append(function)

    def unregister_events(self, name: str) -> None:
        """Forget all functions of an event.

        Raises:
            ConversionError: there is no such event.
        """
        self._events.of(name).clear()

    def _emit(self, name: str, loss: float | None = None, validation_loss: float | None = None) -> None:
        if self._events.of(name):
            self._events.emit(Event(name, self, len(self.history.losses), self._n_steps, loss, validation_loss))

    def execute(
        self,
        epochs: int = 1,
        *,
        validation: Validation | None = None,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        learning_rate: Callable[[int], float] | None = None,
        metrics: Metrics | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = True,
    ) -> History:
        """Train.

        Args:
            epochs: passes over the data; without a distributor an epoch is one step.
            validation: a distributor, or arrays (x, y), whose loss is computed after each epoch.
            progress: show a bar on stderr.
            callbacks: each is called after an epoch with its `Epoch`; one that returns True ends the training.
            learning_rate: a schedule: called with the number of steps taken so far, returns the step size.
            metrics: by name, of the validation data: see `renom_onnx.runtime.metric`.
            checkpoint: a file that is written after each epoch. Where it exists already, a new executor goes on from
                it, bit for bit, and the epochs that it tells of count as taken: a program that was killed is started
                again as it was. Callbacks begin anew.
            checkpoint_every: steps after which the file is written too.
            resume: whether to go on from a checkpoint that exists; else it is written over.

        Returns:
            The history of all epochs so far.

        Raises:
            ConversionError: metrics are given without validation data, or the checkpoint is that of another training.
        """
        with self.session.engine.failing():
            keeper = Keeper(self, checkpoint, checkpoint_every, resumes=resume)
            return self._execute(epochs, validation, progress, callbacks, learning_rate, metrics, keeper)

    def _execute(
        self,
        epochs: int,
        validation: Validation | None,
        progress: bool,
        callbacks: Sequence[Callback],
        learning_rate: Callable[[int], float] | None,
        metrics: Metrics | None,
        keeper: Keeper,
    ) -> History:
        if not isinstance(metrics, Mapping | None):
            raise ConversionError(
                f"execute: metrics must be a dict of names, such as {{'accuracy': metric.Accuracy()}}, got "
                f"{type(metrics).__name__}."
            )
        judged = {name: as_metric(metric) for name, metric in (metrics or {}).items()}
        if judged and validation is None:
            raise ConversionError("execute: metrics must have validation data, got none. Give validation=(x, y).")
        data = _as_distributor(validation, self._source)
        with index_lines(self._values()):
            self.session.check_indices({} if data is None else self._source.loaded(data))
        keeper.find()
        self._emit("Initialize")
        for _ in range(self._epochs_left(epochs)):
            number = len(self.history.losses)
            self._push()
            self._emit("Epoch-Start")
            shows = progress and self.session.engine.rank == 0
            with epoch_bar(number, self._source.n_batches, enabled=shows, done=self._batch) as bar:
                try:
                    loss = self._train_epoch(bar, learning_rate, keeper)
                finally:
                    self._pull()
                checked = None if validation is None else self._validate(data, judged)
                values = {name: metric.value() for name, metric in judged.items()}
                bar.finish(loss, checked, values)
            self._emit("Epoch-Finish", loss, checked)
            epoch = self.history.add(loss, checked, self._n_steps, values)
            ends = [callback(epoch) is True for callback in callbacks]  # every callback is called
            is_end = any(self.session.of_all(any(ends)))
            self._push()
            keeper.write(is_end=is_end)
            if is_end:
                break
        keeper.wait()
        self._emit("Teardown")
        return self.history

    def _epochs_left(self, epochs: int) -> int:
        """Return how many of these epochs no checkpoint tells of."""
        taken = epochs if self._was_ended else min(epochs, self._epochs_before)
        self._epochs_before, self._was_ended = max(0, self._epochs_before - taken), False
        return epochs - taken

    def data_places(self) -> dict[Node, int]:
        """Return the leaves that hold or deal the data, and the position of each in a validation distributor."""
        return self._source.places()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a trainable file with today's weights and state, and how far the training is, for `resume`.

        See `TrainingSession.save`. Of several processes all call, and rank 0 writes.
        """
        with self.session.engine.failing():
            self._push()
            self.join_loss()
            self.session.save(path, metadata=self.progress().metadata())

    def resume(self, path: str | os.PathLike[str]) -> History:
        """Go on where a file was written, by `save` or as a checkpoint, and return its history.

        Weights, state, learning rate, the place in the data and the history are those of the file. Where rows are
        shuffled, the seed must be the same. Of several processes all call, and rank 0 reads.

        Raises:
            ConversionError: the file is that of another training.
        """
        with self.session.engine.failing():
            self._resume(Progress.of(self.session.restore(path)))
            return self.history

    def _resume(self, progress: Progress) -> None:
        self._pull()
        for leaf, name in self._names.items():
            if type(leaf) is Mutable:
                leaf.array = self._rates[leaf] = self.session.read(name)
        self._n_steps, self._batch = progress.n_steps, progress.batch if self._source.distributors else 0
        tells = not self.session.trains_apart or self.session.engine.rank == 0
        self._total = EpochLoss(self._root, progress.loss_sum, progress.n_rows) if tells else EpochLoss(self._root)
        self._source.go_to(progress.epoch, progress.batch)
        self._epoch, self._is_resumed = self._source.epoch, True
        self._epochs_before, self._was_ended = len(progress.history.losses), progress.is_end
        self.history.take(progress.history)

    def progress(self) -> Progress:
        """Return how far the training is."""
        epoch = self._epoch if self._batch else self._source.epoch
        place = (len(self.history.losses) if epoch is None else epoch, self._batch, self._n_steps)
        return Progress(*place, self._total.sum, self._total.n_rows, self.history)

    def step(self) -> float:
        """Take one step on the next batch, outside an epoch, and return its loss.

        Without a distributor, every step is on the same arrays. `history` knows nothing of it.

        Raises:
            StopIteration: the distributor is at its end; reset it to begin again.
        """
        self._epoch, self._batch = self._source.epoch, self._source.position
        batch = self._source.next_row_numbers() if self._is_resident else self._source.next_batch()
        feeds = converted(batch, self._types)
        self._push()
        try:
            return self._step(feeds, feeds)
        finally:
            self._pull()

    def _train_epoch(self, bar: epoch_bar, schedule: Callable[[int], float] | None, keeper: Keeper) -> float:
        """Take the steps of an epoch that are left, and return its loss."""
        if not self._is_resumed:
            self._source.begin()
            self._batch, self._total = 0, EpochLoss(self._root)
        self._is_resumed = False
        self._epoch = self._source.epoch
        is_dealt = False
        while not is_dealt:
            try:
                with contextlib.closing(self._batches()) as batches:
                    for feeds, prepared in batches:
                        if schedule is not None:
                            self._optimizer.learning_rate = schedule(self._n_steps)
                        bar.step(self._step(feeds, prepared))
                        keeper.step()
                is_dealt = True
            except RanksLostError:  # this batch again, and the rest, among those that are left
                self._source.go_to(self._epoch or 0, self._batch)
        self.session.settle()
        loss = self.join_loss().value()
        self._batch, self._total = 0, EpochLoss(self._root)
        return loss

    def join_loss(self) -> EpochLoss:
        """Return the loss of this epoch so far, of which every process has a part if they train apart."""
        if not self.session.trains_apart:
            return self._total
        found = self.session.of_all((self._total.sum, self._total.n_rows))
        joined = EpochLoss(self._root, sum(part for part, _ in found), sum(n_rows for _, n_rows in found))
        self._total = joined if self.session.engine.rank == 0 else EpochLoss(self._root)
        return joined

    def _batches(self) -> Generator[tuple[Feeds, Feeds | Prepared], None, None]:
        """Yield what each batch of an epoch feeds, and what a step is given of it."""
        deal = self.session.deal()
        if self._feeds_ahead:
            yield from ahead(self._fed(deal), self._prepared)
        else:
            with contextlib.closing(self._fed(deal)) as fed:
                yield from ((feeds, feeds) for feeds in fed)

    def _prepared(self, feeds: Feeds) -> tuple[Feeds, Prepared]:
        try:
            return feeds, self.session.prepare(feeds)
        except IndexRangeError:
            with index_lines(self._values()):
                raise

    def _fed(self, deal: Deal | None) -> Generator[Feeds, None, None]:
        batches = self._source.row_numbers(deal) if self._is_resident else self._source.batches(deal=deal, lazily=True)
        with contextlib.closing(batches):
            for batch in batches:
                yield converted(batch, self._types)

    def _step(self, feeds: Feeds, prepared: Feeds | Prepared) -> float:
        """Train on a batch and return its loss."""
        if self._at_start:
            self._emit("Step-Start")
        self._push_rates()
        try:
            loss = float(self.session.step(prepared))
        except RunError:
            with self._user_lines(feeds):
                raise
        self._n_steps += 1
        self._batch += 1
        self._total.add(loss, self.session.loss_rows(feeds))
        if self._at_finish:
            self._emit("Step-Finish", loss)
        return loss

    def _validate(self, data: Distributor | None, metrics: Mapping[str, Metric]) -> float:
        while True:
            try:
                return self._validated(data, metrics)
            except RanksLostError:  # again, among those that are left
                continue

    def _validated(self, data: Distributor | None, metrics: Mapping[str, Metric]) -> float:
        total = EpochLoss(self._root)
        for metric in metrics.values():
            metric.reset()
        for batch in self._source.batches(data, self.session.evaluation_deal()):
            feeds = converted(batch, self._types)
            with self._user_lines(feeds):
                found = self.session.evaluate(feeds)
            total.add(float(found[self.session.loss_name].reshape(-1)[0]), batch_rows(feeds))
            if metrics:
                prediction, target = self.session.whole(feeds, self._judged(feeds, found))
                for metric in metrics.values():
                    metric.update(prediction, target)
        return total.value()

    def _user_lines(self, feeds: Feeds) -> AbstractContextManager[None]:
        def again() -> None:
            model, _ = training_model(self._updates, inline=True)
            TrainingSession(model, "cpu").step(converted(self._source.taken(feeds), self._types))

        return user_lines("execute", self._values(), again)

    def _values(self) -> list[Value]:
        """Return the outputs of the training step, the loss last."""
        return [*self._updates.next_values.values(), self._updates.training_loss, self._root]

    def _judged(self, feeds: Feeds, found: Mapping[str, Array]) -> tuple[Array | None, Array | None]:
        """Return the prediction, and the first input that inference does not need; None where there are no rows."""
        targets = self.session.targets
        if not targets:
            raise ConversionError("execute: metrics must have a target to compare with, got a loss without one.")
        prediction = found.get(self.session.outputs[0])
        return prediction, None if prediction is None else feeds[targets[0]]

    def _push(self) -> None:
        """Give the session what the program changed since the last epoch; of several processes rank 0's counts."""
        written = []
        for leaf, name in self._names.items():
            if type(leaf) is Mutable:
                self._rates[leaf] = leaf.array
            if leaf.source is None or leaf.source is not self._sources.get(leaf):
                self.session.write(name, leaf.array)
                written.append(name)
        self.session.synchronize(written)

    def _push_rates(self) -> None:
        """Give the session the learning rates and weight decays that were assigned since the last step."""
        for leaf, array in self._rates.items():
            if leaf.array is not array:
                self._rates[leaf] = leaf.array
                self.session.write(self._names[leaf], leaf.array)

    def _pull(self) -> None:
        """Let the program's parameters and state be read from the session when somebody looks."""
        for leaf in self._updates.next_values:
            name = self._names[leaf]
            self._sources[leaf] = leaf.source = functools.partial(self.session.read, name)


def _as_distributor(data: Validation | None, source: Source) -> Distributor | None:
    if data is None or isinstance(data, Distributor):
        return data
    size = source.distributors[0].batch_size if source.distributors else len(data[0])
    return DistributorElement(*data, batch_size=size, shuffle=False)
