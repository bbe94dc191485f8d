"""The sessions of a step on one device, one for each stage, and memory for the batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from renom_onnx.runtime.capture import Capture, uncaptured
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.prepared import Slots
from renom_onnx.runtime.state import State
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass
class Memory:
    """What the stages of a step read and write besides the batch, and stays where it is.

    Attributes:
        device: where it is.
        state: weights and optimizer state.
        bindings: next value by name of the state.
        written: what is written besides, which later stages read: the loss, and buffers.
        fixed: what is read and never written: settings, and data that stay on the device.
    """

    device: Device
    state: State
    bindings: Mapping[str, str]
    written: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def held(self, number: int) -> dict[str, Tensor]:
        """Return all that can be read, with one set of state."""
        return {**self.fixed, **self.written, **self.state.sets[number]}

    def bind(self, session: Any) -> list[Any]:
        """Return a binding of a session for each set of state, with all bound to it that is held here."""
        sets = self.state.sets
        inputs, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
        bindings = []
        for i in range(len(sets)):
            binding = session.io_binding()
            held, after = self.held(i), sets[(i + 1) % len(sets)]
            results = {**self.written, **{value: after[key] for key, value in self.bindings.items()}}
            for name in inputs:
                if name in held:
                    binding.bind_ortvalue_input(name, held[name].value)
            for name in outputs:
                if name in results:
                    binding.bind_ortvalue_output(name, results[name].value)
            bindings.append(binding)
        return bindings


class Chain:
    """Sessions that run one after the other, for one size of the batch or for any.

    Args:
        sessions: of the stages.
        memory: what is bound to them.
        captures: whether their runs are captured as CUDA graphs.
    """

    def __init__(self, sessions: Sequence[Any], memory: Memory, *, captures: bool = False) -> None:
        self.sessions = sessions
        self.memory = memory
        self.captures = [Capture() if captures else None for _ in sessions]
        self.slots: Slots[Slot] = Slots()

    def take(self, arrays: Mapping[str, Array]) -> Slot:
        """Return a slot with a batch in it."""
        slot = self.slots.take(partial(Slot, self))
        slot.write(arrays)
        return slot


class Slot:
    """Input memory for a batch, and the bindings through which the stages hand values on.

    Attributes:
        inputs: the memory by name.
    """

    def __init__(self, chain: Chain) -> None:
        memory = chain.memory
        self._sessions, self._device, self._state = chain.sessions, memory.device, memory.state
        self.inputs: dict[str, Tensor] = {}
        self._bindings = [memory.bind(session) for session in chain.sessions]
        self._options = [[capture and capture.run_options() for _ in memory.state.sets] for capture in chain.captures]
        self._reads = [{value.name for value in session.get_inputs()} for session in chain.sessions]
        bound = {*memory.written, *memory.bindings.values()}
        handed = [[v for v in session.get_outputs() if v.name not in bound] for session in chain.sessions]
        self._handed = [[value.name for value in values] for values in handed]
        self._is_known = [all(isinstance(d, int) for value in values for d in value.shape) for values in handed]
        self._is_settled = [[not values] * len(memory.state.sets) for values in handed]

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Copy a batch into the input memory."""
        for name, array in arrays.items():
            tensor = self.inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self.inputs[name] = Tensor(array.shape, array.dtype, self._device, name)
                for reads, bindings in zip(self._reads, self._bindings, strict=True):
                    for binding in bindings if name in reads else ():
                        binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)

    def run(self, stage: int = 0) -> None:
        """Run a stage on today's state; what later ones read of it stays on the device."""
        number = self._state.current
        session, binding, options = self._sessions[stage], self._bindings[stage][number], self._options[stage][number]
        if self._is_settled[stage][number]:
            session.run_with_iobinding(binding, options)
            return
        handed = self._handed[stage]
        for name in handed:
            binding.bind_output(name, self._device.kind, self._device.index)
        session.run_with_iobinding(binding, None if options is None else uncaptured())
        values = dict(zip(handed, binding.get_outputs()[-len(handed) :], strict=True))
        for reads, bindings in zip(self._reads[stage + 1 :], self._bindings[stage + 1 :], strict=True):
            for name in values.keys() & reads:
                bindings[number].bind_ortvalue_input(name, values[name])
        # Where all sizes are known, onnxruntime writes into the same memory from now on.
        self._is_settled[stage][number] = self._is_known[stage]
