"""`Replica`: one of several devices that train the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.data_parallel import DistributedStep
from renom_onnx.graph.random import FIRST_SAMPLE
from renom_onnx.runtime.chain import Chain, Memory, Slot
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.sizes import BySize
from renom_onnx.runtime.state import State
from renom_onnx.runtime.step_model import StepModel, open_chain
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


class PreparedPart:
    """A part that is on its device; `slot` is None for a device without rows."""

    def __init__(self, part: Part, chain: Chain | None, arrays: Mapping[str, Array]) -> None:
        self.part = part
        self._chain = chain
        self.slot: Slot | None = None if chain is None else chain.take(arrays)

    def release(self) -> None:
        """Give the memory back."""
        if self._chain is not None and self.slot is not None:
            self._chain.slots.give(self.slot)
            self.slot = None


class Replica:
    """Weights, state and sessions of one device. Nothing of it that changes is another device's too.

    Args:
        step: the stages of a training step.
        models: what opens their sessions.
        joined: which weights and states lie behind one another.
        arrays: weights and optimizer state by name.
        settings: learning rate and the like by name.
        resident: data that stay on the device, by the name of their input.
        device: where it is.
    """

    def __init__(
        self,
        step: DistributedStep,
        models: Sequence[StepModel],
        joined: Mapping[str, Sequence[str]],
        arrays: Mapping[str, Array],
        settings: Mapping[str, Array],
        resident: Mapping[str, Array],
        device: Device,
    ) -> None:
        self.device = device
        self._share, self._models = step.share, models[:-1]
        self.state = State(arrays, joined, models[-1].in_place, device)
        self.settings = {name: Tensor.from_array(array, device, name) for name, array in settings.items()}
        buffers = [stage.buffer for stage in step.stages if stage.buffer is not None]
        self.buffers = [Tensor([b.size], b.dtype, device, b.name) for b in buffers]
        self.loss = Tensor([], self.buffers[-1].dtype, device, "loss")
        fixed = {name: tensor for name, tensor in self.settings.items() if name != FIRST_SAMPLE.name}
        fixed.update((name, Tensor.from_array(array, device, name)) for name, array in resident.items())
        written = {step.loss: self.loss, **{buffer.name: buffer for buffer in self.buffers}}
        self._memory = Memory(device, self.state, step.bindings, written, fixed)
        # Not captured, because it writes over state: see `renom_onnx.runtime.capture`.
        self._update = open_chain(models[-1:], self._memory, {}, is_first=False).take({})
        known = self._memory.held(0)
        self._update_feeds = [name for name in step.stages[-1].inputs if name not in known]
        self._chains: BySize[Chain] = BySize()
        self._slot: Slot | None = None
        self._evaluations: dict[StepModel, Any] = {}

    def prepare(self, part: Part) -> PreparedPart:
        """Copy a part to the device, which may run a step meanwhile."""
        chain = self._chains.get(part.sizes, self._open_chain) if part.share else None
        arrays = {**part.feeds, str(FIRST_SAMPLE.name): np.array(part.first, np.int64)}
        if self._share is not None:
            arrays[self._share] = np.array(part.share)
        return PreparedPart(part, chain, arrays)

    def begin(self, prepared: PreparedPart) -> None:
        """Take a part as that of the next step."""
        self._slot = prepared.slot
        # What the update reads of the feeds itself is the same on every device.
        self._update.write({name: prepared.part.feeds[name] for name in self._update_feeds})

    def compute(self, stage: int) -> None:
        """Run a stage and leave this device's summands in its buffer."""
        if self._slot is None:
            self.buffers[stage].write(np.zeros(self.buffers[stage].shape, self.buffers[stage].dtype))
        else:
            self._slot.run(stage)

    def update(self) -> None:
        """Run the last stage: with the sums of all devices, the next weights, state and loss."""
        self._update.run()
        self.state.advance()

    def evaluate(self, model: StepModel, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of an evaluation with today's weights.

        Args:
            model: of the evaluation, whose session is kept.
            feeds: a part of the rows.
        """
        if model not in self._evaluations:
            self._evaluations[model] = model.open(self._memory, None)
        return self.state.evaluate(self._evaluations[model], feeds)

    def _open_chain(self, dims: Mapping[str, int] | None) -> Chain:
        return open_chain(self._models, self._memory, dims, is_first=not len(self._chains))
