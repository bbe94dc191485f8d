"""`DistributedTrainingSession`: a trainable file on the devices of several processes."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.engine import Engine, RanksLostError, Result
from renom_onnx.runtime.loss import Loss
from renom_onnx.runtime.parallel import ParallelTrainingSession, whole_loss
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.processes.local_sgd import averages
from renom_onnx.runtime.replica import PreparedPart
from renom_onnx.runtime.shard import Deal, Shard, batch_rows
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]

CHECK_STEPS = 100
"""Steps after which `settle` compares the processes' weights."""


class _Dealt(Prepared):
    """A prepared batch that remembers what it was made of, and among whom it was dealt."""

    __slots__ = ("changes", "feeds", "n_rows")

    def __init__(self, prepared: Prepared, feeds: Mapping[str, Any], n_rows: int, changes: int) -> None:
        super().__init__(prepared.content, prepared.settings, prepared.release)
        self.feeds = feeds
        self.n_rows = n_rows
        self.changes = changes


class DistributedTrainingSession(ParallelTrainingSession):
    """Trains a file on the devices of several processes, each of which is dealt a part of every batch.

    All processes make one, and call `step`, `evaluate` and `save` in the same order. They are fed the same whole
    batch, or each a `Shard` of it.

    Args:
        model, devices, options: see `ParallelTrainingSession`; devices are those of this process.
        engine: what joins the processes.
        average_every: let each process train on its own rows for this many steps, and then average weights and state
            ("local SGD"): one message in the place of many. A batch with fewer rows than devices is stepped on
            together. Default: gradients are added in every step.

    Raises:
        DeviceError: the number of steps is not positive.

    Source: S. Stich, Local SGD Converges Fast and Communicates Little, 2019, https://arxiv.org/abs/1805.09767.

    Example:
        >>> session = DistributedTrainingSession("model.onnx", ["cpu"], engine=engine)  # doctest: +SKIP
        >>> rows = session.own_rows(64)  # doctest: +SKIP
        >>> loss = session.step(Shard({"x": images[rows], "y": labels[rows]}, 64))  # doctest: +SKIP
    """

    def __init__(
        self, model: Any, devices: Sequence[str | None], *, engine: Engine, average_every: int = 1, **options: Any
    ) -> None:
        if average_every < 1:
            raise DeviceError(f"DistributedTrainingSession: average_every must be 1 or more, got {average_every}.")
        self._average_every = average_every
        self._n_steps = self._n_checked = 0
        self._steps_apart = self._rows_apart = 0
        self._is_apart = False
        super().__init__(model, devices, engine=engine, **options)

    # Places among the processes

    def _join(self) -> None:
        """Take a place; again, if a process is lost meanwhile."""
        while True:
            self._changes = self._engine.changes
            try:
                return self._engine.together(self._meet)
            except RanksLostError:
                continue

    def _meet(self) -> None:
        """Find out who is there, and take the weights of one who took the most steps where they differ."""
        self._first, self._n_parts = self._engine.layout(len(self.devices))
        found = self._engine.gather((self._n_steps, 0 if self._steps_apart else self._digest()))
        steps = [n_steps for n_steps, _ in found]
        if len(set(found)) > 1:
            self._hand_out(steps.index(max(steps)))
        self._n_steps = max(steps)

    def _follow(self) -> bool:
        """Take a new place if processes were lost since the last one; return whether any were."""
        is_another = self._engine.changes != self._changes
        if is_another:
            self._join()
        return is_another

    def _surely(self, work: Callable[[], Result]) -> Result:
        """Return what some work gives that the processes do together, done again if one is lost."""
        while True:
            self._follow()
            try:
                return self._engine.together(work)
            except RanksLostError:
                continue

    def _hand_out(self, root: int) -> None:
        for tensors in self._held().values():
            self._engine.broadcast(tensors, root)

    def _digest(self) -> int:
        """Return a number that tells weights, state and settings of other bits apart."""
        digest = 0
        for tensors in self._held().values():
            digest = zlib.crc32(tensors[0].view().reshape(-1).view(np.uint8).data, digest)
        return digest

    # Batches

    def deal(self) -> Deal:
        self._follow()
        return Deal(self._dealt, lambda _, n_rows: self.own_rows(n_rows))

    def evaluation_deal(self) -> Deal | None:
        self._follow()
        dealt = self._evaluation(with_loss=True)[0].dealt
        return Deal(dealt, lambda _, n_rows: self.own_rows(n_rows)) if dealt else None

    def prepare(self, feeds: Mapping[str, Any]) -> Prepared:
        changes = self._changes
        prepared = super().prepare(feeds)
        n_rows = feeds.n_rows if isinstance(feeds, Shard) else len(feeds[self._dealt[0]])
        return _Dealt(prepared, feeds, n_rows, changes)

    def _trains_apart(self, n_rows: int) -> bool:
        return self._average_every > 1 and n_rows >= self._n_parts

    def _divisor(self, n_rows: int) -> int:
        own = self.own_rows(n_rows)
        return own.stop - own.start if self._trains_apart(n_rows) else n_rows

    def loss_rows(self, feeds: Mapping[str, Any]) -> int:
        n_rows = batch_rows(feeds)
        if self._average_every == 1:
            return n_rows
        return self._divisor(n_rows) if self._trains_apart(n_rows) or self._engine.rank == 0 else 0

    @property
    def trains_apart(self) -> bool:
        return self._average_every > 1

    @property
    def is_settled(self) -> bool:
        return not self._steps_apart

    def of_all(self, value: Any) -> list[Any]:
        return self._surely(lambda: self._engine.gather(value))

    # Steps

    def step(self, feeds: Mapping[str, Any] | Prepared) -> Loss:
        """Take one training step, which all processes take together.

        Args:
            feeds: the whole batch, the same for all processes, or a `Shard` of it; or what `prepare` returned.

        Returns:
            The loss of the whole batch before the update; between two averages, that of this process's rows.

        Raises:
            ShapeError, DTypeError: a feed does not fit; then nothing was changed.
            RunError: onnxruntime stopped; then nothing was changed, unless the message says so.
            RanksLostError: processes were lost, and this shard is not all that this process has to do now: read
                another one and step again. A whole batch is dealt anew without that.
        """
        source: Mapping[str, Any] = feeds.feeds if isinstance(feeds, _Dealt) else feeds  # type: ignore[assignment]
        is_late = self._follow()
        if isinstance(feeds, _Dealt) and not feeds.is_used and feeds.changes != self._changes:
            feeds.release()
            is_late = True
        while True:
            if is_late and isinstance(source, Shard):
                raise RanksLostError(
                    f"DistributedTrainingSession.step: a shard must be dealt among the ranks that are left, got one "
                    f"from before a loss. Take the rows that own_rows({source.n_rows}) tells, and step again."
                )
            prepared = self.prepare(source) if is_late or not isinstance(feeds, Prepared) else feeds
            try:
                return self._stepped(prepared)
            except RanksLostError:
                is_late = self._follow()

    def _stepped(self, prepared: Prepared) -> Loss:
        assert isinstance(prepared, _Dealt)
        self._is_apart = self._trains_apart(prepared.n_rows)
        if not self._is_apart:
            self._average()
        loss = super().step(prepared)
        self._n_steps += 1
        if self._is_apart:
            self._steps_apart += 1
            self._rows_apart += self._divisor(prepared.n_rows)
            if self._steps_apart == self._average_every:
                self._average()
        return loss

    def _reduce(self, parts: Sequence[PreparedPart]) -> None:
        if self._is_apart:
            self._sum_gradients(parts)
        else:
            super()._reduce(parts)

    def _add_up(self, buffers: Sequence[Tensor], n_exact: int | None) -> None:
        (self._engine.local if self._is_apart else self._engine).allreduce(buffers, n_exact)

    def _average(self) -> None:
        """Average what processes trained apart."""
        if not self._steps_apart:
            return
        held = self._held()
        state = {name: held[name] for name in self._step.bindings}
        found = self._surely(lambda: averages(self._engine, state, self._rows_apart))
        for name, array in found.items():
            self.write(name, array)
        self._steps_apart = self._rows_apart = 0

    def settle(self) -> None:
        """Average what processes trained apart, and see from time to time that all have the same bits."""
        self._average()
        if self._n_steps - self._n_checked < CHECK_STEPS:
            return
        self._n_checked = self._n_steps
        found = self._surely(lambda: self._engine.gather(self._digest()))
        others = [rank for rank, digest in enumerate(found) if digest != found[0]]
        if not others:
            return
        self._surely(partial(self._hand_out, 0))
        if self._engine.rank == 0:
            warnings.warn(
                f"DistributedTrainingSession: all ranks must have the same weights, got others on {others}, which have "
                f"those of rank 0 now. Set the same learning rate on all ranks, and use processors of one kind.",
                RuntimeWarning,
                stacklevel=2,
            )

    def synchronize(self, names: Sequence[str]) -> None:
        self._surely(partial(self._synchronize, names))

    def _synchronize(self, names: Sequence[str]) -> None:
        held = self._held()
        for name in dict.fromkeys(name for written in self._engine.gather(list(names)) for name in written):
            self._engine.broadcast(held[name])

    # Evaluation

    def evaluate(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return the inference outputs with today's weights, and the loss where its targets are fed too.

        Args:
            feeds: an array for every input of the inference reading, and for all other inputs or none. Of a `Shard`,
                which all processes must evaluate, the outputs are those of its rows, missing where it has none, and
                the loss is that of the whole batch.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            RunError: onnxruntime stopped.
            RanksLostError: processes were lost, see `step`.
        """
        if not isinstance(feeds, Shard):
            return super().evaluate(feeds)
        self._average()
        evaluation, found, n_rows = self._evaluated(feeds)
        outputs = {name: np.concatenate([part[name] for part in found]) for name in evaluation.outputs if found}
        if evaluation.loss:
            own = [{k: v for k, v in values.items() if k not in evaluation.outputs} for values in found]
            parts = self._engine.together(lambda: self._engine.gather((own, n_rows)))
            rows = [n for _, counts in parts for n in counts]
            outputs[self.loss_name] = whole_loss(evaluation.loss, [v for values, _ in parts for v in values], rows)
        return outputs

    def whole(self, feeds: Mapping[str, Any], rows: Sequence[Array | None]) -> list[Array]:
        if not isinstance(feeds, Shard):
            return super().whole(feeds, rows)
        found = self._engine.together(lambda: self._engine.gather(list(rows)))
        return [np.concatenate([part for part in parts if part is not None]) for parts in zip(*found, strict=True)]

    # Files

    def restore(self, model: Any) -> dict[str, str]:
        """Take what rank 0 reads of a checkpoint; see `Trainable.restore`. All processes must call."""
        return self._surely(lambda: self._restored(model))

    def _restored(self, model: Any) -> dict[str, str]:
        metadata = super().restore(model) if self._engine.rank == 0 else {}
        self._hand_out(0)
        found: dict[str, str] = self._engine.gather(metadata)[0]
        return found

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the file from rank 0; all processes must call, and return when it is there."""
        self._average()
        self._surely(partial(self._from_first, partial(super().save, path, metadata=metadata)))

    def export_inference(self, path: str | os.PathLike[str]) -> None:
        """Write the inference reading from rank 0; all processes must call."""
        self._average()
        self._surely(partial(self._from_first, partial(super().export_inference, path)))

    def _from_first(self, write: Callable[[], None]) -> None:
        if self._engine.rank == 0:
            write()
        self._engine.barrier()
