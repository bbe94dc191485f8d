"""`Replica`: one of several devices that train the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.data_parallel import DistributedStep
from renom_onnx.converters.importer import default_opset
from renom_onnx.converters.parallel_evaluation import ParallelEvaluation
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.graph.random import FIRST_SAMPLE
from renom_onnx.runtime.assignment import check_assignment
from renom_onnx.runtime.capture import Capture
from renom_onnx.runtime.chain import Chain, ChainSlot, DeviceMemory, Part
from renom_onnx.runtime.cuda import CudaOptions, provider_names
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.specialization import for_sizes
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


class PreparedPart:
    """A part that is on its device; `slot` is None for a device without rows."""

    def __init__(self, part: Part, chain: Chain | None) -> None:
        self.part = part
        self._chain = chain
        self.slot: ChainSlot | None = None if chain is None else chain.take(part)

    def release(self) -> None:
        """Give the memory back."""
        if self._chain is not None and self.slot is not None:
            self._chain.slots.give(self.slot)
            self.slot = None


class Replica:
    """Weights, state and sessions of one device. Nothing of it that changes is another device's too.

    Args:
        step: the stages of a training step.
        models: their bytes.
        state: weights and optimizer state by name.
        settings: learning rate and the like by name.
        resident: data that stay on the device, by the name of their input.
        device: where it is.
        options: of the sessions, for `open_session`.
    """

    def __init__(
        self,
        step: DistributedStep,
        models: Sequence[bytes],
        state: Mapping[str, Array],
        settings: Mapping[str, Array],
        resident: Mapping[str, Array],
        device: Device,
        options: Mapping[str, Any],
    ) -> None:
        self.device = device
        self._step, self._models, self._options = step, models, options
        self._cuda: CudaOptions = options["cuda"] or CudaOptions()
        first = {name: Tensor.from_array(array, device, name) for name, array in state.items()}
        second = {
            name: tensor if name in step.in_place else Tensor(tensor.shape, tensor.dtype, device, name)
            for name, tensor in first.items()
        }
        self._states = [first, second] if len(step.in_place) < len(first) else [first]
        self._current = 0
        self.settings = {name: Tensor.from_array(array, device, name) for name, array in settings.items()}
        held = {name: Tensor.from_array(array, device, name) for name, array in resident.items()}
        buffers = [stage.buffer for stage in step.stages if stage.buffer is not None]
        self.buffers = [Tensor([b.size], b.dtype, device, b.name) for b in buffers]
        self.loss = Tensor([], self.buffers[-1].dtype, device, "loss")
        own = {name: tensor for name, tensor in self.settings.items() if name != FIRST_SAMPLE.name}
        self._memory = DeviceMemory(device, self._states, {**own, **held}, self.buffers)
        self._update = self._open_update()
        known = {*own, *held, *first, *(buffer.name for buffer in self.buffers)}
        self._update_feeds = [name for name in step.stages[-1].inputs if name not in known]
        self._chains: BySize[Chain] = BySize()
        self._slot: ChainSlot | None = None
        self._evaluations: dict[Any, Any] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """Today's weights and state."""
        return self._states[self._current]

    def prepare(self, part: Part) -> PreparedPart:
        """Copy a part to the device, which may run a step meanwhile."""
        chain = self._chains.get(part.sizes, self._open_chain) if part.share else None
        return PreparedPart(part, chain)

    def begin(self, prepared: PreparedPart) -> None:
        """Take a part as that of the next step."""
        self._slot = prepared.slot
        for name in self._update_feeds:  # what the last stage reads itself, which is the same on every device
            tensor = Tensor.from_array(prepared.part.feeds[name], self.device, name)
            for binding in self._update[1]:
                binding.bind_ortvalue_input(name, tensor.value)

    def compute(self, stage: int) -> None:
        """Run a stage and leave this device's summands in its buffer."""
        if self._slot is None:
            self.buffers[stage].write(np.zeros(self.buffers[stage].shape, self.buffers[stage].dtype))
        else:
            self._slot.run(stage, self._current)

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
            model = as_bytes(for_device(evaluation.model, self.device.kind))
            self._evaluations[key] = open_session(model, self.device, **self._options)
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

    def _open_chain(self, dims: Mapping[str, int] | None) -> Chain:
        """Return the sessions of the computing stages; those of the first size are captured, if that is asked for."""
        captures = self._cuda.cuda_graph and dims is not None and not len(self._chains)
        stages = self._step.stages[:-1]
        sessions = [self._open(i, dims, captures=captures) for i in range(len(stages))]
        return Chain(
            stages, sessions, [Capture() if captures else None for _ in stages], self._memory, self._step.share
        )

    def _open(self, stage: int, dims: Mapping[str, int] | None, *, captures: bool) -> Any:
        is_last = stage == len(self._models) - 1
        checks = self.device.kind == "cuda" and (captures or (self._cuda.strict and (is_last or dims is not None)))
        model = for_sizes(self._models[stage], self.device, dims)
        session = open_session(model, self.device, dims=dims, capture=captures, record=checks, **self._options)
        if checks:
            opset = default_opset(self._step.stages[stage].model)
            check_assignment(session, str(self.device), provider_names(), opset)
        return session

    def _open_update(self) -> tuple[Any, list[Any]]:
        """Return session and bindings of the last stage. It is not captured: see `renom_onnx.runtime.capture`."""
        session = self._open(len(self._models) - 1, None, captures=False)
        bindings = self._memory.bind(session, self._step.stages[-1].inputs)
        for parity, binding in enumerate(bindings):
            after = self._states[(parity + 1) % len(self._states)]
            for key, name in self._step.bindings.items():
                binding.bind_ortvalue_output(name, after[key].value)
            binding.bind_ortvalue_output(self._step.loss, self.loss.value)
        return session, bindings
