"""One session of a fused step, and the memory that is bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.runtime.capture import Capture
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.prepared import Slots
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass
class StepMemory:
    """What a step reads and writes besides the batch.

    Attributes:
        device: where it is.
        state: two sets of weights and state by name: a step reads one and writes the other.
        fixed: what every step reads and none writes: settings, and data that stay on the device.
        bindings: next value by name.
        loss_name: of the loss.
        loss: where it is written.
    """

    device: Device
    state: list[dict[str, Tensor]]
    fixed: dict[str, Tensor]
    bindings: Mapping[str, str]
    loss_name: str
    loss: Tensor


class StepRun:
    """A session for one size of the batch, or for any, and its slots for batches.

    Args:
        session: of onnxruntime.
        memory: what is bound to it.
        capture: how its runs are captured as CUDA graphs; None for not at all.
    """

    def __init__(self, session: Any, memory: StepMemory, capture: Capture | None) -> None:
        self.session = session
        self._memory = memory
        self._capture = capture
        self.slots: Slots[StepSlot] = Slots()

    def take(self, arrays: Mapping[str, Array]) -> StepSlot:
        """Return a slot with a batch in it."""
        slot = self.slots.take(partial(StepSlot, self.session, self._memory, self._capture))
        slot.write(arrays)
        return slot


class StepSlot:
    """Input memory, and the bindings that run it from state set 0 to 1 and back."""

    def __init__(self, session: Any, memory: StepMemory, capture: Capture | None) -> None:
        self._session = session
        self._device = memory.device
        self.inputs: dict[str, Tensor] = {}
        self._bindings = [session.io_binding() for _ in range(2)]
        self._options = [None if capture is None else capture.run_options() for _ in range(2)]
        known = {value.name for value in session.get_inputs()}
        for parity, binding in enumerate(self._bindings):
            for name, tensor in {**memory.fixed, **memory.state[parity]}.items():
                if name in known:
                    binding.bind_ortvalue_input(name, tensor.value)
            for key, next_name in memory.bindings.items():
                binding.bind_ortvalue_output(next_name, memory.state[1 - parity][key].value)
            binding.bind_ortvalue_output(memory.loss_name, memory.loss.value)

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Copy a batch in."""
        for name, array in arrays.items():
            tensor = self.inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self.inputs[name] = Tensor(array.shape, array.dtype, self._device, name)
                for binding in self._bindings:
                    binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)

    def run(self, parity: int) -> None:
        """Take a step from one state set to the other."""
        self._session.run_with_iobinding(self._bindings[parity], self._options[parity])
