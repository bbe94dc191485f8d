"""`ParallelTrainingSession`: a trainable file on several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.converters.data_parallel import distribute
from renom_onnx.converters.parallel_evaluation import LossPart, ParallelEvaluation, parallel_evaluation
from renom_onnx.converters.signature import input_types
from renom_onnx.errors import DeviceError, RenomError, RunError, ShapeError
from renom_onnx.runtime.assignment import check_capturable
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.engine import Engine, LocalEngine
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import FeedSpec, check_feeds
from renom_onnx.runtime.loss import Loss, LossBuffer
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.replica import Part, PreparedPart, Replica
from renom_onnx.runtime.shard import Shard, deal
from renom_onnx.runtime.step_model import StepModel, for_kind
from renom_onnx.runtime.team import Job, Team
from renom_onnx.runtime.tensor import Tensor
from renom_onnx.runtime.trainable import Trainable

Array = np.ndarray[Any, Any]


class ParallelTrainingSession(Trainable):
    """Trains a file on several devices, each of which is dealt a part of every batch.

    The numbers are those of one device with the whole batch, but for the order of sums; the devices' weights are the
    same bit for bit. Every device has its own weights, state and sessions. A step computes gradients everywhere, adds
    them up, and updates everywhere.

    Args:
        model: a path, bytes or ModelProto with ``training_info``.
        devices: such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]; one may be named several times.
        training_info: which of the file's training steps: the position, or the name of the algorithm.
        synchronize_batch_norm: take the statistics of batch normalizations over all devices; default: each device has
            those of its part, and the running ones are averaged.
        threads: of each device; default on CPUs: the cores divided by the devices.
        spinning: let idle workers of onnxruntime spin between steps; default: no, they would take the other devices'
            cores.
        tune: on CPUs, choose the forms of what computes the gradients by measuring them; see `TrainingSession`.
        cuda: options of the CUDA provider.
        engine: how buffers are added; default: within this process.
        resident: data that every device keeps, all rows by feed. A step is then fed ``rows``, the numbers of its rows,
            in the place of these feeds.

    Attributes:
        devices: of this process.
        feeds, outputs, loss_name: as of `TrainingSession`.

    Raises:
        ConversionError: the model cannot be read, holds no training step, or one that cannot be dealt.
        DeviceError: a device is not there, or they are of several kinds.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x, y = np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32)
        >>> loss = rm.graph.MeanSquared()(rm.graph.Dense(1)(x), y)
        >>> model = rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1))
        >>> session = rm.runtime.ParallelTrainingSession(model, ["cpu", "cpu"])
        >>> losses = [float(session.step({"x": x, "y": y})) for _ in range(3)]
        >>> losses[0] > losses[1] > losses[2]
        True
    """

    def __init__(
        self,
        model: Any,
        devices: Sequence[str | None],
        *,
        training_info: int | str = 0,
        synchronize_batch_norm: bool = False,
        threads: int | None = None,
        spinning: bool = False,
        tune: bool = False,
        cuda: CudaOptions | None = None,
        engine: Engine | None = None,
        resident: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(model, resident, training_info)
        self.devices = [parse_device(device) for device in devices]
        kinds = {device.kind for device in self.devices}
        if len(kinds) != 1:
            raise DeviceError(
                f"{type(self).__name__}: devices must be one or more of one kind, got {list(map(str, devices))}."
            )
        self._engine = engine or LocalEngine()
        if threads is None and kinds == {"cpu"}:
            threads = max(1, self._engine.cores() // len(self.devices))
        if cuda is not None and cuda.cuda_graph:
            check_capturable(self._step.model, str(self.devices[0]))
        kind = self.devices[0].kind
        run, joined = for_kind(self._step, kind)
        step = distribute(run, synchronized=synchronize_batch_norm)
        self._dealt = step.dealt
        self._n_buffers = len(step.stages) - 1
        self._n_exact = step.n_exact
        self._model_of = partial(StepModel, kind=kind, options={"threads": threads, "spinning": spinning, "cuda": cuda})
        *computing, updating = [stage.model for stage in step.stages]
        models = [self._model_of(model, tune=tune) for model in computing]
        # All devices must update alike, and so nothing is measured there. An update is never undone: devices agree on
        # the sums before, and one that stops ends the session.
        models.append(self._model_of(updating, writes=step.bindings, joined=joined))
        state, settings = self._step.state, self._step.optional
        self._replicas = [
            Replica(step, models, joined, state, settings, self._resident, device) for device in self.devices
        ]
        self._step.state.clear()
        self._loss = LossBuffer(self._replicas[0].loss)
        self._team = Team(len(self.devices))
        self._broken: str | None = None
        self._has_seen_feeds = False
        self._evaluations: dict[bool, tuple[ParallelEvaluation, list[FeedSpec], StepModel]] = {}
        self._join()

    def _join(self) -> None:
        """Take a place among all devices, and the weights of the first."""
        self._first, self._n_parts = self._engine.layout(len(self.devices))
        for tensors in self._held().values():
            self._engine.broadcast(tensors)

    @property
    def device_kind(self) -> str:
        return self.devices[0].kind

    def prepare(self, feeds: Mapping[str, Any]) -> Prepared:
        """Copy a batch to the devices, which may run a step meanwhile; `step` takes what is returned.

        One thread may prepare batches while another takes steps. Each batch that is prepared and not stepped on yet
        has memory of its own.

        Args:
            feeds: as of `step`.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
        """
        parts, settings = self._deal(feeds)
        prepared = [replica.prepare(part) for replica, part in zip(self._replicas, parts, strict=True)]
        return Prepared(prepared, settings, partial(_release, prepared))

    def step(self, feeds: Mapping[str, Any] | Prepared) -> Loss:
        """Take one training step.

        Args:
            feeds: the whole batch: an array for every input, of the dtype and shape that the file declares;
                ``learning_rate`` may be fed too and stays. Or what `prepare` returned.

        Returns:
            The loss of the batch before the update.

        Raises:
            ShapeError, DTypeError: a feed does not fit; then nothing was changed.
            IndexRangeError: a label or index is out of range; then nothing was changed.
            RunError: onnxruntime stopped; then nothing was changed, unless the message says so.
        """
        if self._broken is not None:
            raise RunError(self._broken)
        prepared = self._prepared(feeds)
        old = {name: self.read(name) for name in prepared.settings}
        for name, array in prepared.settings.items():
            self.write(name, array)
        self._loss.settle()
        try:
            self._reduce(prepared.content)
        except BaseException:
            for name, array in old.items():
                self.write(name, array)
            raise
        finally:
            prepared.release()
        try:
            self._run([replica.update for replica in self._replicas])
        except BaseException:
            self._broken = (
                f"{type(self).__name__}.step: the devices must have the same weights, got an update that stopped on "
                "some of them. Open a new session from the last checkpoint."
            )
            raise
        return self._loss.take()

    def _reduce(self, parts: Sequence[PreparedPart]) -> None:
        """Leave the sums of all devices in every buffer."""
        self._engine.together(partial(self._sum_gradients, parts))

    def _sum_gradients(self, parts: Sequence[PreparedPart]) -> None:
        for replica, part in zip(self._replicas, parts, strict=True):
            replica.begin(part)
        dealt = [part.part for part in parts]
        for i in range(self._n_buffers):
            self._run([partial(replica.compute, i) for replica in self._replicas], dealt)
            is_last = i == self._n_buffers - 1
            self._add_up([replica.buffers[i] for replica in self._replicas], self._n_exact if is_last else None)

    def _add_up(self, buffers: Sequence[Tensor], n_exact: int | None) -> None:
        self._engine.allreduce(buffers, n_exact)

    def _run(self, jobs: Sequence[Job], parts: Sequence[Part] = (), caller: str = "step") -> list[Any]:
        """Return what the devices give.

        Args:
            jobs: one for each.
            parts: what they run on, where that may be wrong.
            caller: for errors.
        """
        try:
            return self._team.run(jobs)
        except RenomError:
            raise
        except Exception as e:
            error = run_error(f"{type(self).__name__}.{caller}", e)
            for part in parts:
                error = self._index_ranges.explain(error, part.feeds, part.first)
            raise error from e

    def evaluate(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return the inference outputs with today's weights, and the loss where its targets are fed too.

        The rows are dealt to the devices of this process, if all outputs are made of rows.

        Args:
            feeds: an array for every input of the inference reading, and for all other inputs or none.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            RunError: onnxruntime stopped.
        """
        evaluation, found, n_rows = self._evaluated(feeds)
        outputs = {name: np.concatenate([part[name] for part in found]) for name in evaluation.outputs}
        if evaluation.loss:
            outputs[self.loss_name] = whole_loss(evaluation.loss, found, n_rows)
        return outputs

    def _evaluated(self, feeds: Mapping[str, Any]) -> tuple[ParallelEvaluation, list[dict[str, Array]], list[int]]:
        """Return the evaluation, and for each device that has rows what it gives and how many they are."""
        given = {name: array for name, array in feeds.items() if name not in self._step.optional}
        with_loss = self._wants_loss(given)
        evaluation, specs, model = self._evaluation(with_loss=with_loss)
        arrays, _ = check_feeds(f"{type(self).__name__}.evaluate", specs, given)
        rows = deal(len(arrays[evaluation.dealt[0]]), len(self._replicas)) if evaluation.dealt else [slice(0, 1)]
        is_none = isinstance(feeds, Shard)  # which has rows or nothing to do; a whole batch of no rows is run
        rows = [bounds for i, bounds in enumerate(rows) if (i == 0 and not is_none) or bounds.stop > bounds.start]
        parts = [{n: a[bounds] if n in evaluation.dealt else a for n, a in arrays.items()} for bounds in rows]
        jobs: list[Job] = [partial(r.evaluate, model, p) for r, p in zip(self._replicas, parts, strict=False)]
        jobs += [dict] * (len(self._replicas) - len(jobs))
        found = self._run(jobs, [Part(arrays, {}, 0, 1.0)], "evaluate")[: len(parts)]
        return evaluation, found, [bounds.stop - bounds.start for bounds in rows]

    def _evaluation(self, *, with_loss: bool) -> tuple[ParallelEvaluation, list[FeedSpec], StepModel]:
        if with_loss not in self._evaluations:
            made = parallel_evaluation(self._lowered, self._step, with_loss=with_loss)
            specs = [FeedSpec(*t) for t in input_types(made.model.graph) if t[0] not in self._step.bindings]
            self._evaluations[with_loss] = (made, specs, self._model_of(made.model))
        return self._evaluations[with_loss]

    def _deal(self, feeds: Mapping[str, Any]) -> tuple[list[Part], dict[str, Array]]:
        """Return the parts of this process's devices, and the settings that are fed."""
        caller = f"{type(self).__name__}.step"
        arrays, sizes = check_feeds(caller, self.feeds, feeds, tuple(self._step.optional))
        settings = {name: arrays.pop(name) for name in self._step.optional if name in arrays}
        if not self._has_seen_feeds:
            self.check_indices(arrays)
            self._has_seen_feeds = True
        rows = {name: len(arrays[name]) for name in self._dealt}
        n_rows = feeds.n_rows if isinstance(feeds, Shard) else rows[self._dealt[0]]
        dealt = self._own_parts(n_rows)
        wanted = dealt[-1].stop - dealt[0].start if isinstance(feeds, Shard) else n_rows
        if any(n != wanted for n in rows.values()) or not n_rows:
            got = ", ".join(f"{n} of {name}" for name, n in rows.items())
            if isinstance(feeds, Shard):
                raise ShapeError(
                    f"{caller}: a shard of {n_rows} rows must have the {wanted} of this process, got {got}. "
                    f"Take those that own_rows({n_rows}) tells."
                )
            raise ShapeError(f"{caller}: feeds must have the same number of rows, one at least, got {got}.")
        before = dealt[0].start if isinstance(feeds, Shard) else 0
        symbols = {str(spec.shape[0]) for spec in self.feeds if spec.name in self._dealt and spec.shape}
        parts: list[Part] = []
        for bounds in dealt:
            n = bounds.stop - bounds.start
            where = slice(bounds.start - before, bounds.stop - before)
            own = {name: array[where] if name in self._dealt else array for name, array in arrays.items()}
            own_sizes = {symbol: n if symbol in symbols else size for symbol, size in sizes.items()}
            parts.append(Part(own, own_sizes, bounds.start, n / self._divisor(n_rows)))
        return parts, settings

    def _own_parts(self, n_rows: int) -> list[slice]:
        """Return the rows of each device of this process."""
        return deal(n_rows, self._n_parts)[self._first : self._first + len(self.devices)]

    def _divisor(self, n_rows: int) -> int:
        """Return over how many rows a mean is taken."""
        return n_rows

    def own_rows(self, n_rows: int) -> slice:
        """Return which rows of a batch this process needs: all, but for one of several processes, for a `Shard`."""
        parts = self._own_parts(n_rows)
        return slice(parts[0].start, parts[-1].stop)

    @property
    def held_once(self) -> frozenset[str]:
        return self._replicas[0].state.held_once

    def _held(self) -> dict[str, Sequence[Tensor]]:
        held: dict[str, Sequence[Tensor]] = {
            name: [replica.state.now[name] for replica in self._replicas] for name in self._step.bindings
        }
        held.update((name, [r.settings[name] for r in self._replicas]) for name in self._step.optional)
        return held


def _release(parts: Sequence[PreparedPart]) -> None:
    for part in parts:
        part.release()


def whole_loss(parts: Sequence[LossPart], found: Sequence[Mapping[str, Array]], rows: Sequence[int]) -> Array:
    """Return the loss of all rows.

    Args:
        parts: what it is put together from.
        found: outputs of every device.
        rows: of every device.
    """
    total: Any = 0.0
    for part in parts:
        values = np.array([output[part.value] for output in found])
        if not part.is_mean:
            total = total + values.sum(0)
            continue
        weights = np.array(rows if part.divisor is None else [output[part.divisor] for output in found], np.float64)
        counts = weights > 0  # without labels that count, the part's own mean is no number
        shares = weights[counts] / weights.sum() if counts.any() else np.full(1, np.nan)
        total = total + np.tensordot(shares, values[counts] if counts.any() else values[:1], 1)
    return np.asarray(total, found[0][parts[0].value].dtype)
