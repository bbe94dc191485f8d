"""`TrainingSession`: a trainable file on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.converters.signature import input_types, output_types
from renom_onnx.converters.training_info import evaluation_model
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import Device, parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import FeedSpec, check_feeds
from renom_onnx.runtime.loss import Loss, LossBuffer
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.tensor import Tensor
from renom_onnx.runtime.trainable import Trainable

Array = np.ndarray[Any, Any]


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
            binding.bind_ortvalue_output(owner._step.loss, owner._loss.tensor.value)

    def write(self, arrays: Mapping[str, Array], device: Device) -> None:
        """Copy the batch into the input buffers."""
        for name, array in arrays.items():
            tensor = self.inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self.inputs[name] = Tensor(array.shape, array.dtype, device, name)
                for binding in self.bindings:
                    binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)


class TrainingSession(Trainable):
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
        super().__init__(model)
        self.device = parse_device(device)
        self._step_bytes = as_bytes(for_device(self._step.model, self.device.kind))
        self._session_options: dict[str, Any] = {"threads": threads, "spinning": spinning, "cuda": cuda}
        self._state = [
            {name: Tensor.from_array(array, self.device, name) for name, array in self._step.state.items()}
            for _ in range(2)
        ]
        self._optional = {n: Tensor.from_array(a, self.device, n) for n, a in self._step.optional.items()}
        dtype, shape = {name: (t, s) for name, t, s in output_types(self._step.model.graph)}[self._step.loss]
        self._loss = LossBuffer(Tensor([1 for _ in shape or ()], dtype, self.device, "loss"))
        self._step.state.clear()
        self._current = 0
        self._runs: BySize[_Run] = BySize()
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
        run = self._runs.get(sizes, partial(_Run, self))
        optional = {name: self._optional[name].read() for name in self._optional if name in arrays}
        for name in optional:
            self._optional[name].write(arrays.pop(name))
        run.write(arrays, self.device)
        self._loss.settle()
        try:
            run.session.run_with_iobinding(run.bindings[self._current])
        except Exception as e:
            for name, array in optional.items():
                self._optional[name].write(array)
            raise run_error("TrainingSession.step", e) from e
        self._current = 1 - self._current
        return self._loss.take()

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
            raise run_error("TrainingSession.evaluate", e) from e
        results = [np.array(value.numpy()) for value in binding.get_outputs()]
        loss = {self._step.evaluation_loss: self._step.loss}
        return dict(zip((loss.get(name, name) for name in names), results, strict=True))

    def _held(self) -> dict[str, Sequence[Tensor]]:
        return {name: [tensor] for name, tensor in {**self._state[self._current], **self._optional}.items()}
