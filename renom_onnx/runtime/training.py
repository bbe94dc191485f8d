"""`TrainingSession`: a trainable file on one device."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from renom_onnx.converters.export import write_file
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.signature import ModelProto, input_types, output_types
from renom_onnx.converters.surgery import strip
from renom_onnx.converters.training_info import (
    TrainingStep,
    evaluation_model,
    fill_state,
    training_step,
    without_state,
)
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import ConversionError
from renom_onnx.runtime.device import CudaOptions, Device, open_session, parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import FeedSpec, check_feeds
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]

MAX_FIXED_SESSIONS = 3
"""Batch sizes that get a session of their own; further ones share one without fixed sizes."""


class Loss:
    """The loss of a step: read from the device when first looked at.

    Example:
        >>> float(Loss.of(0.5))
        0.5
    """

    __slots__ = ("__weakref__", "_tensor", "_value")

    def __init__(self, tensor: Tensor | None, value: float | None = None) -> None:
        self._tensor = tensor
        self._value = value

    @classmethod
    def of(cls, value: float) -> Loss:
        """Return a loss that is known."""
        return cls(None, value)

    def __float__(self) -> float:
        if self._value is None:
            assert self._tensor is not None
            self._value = float(self._tensor.read().reshape(-1)[0])
            self._tensor = None
        return self._value

    def __repr__(self) -> str:
        return repr(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)


class _Run:
    """One session of a step and its bindings: from state set 0 to 1 and back."""

    def __init__(self, owner: TrainingSession, dims: dict[str, int] | None) -> None:
        self.session = open_session(owner._step_bytes, owner.device, dims=dims, **owner._session_options)
        self.bindings = [self.session.io_binding() for _ in range(2)]
        self.inputs: dict[str, Tensor] = {}
        for parity, binding in enumerate(self.bindings):
            for name, tensor in owner._optional.items():
                binding.bind_ortvalue_input(name, tensor.value)
            for key, next_name in owner._step.bindings.items():
                binding.bind_ortvalue_input(key, owner._state[parity][key].value)
                binding.bind_ortvalue_output(next_name, owner._state[1 - parity][key].value)
            binding.bind_ortvalue_output(owner._step.loss, owner._loss.value)

    def write(self, arrays: Mapping[str, Array], device: Device) -> None:
        """Copy the batch into the input buffers."""
        for name, array in arrays.items():
            tensor = self.inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self.inputs[name] = Tensor(array.shape, array.dtype, device, name)
                for binding in self.bindings:
                    binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)


class TrainingSession:
    """Trains a file that `export_training` wrote, without the program that made it.

    Parameters and optimizer state live on the device, twice: a step reads one set and writes the other. A step copies
    nothing but the batch. A batch size gets a session with all shapes known; the short last batch has one of its own.

    Args:
        model: a path, bytes or ModelProto with ``training_info``.
        device: "cpu", "cuda" or "cuda:1"; default: the best there is.
        threads: default: all cores.
        spinning: let idle workers of onnxruntime spin between steps: faster, and it costs a core.
        cuda: options of the CUDA provider.

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
        threads: int | None = None,
        spinning: bool = True,
        cuda: CudaOptions | None = None,
    ) -> None:
        proto = read_model(model)
        self.device = parse_device(device)
        self._step: TrainingStep = training_step(proto)
        self._step_bytes = as_bytes(self._step.model)
        self._model = without_state(proto, self._step.bindings)
        self._session_options: dict[str, Any] = {"threads": threads, "spinning": spinning, "cuda": cuda}
        types = {name: (dtype, shape) for name, dtype, shape in input_types(self._step.model.graph)}
        self.feeds = tuple(FeedSpec(name, *types[name]) for name in self._step.feeds)
        self.outputs = tuple(output.name for output in proto.graph.output)
        self.loss_name = self._step.loss
        self._state = [
            {name: Tensor.from_array(array, self.device, name) for name, array in self._step.state.items()}
            for _ in range(2)
        ]
        self._optional = {n: Tensor.from_array(a, self.device, n) for n, a in self._step.optional.items()}
        loss_type = {name: (dtype, shape) for name, dtype, shape in output_types(self._step.model.graph)}[
            self._step.loss
        ]
        self._loss = Tensor([1 for _ in loss_type[1] or ()], loss_type[0], self.device, "loss")
        self._step.state.clear()
        self._current = 0
        self._pending: weakref.ref[Loss] | None = None
        self._runs: dict[tuple[tuple[str, int], ...] | None, _Run] = {}
        self._evaluations: dict[bool, Any] = {}

    # Steps

    def step(self, feeds: Mapping[str, Any]) -> Loss:
        """Take one training step.

        Args:
            feeds: an array for every input, of the dtype and shape that the file declares; ``learning_rate`` may be
                fed too and stays.

        Returns:
            The loss of the batch before the update.

        Raises:
            ShapeError, DTypeError: a feed does not fit; then nothing was changed.
            RunError: onnxruntime stopped; then nothing was changed.
        """
        arrays, sizes = check_feeds("TrainingSession.step", self.feeds, feeds, tuple(self._optional))
        run = self._run(sizes)
        optional = {name: self._optional[name].read() for name in self._optional if name in arrays}
        for name in optional:
            self._optional[name].write(arrays.pop(name))
        run.write(arrays, self.device)
        previous = self._pending() if self._pending is not None else None
        if previous is not None:
            float(previous)  # its buffer is about to be written again
        try:
            run.session.run_with_iobinding(run.bindings[self._current])
        except Exception as e:
            for name, array in optional.items():
                self._optional[name].write(array)
            raise run_error("TrainingSession.step", e) from e
        self._current = 1 - self._current
        loss = Loss(self._loss)
        self._pending = weakref.ref(loss)
        return loss

    def _run(self, sizes: dict[str, int]) -> _Run:
        key = tuple(sorted(sizes.items()))
        found = self._runs.get(key)
        if found is None and len(self._runs) < MAX_FIXED_SESSIONS and all(size > 0 for size in sizes.values()):
            found = self._runs[key] = _Run(self, sizes)
        if found is None:
            if None not in self._runs:
                self._runs[None] = _Run(self, None)
            found = self._runs[None]
        return found

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
        with_loss = not self.targets or any(name in self.targets for name in given)
        if with_loss not in self._evaluations:
            model = evaluation_model(self._model, self._step, with_loss=with_loss)
            session = open_session(as_bytes(model), self.device, **self._session_options)
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
            raise run_error("TrainingSession.evaluate", e) from e
        results = [np.array(value.numpy()) for value in binding.get_outputs()]
        loss = {self._step.evaluation_loss: self._step.loss}
        return dict(zip((loss.get(name, name) for name in names), results, strict=True))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the feeds that only the loss reads."""
        inputs = {value.name for value in self._model.graph.input} | set(self._optional)
        return tuple(spec.name for spec in self.feeds if spec.name not in inputs)

    # State

    @property
    def parameters(self) -> dict[str, Array]:
        """Copies of the trainable weights by name."""
        return {name: self.read(name) for name in self._step.weights}

    @property
    def learning_rate(self) -> float:
        """Step size of the next step; assigning changes it.

        Raises:
            ConversionError: the training step has none that can be fed.
        """
        return float(self._rate().read())

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._rate().write(np.array(value, np.float32))

    def _rate(self) -> Tensor:
        if self._step.rate is None:
            raise ConversionError(
                "TrainingSession.learning_rate: the file must have a learning rate that can be fed, got none."
            )
        return self._optional[self._step.rate]

    def read(self, name: str) -> Array:
        """Return a copy of a weight, a state or a learning rate.

        Raises:
            ConversionError: nothing has this name.
        """
        return self._held("TrainingSession.read", name).read()

    def write(self, name: str, array: Array) -> None:
        """Replace a weight, a state or a learning rate.

        Raises:
            ConversionError: nothing has this name.
            ShapeError, DTypeError: the array does not fit.
        """
        self._held("TrainingSession.write", name).write(array)

    def _held(self, caller: str, name: str) -> Tensor:
        held = {**self._state[self._current], **self._optional}
        if name not in held:
            raise ConversionError(f"{caller}: the name must be one of {', '.join(held)}, got {name!r}.")
        return held[name]

    # Files

    def to_model(self, metadata: Mapping[str, str] | None = None) -> ModelProto:
        """Return the trainable model with today's weights, state and learning rate."""
        values = {name: self.read(name) for name in self._step.bindings}
        values.update((name, tensor.read()) for name, tensor in self._optional.items())
        return fill_state(self._model, values, metadata or {})

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the same trainable file with today's weights and state: a checkpoint from which training goes on.

        Training goes on bit for bit on the same machine, provider and thread count. The file is written whole or not
        at all.
        """
        write_file(self.to_model(metadata), path)

    def export_inference(self, path: str | os.PathLike[str]) -> None:
        """Write the inference reading alone, with today's weights."""
        write_file(strip(self.to_model()), path)
