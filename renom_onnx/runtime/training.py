"""`TrainingSession`: a trainable file on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.converters.signature import input_types, output_types
from renom_onnx.converters.training_info import evaluation_model
from renom_onnx.runtime.assignment import check_capturable
from renom_onnx.runtime.chain import Chain, Memory, Slot
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import MAX_SIGNATURES, FeedSpec, Signature, check_feeds, signature_of
from renom_onnx.runtime.loss import Loss, LossBuffer
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.state import State
from renom_onnx.runtime.step_model import StepModel, for_kind, open_chain
from renom_onnx.runtime.tensor import Tensor
from renom_onnx.runtime.trainable import Trainable

Array = np.ndarray[Any, Any]


class TrainingSession(Trainable):
    """Trains a file that `export_training` wrote, without the program that made it.

    Parameters and optimizer state live on the device. A step reads one set of them and writes another; on the CPU the
    two share what a step may safely write over. A step copies nothing but the batch. A batch size gets a session with
    all shapes known; the short last batch has one of its own.

    Args:
        model: a path, bytes or ModelProto with ``training_info``.
        device: "cpu", "cuda" or "cuda:1"; default: the best there is.
        training_info: which of the file's training steps: the position, or the name of the algorithm.
        threads: default: all cores.
        spinning: let idle workers of onnxruntime spin between steps: faster, and it costs a core.
        tune: on the CPU, choose the forms of the step by measuring them, in the place of a fixed rule, when a size of
            the batch is met for the first time; see `renom_onnx.runtime.tuning`.
        cuda: options of the CUDA provider.
        resident: data that stay on the device, all rows by feed. A step is then fed ``rows``, the numbers of its rows,
            in the place of these feeds, and gathers them there.

    Attributes:
        feeds: what `step` must be fed.
        outputs: names of the inference outputs, which `evaluate` returns.
        loss_name: under which `evaluate` returns the loss.

    Raises:
        ConversionError: the model cannot be read, or holds no training step.
        DeviceError: the device is not there.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x, y = np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32)
        >>> loss = rm.graph.MeanSquared()(rm.graph.Dense(1)(x), y)
        >>> model = rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1))
        >>> session = rm.runtime.TrainingSession(model, device="cpu")
        >>> losses = [float(session.step({"x": x, "y": y})) for _ in range(3)]
        >>> losses[0] > losses[1] > losses[2]
        True
    """

    def __init__(
        self,
        model: Any,
        device: str | None = None,
        *,
        training_info: int | str = 0,
        threads: int | None = None,
        spinning: bool = True,
        tune: bool = False,
        cuda: CudaOptions | None = None,
        resident: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(model, resident, training_info)
        self.device = parse_device(device)
        if cuda is not None and cuda.cuda_graph:
            check_capturable(self._step.model, str(self.device))
        kind = self.device.kind
        self._model_of = partial(StepModel, kind=kind, options={"threads": threads, "spinning": spinning, "cuda": cuda})
        run, joined = for_kind(self._step, kind)
        writes = run.bindings if kind == "cpu" else {}  # a captured step may run more than once
        self._step_model = self._model_of(run.model, writes=writes, joined=joined, survives_errors=True, tune=tune)
        self._state = State(self._step.state, joined, self._step_model.in_place, self.device)
        self._step.state.clear()
        self._optional = self._on_device(self._step.optional)
        dtype, shape = {name: (t, s) for name, t, s in output_types(self._step.model.graph)}[self._step.loss]
        self._loss = LossBuffer(Tensor([1 for _ in shape or ()], dtype, self.device, "loss"))
        fixed = {**self._optional, **self._on_device(self._resident)}
        self._memory = Memory(self.device, self._state, run.bindings, {run.loss: self._loss.tensor}, fixed)
        self._runs: BySize[Chain] = BySize()
        self._known: dict[Signature, Chain] = {}
        self._evaluations: dict[bool, Any] = {}

    def _on_device(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: Tensor.from_array(array, self.device, name) for name, array in arrays.items()}

    # Steps

    @property
    def device_kind(self) -> str:
        return self.device.kind

    def prepare(self, feeds: Mapping[str, Any]) -> Prepared:
        """Copy a batch to the device, which may run a step meanwhile; `step` takes what is returned.

        One thread may prepare batches while another takes steps. Each batch that is prepared and not stepped on yet
        has memory of its own.

        Args:
            feeds: as of `step`.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
        """
        run, arrays, settings = self._checked(feeds)
        slot = run.take(arrays)
        return Prepared(slot, settings, partial(run.slots.give, slot))

    def _checked(self, feeds: Mapping[str, Any]) -> tuple[Chain, Mapping[str, Array], dict[str, Array]]:
        """Return what runs on a batch, the batch, and the settings that are fed with it."""
        signature = signature_of(feeds)
        run = None if signature is None else self._known.get(signature)
        if run is not None:
            return run, feeds, {}
        arrays, sizes = check_feeds("TrainingSession.step", self.feeds, feeds, tuple(self._optional))
        settings = {name: arrays.pop(name) for name in self._optional if name in arrays}
        run = self._runs.get(sizes, self._open_run)
        if signature is not None and not settings and len(self._known) < MAX_SIGNATURES:
            self._index_ranges.check(arrays)
            self._known[signature] = run
        return run, arrays, settings

    def step(self, feeds: Mapping[str, Any] | Prepared) -> Loss:
        """Take one training step.

        Args:
            feeds: an array for every input, of the dtype and shape that the file declares; ``learning_rate`` may be
                fed too and stays. Or what `prepare` returned.

        Returns:
            The loss of the batch before the update.

        Raises:
            ShapeError, DTypeError: a feed does not fit; then nothing was changed.
            IndexRangeError: a label or index is out of range; then nothing was changed. CUDA's kernels tell of none,
                and no kernel of a class below 0; the first batch is checked here, and see `check_indices`.
            RunError: onnxruntime stopped; then nothing was changed, unless a CPU's memory was at its end.
        """
        if isinstance(feeds, Prepared):
            prepared = self._prepared(feeds)
            try:
                self._take(prepared.content, prepared.settings)
            finally:
                prepared.release()
        else:
            run, arrays, settings = self._checked(feeds)
            slot = run.take(arrays)
            try:
                self._take(slot, settings)
            finally:
                run.slots.give(slot)
        return self._loss.take()

    def _take(self, slot: Slot, settings: Mapping[str, Array]) -> None:
        """Run a step on the batch in a slot."""
        before = {name: self._optional[name].read() for name in settings}
        for name, array in settings.items():
            self._optional[name].write(array)
        self._loss.settle()
        try:
            slot.run()
        except Exception as e:
            for name, array in before.items():
                self._optional[name].write(array)
            fed = {name: tensor.read() for name, tensor in slot.inputs.items()}
            raise self._index_ranges.explain(run_error("TrainingSession.step", e), fed) from e
        self._state.advance()

    def _open_run(self, dims: dict[str, int] | None) -> Chain:
        return open_chain([self._step_model], self._memory, dims, is_first=not len(self._runs))

    def evaluate(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return the inference outputs with today's weights, and the loss where its targets are fed too.

        The session shares the weights' memory with the training session.

        Args:
            feeds: an array for every input of the inference reading, and for all other inputs or none.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            RunError: onnxruntime stopped.
        """
        given = {name: array for name, array in feeds.items() if name not in self._optional}
        with_loss = self._wants_loss(given)
        if with_loss not in self._evaluations:
            model = evaluation_model(self._lowered, self._step, with_loss=with_loss)
            session = self._model_of(model).open(self._memory, None)
            types = [FeedSpec(*t) for t in input_types(model.graph) if t[0] not in self._step.bindings]
            self._evaluations[with_loss] = (session, types)
        session, specs = self._evaluations[with_loss]
        arrays, _ = check_feeds("TrainingSession.evaluate", specs, given)
        try:
            found = self._state.evaluate(session, arrays)
        except Exception as e:
            raise self._index_ranges.explain(run_error("TrainingSession.evaluate", e), arrays) from e
        names = {self._step.evaluation_loss: self._step.loss}
        return {names.get(name, name): array for name, array in found.items()}

    @property
    def held_once(self) -> frozenset[str]:
        return self._state.held_once

    def _held(self) -> dict[str, Sequence[Tensor]]:
        state = {name: self._state.now[name] for name in self._step.bindings}
        return {name: [tensor] for name, tensor in {**state, **self._optional}.items()}
