"""`Replica`: one of several devices that train the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.converters.data_parallel import DistributedStep
from renom_onnx.converters.parallel_evaluation import ParallelEvaluation
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.graph.random import FIRST_SAMPLE
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """What one device is dealt of a batch.

    Attributes:
        feeds: its rows, and what every device is fed.
        sizes: of the symbols in the feeds' shapes.
        first: place of its first row in the whole batch.
        share: its rows over those of the whole batch; 0 for a device without rows, which only updates.
    """

    feeds: Mapping[str, Array]
    sizes: Mapping[str, int]
    first: int
    share: float


class Replica:
    """Weights, state and sessions of one device. Nothing of it that changes is another device's too.

    Args:
        step: the stages of a training step.
        models: their bytes.
        state: weights and optimizer state by name.
        settings: learning rate and the like by name.
        device: where it is.
        options: of the sessions, for `open_session`.
    """

    def __init__(
        self,
        step: DistributedStep,
        models: Sequence[bytes],
        state: Mapping[str, Array],
        settings: Mapping[str, Array],
        device: Device,
        options: Mapping[str, Any],
    ) -> None:
        self.device = device
        self._models, self._options = models, options
        first = {name: Tensor.from_array(array, device, name) for name, array in state.items()}
        second = {
            name: tensor if name in step.in_place else Tensor(tensor.shape, tensor.dtype, device, name)
            for name, tensor in first.items()
        }
        self._states = [first, second] if len(step.in_place) < len(first) else [first]
        self._current = 0
        self.settings = {name: Tensor.from_array(array, device, name) for name, array in settings.items()}
        if step.share is not None:
            self.settings[step.share] = Tensor.from_array(np.array(1.0), device, step.share)
        self._share = step.share
        self._loss_name = step.loss
        self._stages = step.stages
        self.buffers = [
            Tensor([stage.buffer.size], stage.buffer.dtype, device, stage.buffer.name)
            for stage in step.stages
            if stage.buffer is not None
        ]
        self.loss = Tensor([], self.buffers[-1].dtype, device, "loss")
        self._bindings = step.bindings
        self._update = self._open_update()
        known = {*self.settings, *first, *(buffer.name for buffer in self.buffers)}
        self._update_feeds = [name for name in step.stages[-1].inputs if name not in known]
        self._chains: BySize[_Chain] = BySize()
        self._chain: _Chain | None = None
        self._evaluations: dict[Any, Any] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """Today's weights and state."""
        return self._states[self._current]

    def begin(self, part: Part) -> None:
        """Take a part of the batch in."""
        self._write_to_update(part.feeds)
        self._chain = None
        if not part.share:
            return
        self._chain = self._chains.get(part.sizes, partial(_Chain, self))
        self._chain.write(part.feeds)
        self._set(self._share, part.share)
        self._set(str(FIRST_SAMPLE.name), part.first)

    def _set(self, name: str | None, value: float) -> None:
        tensor = self.settings.get(name or "")
        if tensor is not None:
            tensor.write(np.array(value, tensor.dtype))

    def compute(self, stage: int) -> None:
        """Run a stage and leave this device's summands in its buffer."""
        if self._chain is None:
            self.buffers[stage].write(np.zeros(self.buffers[stage].shape, self.buffers[stage].dtype))
        else:
            self._chain.run(stage, self._current)

    def update(self) -> None:
        """Run the last stage: with the sums of all devices, the next weights, state and loss."""
        session, bindings = self._update
        session.run_with_iobinding(bindings[self._current])
        self._current = (self._current + 1) % len(self._states)

    def evaluate(self, key: Any, evaluation: ParallelEvaluation, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of an evaluation with today's weights.

        Args:
            key: of the evaluation, whose session is kept.
            evaluation: what to run.
            feeds: a part of the rows.
        """
        if key not in self._evaluations:
            self._evaluations[key] = open_session(
                as_bytes(for_device(evaluation.model, self.device.kind)), self.device, **self._options
            )
        session = self._evaluations[key]
        binding = session.io_binding()
        kept = {name: Tensor.from_array(array, self.device, name) for name, array in feeds.items()}
        for value in session.get_inputs():
            binding.bind_ortvalue_input(value.name, (kept.get(value.name) or self.state[value.name]).value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        return {name: np.array(v.numpy()) for name, v in zip(names, binding.get_outputs(), strict=True)}

    def _write_to_update(self, feeds: Mapping[str, Array]) -> None:
        """Feed the last stage what it reads itself, which is the same on every device."""
        for name in self._update_feeds:
            tensor = Tensor.from_array(feeds[name], self.device, name)
            for binding in self._update[1]:
                binding.bind_ortvalue_input(name, tensor.value)

    def open(self, stage: int, dims: Mapping[str, int] | None = None) -> tuple[Any, list[Any]]:
        """Return a session of a stage, and a binding for each set of state, with all bound that stays where it is."""
        session = open_session(self._models[stage], self.device, dims=dims, **self._options)
        bindings = []
        for state in self._states:
            binding = session.io_binding()
            known = {**self.settings, **state, **{buffer.name: buffer for buffer in self.buffers}}
            for name in self._stages[stage].inputs:
                if name in known:
                    binding.bind_ortvalue_input(name, known[name].value)
            bindings.append(binding)
        return session, bindings

    def _open_update(self) -> tuple[Any, list[Any]]:
        session, bindings = self.open(len(self._stages) - 1)
        for parity, binding in enumerate(bindings):
            after = self._states[(parity + 1) % len(self._states)]
            for key, name in self._bindings.items():
                binding.bind_ortvalue_output(name, after[key].value)
            binding.bind_ortvalue_output(self._loss_name, self.loss.value)
        return session, bindings


class _Chain:
    """The computing stages for one size of the part, and what they hand to each other."""

    def __init__(self, replica: Replica, dims: Mapping[str, int] | None) -> None:
        self._device = replica.device
        self._stages = replica._stages[:-1]
        self._opened = [replica.open(i, dims) for i in range(len(self._stages))]
        self._inputs: dict[str, Tensor] = {}
        self._handed: list[list[str]] = []
        self._is_known: list[bool] = []
        self._is_settled: list[list[bool]] = []
        for stage, buffer, (session, bindings) in zip(self._stages, replica.buffers, self._opened, strict=True):
            for binding in bindings:
                binding.bind_ortvalue_output(buffer.name, buffer.value)
            self._handed.append([name for name in stage.outputs if name != buffer.name])
            shapes = {output.name: output.shape for output in session.get_outputs()}
            is_known = all(isinstance(d, int) for name in self._handed[-1] for d in shapes[name])
            self._is_known.append(is_known)
            self._is_settled.append([not self._handed[-1]] * len(bindings))

    def write(self, feeds: Mapping[str, Array]) -> None:
        """Copy a part into the input memory."""
        for name, array in feeds.items():
            tensor = self._inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self._inputs[name] = Tensor(array.shape, array.dtype, self._device, name)
                for stage, (_, bindings) in zip(self._stages, self._opened, strict=True):
                    for binding in bindings if name in stage.inputs else ():
                        binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)

    def run(self, stage: int, parity: int) -> None:
        """Run a stage; what later ones read of it stays on the device."""
        session, bindings = self._opened[stage]
        if self._is_settled[stage][parity]:
            session.run_with_iobinding(bindings[parity])
            return
        handed = self._handed[stage]
        for name in handed:
            bindings[parity].bind_output(name, self._device.kind, self._device.index)
        session.run_with_iobinding(bindings[parity])
        values = dict(zip(handed, bindings[parity].get_outputs()[1:], strict=True))
        for later in range(stage + 1, len(self._stages)):
            for name in values.keys() & set(self._stages[later].inputs):
                self._opened[later][1][parity].bind_ortvalue_input(name, values[name])
        # Where all sizes are known, onnxruntime writes into the same memory from now on.
        self._is_settled[stage][parity] = self._is_known[stage]
