"""`TrainingSession`: a trainable file on one device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.converters.cpu.joined_update import join_updates
from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.in_place import in_place
from renom_onnx.converters.signature import ModelProto, input_types, output_types
from renom_onnx.converters.training_info import evaluation_model
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.runtime.assignment import check_assignment, check_capturable
from renom_onnx.runtime.capture import Capture
from renom_onnx.runtime.cuda import CudaOptions, provider_names
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import MAX_SIGNATURES, FeedSpec, Signature, check_feeds, signature_of
from renom_onnx.runtime.loss import Loss, LossBuffer
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.specialization import for_sizes
from renom_onnx.runtime.step_run import StepMemory, StepRun, StepSlot
from renom_onnx.runtime.tensor import Tensor
from renom_onnx.runtime.trainable import Trainable
from renom_onnx.runtime.tuning import tuned

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
        self._cuda = cuda or CudaOptions()
        self._tunes = tune and self.device.kind == "cpu"
        if self._cuda.cuda_graph:
            check_capturable(self._step.model, str(self.device))
        run, self._joined = join_updates(self._step) if self.device.kind == "cpu" else (self._step, {})
        self._bindings = run.bindings
        self._step_bytes = as_bytes(for_device(run.model, self.device.kind))
        self._session_options: dict[str, Any] = {"threads": threads, "spinning": spinning, "cuda": cuda}
        self._in_place = self._safe_in_place(run.model) if self.device.kind == "cpu" else set()
        first = self._state_memory({})
        self._state = [first, self._state_memory({name: first[name] for name in self._in_place})]
        for name, array in self._step.state.items():
            self._state[0][name].write(array)
        self._optional = self._on_device(self._step.optional)
        dtype, shape = {name: (t, s) for name, t, s in output_types(self._step.model.graph)}[self._step.loss]
        self._loss = LossBuffer(Tensor([1 for _ in shape or ()], dtype, self.device, "loss"))
        fixed = {**self._optional, **self._on_device(self._resident)}
        self._memory = StepMemory(self.device, self._state, fixed, self._bindings, run.loss, self._loss.tensor)
        self._step.state.clear()
        self._current = 0
        self._runs: BySize[StepRun] = BySize()
        self._known: dict[Signature, StepRun] = {}
        self._evaluations: dict[bool, Any] = {}

    def _safe_in_place(self, model: ModelProto) -> set[str]:
        """Return the states that a step may write over while it runs, also if it ends with an error."""
        return in_place(model, self._bindings, self._joined, survives_errors=True)

    def _state_memory(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return memory for weights and state by name, and for those that are updated together.

        Args:
            shared: what the other set of state has, in whose place nothing is made.
        """
        arrays = self._step.state
        memory = dict(shared)
        for joined, members in self._joined.items():
            size = sum(arrays[name].size for name in members)
            whole = memory.setdefault(joined, Tensor([1, size], arrays[members[0]].dtype, self.device, joined))
            start = 0
            for name in members:
                memory[name] = whole.part(start, arrays[name].shape, name)
                start += arrays[name].size
        for name, array in arrays.items():
            if name not in memory:
                memory[name] = Tensor(array.shape, array.dtype, self.device, name)
        return memory

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

    def _checked(self, feeds: Mapping[str, Any]) -> tuple[StepRun, Mapping[str, Array], dict[str, Array]]:
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

    def _take(self, slot: StepSlot, settings: Mapping[str, Array]) -> None:
        """Run a step on the batch in a slot."""
        before = {name: self._optional[name].read() for name in settings}
        for name, array in settings.items():
            self._optional[name].write(array)
        self._loss.settle()
        try:
            slot.run(self._current)
        except Exception as e:
            for name, array in before.items():
                self._optional[name].write(array)
            fed = {name: tensor.read() for name, tensor in slot.inputs.items()}
            raise self._index_ranges.explain(run_error("TrainingSession.step", e), fed) from e
        self._current = 1 - self._current

    def _open_run(self, dims: dict[str, int] | None) -> StepRun:
        """Return a run; that of the first size is captured, if that is asked for."""
        captures = self._cuda.cuda_graph and dims is not None and not len(self._runs)
        checks = self.device.kind == "cuda" and dims is not None and (captures or self._cuda.strict)
        forms = self._tuned_forms(dims) if self._tunes and dims is not None else None
        model = self._specialized(dims, forms) or self._step_bytes
        session = open_session(
            model,
            self.device,
            dims=dims,
            capture=captures,
            record=checks,
            **self._session_options,
        )
        if checks:
            check_assignment(session, str(self.device), provider_names(), default_opset(self._step.model))
        return StepRun(session, self._memory, Capture() if captures else None)

    def _specialized(self, dims: Mapping[str, int] | None, forms: Collection[str] | None = None) -> bytes:
        """Return the step for some sizes; nothing where it could not write over the state that this session holds."""
        model = for_sizes(self._step_bytes, self.device, dims, forms)
        is_safe = model is self._step_bytes or self._in_place <= self._safe_in_place(read_model(model))
        return model if is_safe else b""

    def _tuned_forms(self, dims: Mapping[str, int]) -> frozenset[str]:
        """Return the forms that are fastest for some sizes."""
        held = {**self._state[self._current], **self._memory.fixed}
        values = {name: tensor.read() for name, tensor in held.items()}
        options = self._session_options
        key = self._step_bytes + repr((sorted(dims.items()), options["threads"], options["spinning"])).encode()
        return tuned(
            partial(self._specialized, dims),
            partial(open_session, device=self.device, dims=dims, **options),
            values,
            key,
        )

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
            session = open_session(as_bytes(for_device(model, self.device.kind)), self.device, **self._session_options)
            types = [FeedSpec(*t) for t in input_types(model.graph) if t[0] not in self._step.bindings]
            names = [o.name for o in model.graph.output]
            self._evaluations[with_loss] = (session, types, names)
        session, specs, names = self._evaluations[with_loss]
        arrays, _ = check_feeds("TrainingSession.evaluate", specs, given)
        binding = session.io_binding()
        for value in session.get_inputs():
            if value.name in self._step.bindings:
                binding.bind_ortvalue_input(value.name, self._state[self._current][value.name].value)
        kept = {name: Tensor.from_array(array, self.device, name) for name, array in arrays.items()}
        for name, tensor in kept.items():
            binding.bind_ortvalue_input(name, tensor.value)
        for name in names:
            binding.bind_output(name, "cpu")
        try:
            session.run_with_iobinding(binding)
        except Exception as e:
            raise self._index_ranges.explain(run_error("TrainingSession.evaluate", e), arrays) from e
        results = [np.array(value.numpy()) for value in binding.get_outputs()]
        loss = {self._step.evaluation_loss: self._step.loss}
        return dict(zip((loss.get(name, name) for name in names), results, strict=True))

    def _held(self) -> dict[str, Sequence[Tensor]]:
        state = {name: self._state[self._current][name] for name in self._step.bindings}
        return {name: [tensor] for name, tensor in {**state, **self._optional}.items()}
