"""The computing stages of a step on one device: sessions for one size of the part, and memory for the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.stages import Stage
from renom_onnx.graph.random import FIRST_SAMPLE
from renom_onnx.runtime.capture import Capture, uncaptured
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.prepared import Slots
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


@dataclass
class DeviceMemory:
    """What the stages of one device read and write besides its parts.

    Attributes:
        device: where it is.
        states: one or two sets of weights and state by name.
        fixed: settings, and data that stay on the device.
        buffers: one for each computing stage.
    """

    device: Device
    states: Sequence[Mapping[str, Tensor]]
    fixed: Mapping[str, Tensor]
    buffers: Sequence[Tensor]

    def bind(self, session: Any, names: Sequence[str]) -> list[Any]:
        """Return a binding of a session for each set of state, with all of these names bound that stay."""
        bindings = []
        for state in self.states:
            binding = session.io_binding()
            known = {**self.fixed, **state, **{buffer.name: buffer for buffer in self.buffers}}
            for name in names:
                if name in known:
                    binding.bind_ortvalue_input(name, known[name].value)
            bindings.append(binding)
        return bindings


class Chain:
    """The sessions of the computing stages, for one size of the part or for any.

    Args:
        stages: without the last one, which updates.
        sessions: of the stages.
        captures: how the runs of each are captured as CUDA graphs, None for not at all.
        memory: what is bound to them.
        share: name of the input that is fed the part's share of the rows, if any is.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        sessions: Sequence[Any],
        captures: Sequence[Capture | None],
        memory: DeviceMemory,
        share: str | None,
    ) -> None:
        self.stages = stages
        self.sessions = sessions
        self.captures = captures
        self.memory = memory
        self.share = share
        self.slots: Slots[ChainSlot] = Slots()

    def take(self, part: Part) -> ChainSlot:
        """Return a slot with a part in it."""
        slot = self.slots.take(lambda: ChainSlot(self))
        slot.write(part)
        return slot


class ChainSlot:
    """Input memory for a part, and the bindings through which the stages hand values on."""

    def __init__(self, chain: Chain) -> None:
        self._device = chain.memory.device
        self._stages, self._sessions, self._share = chain.stages, chain.sessions, chain.share
        self._inputs: dict[str, Tensor] = {}
        self._bindings: list[list[Any]] = []
        self._options: list[list[Any]] = []
        self._handed: list[list[str]] = []
        self._is_known: list[bool] = []
        for stage, session, capture, buffer in zip(
            chain.stages, chain.sessions, chain.captures, chain.memory.buffers, strict=True
        ):
            bindings = chain.memory.bind(session, stage.inputs)
            for binding in bindings:
                binding.bind_ortvalue_output(buffer.name, buffer.value)
            self._bindings.append(bindings)
            self._options.append([None if capture is None else capture.run_options() for _ in bindings])
            self._handed.append([name for name in stage.outputs if name != buffer.name])
            shapes = {output.name: output.shape for output in session.get_outputs()}
            self._is_known.append(all(isinstance(d, int) for name in self._handed[-1] for d in shapes[name]))
        self._is_settled = [[not handed] * len(self._bindings[0]) for handed in self._handed]

    def write(self, part: Part) -> None:
        """Copy a part into the input memory."""
        arrays = {**part.feeds, str(FIRST_SAMPLE.name): np.array(part.first, np.int64)}
        if self._share is not None:
            arrays[self._share] = np.array(part.share)
        for name, array in arrays.items():
            tensor = self._inputs.get(name)
            if tensor is None or tensor.shape != array.shape:
                tensor = self._inputs[name] = Tensor(array.shape, array.dtype, self._device, name)
                for stage, bindings in zip(self._stages, self._bindings, strict=True):
                    for binding in bindings if name in stage.inputs else ():
                        binding.bind_ortvalue_input(name, tensor.value)
            tensor.write(array)

    def run(self, stage: int, parity: int) -> None:
        """Run a stage on a set of state; what later ones read of it stays on the device."""
        session, binding, options = self._sessions[stage], self._bindings[stage][parity], self._options[stage][parity]
        if self._is_settled[stage][parity]:
            session.run_with_iobinding(binding, options)
            return
        handed = self._handed[stage]
        for name in handed:
            binding.bind_output(name, self._device.kind, self._device.index)
        session.run_with_iobinding(binding, None if options is None else uncaptured())
        values = dict(zip(handed, binding.get_outputs()[1:], strict=True))
        for later in range(stage + 1, len(self._stages)):
            for name in values.keys() & set(self._stages[later].inputs):
                self._bindings[later][parity].bind_ortvalue_input(name, values[name])
        # Where all sizes are known, onnxruntime writes into the same memory from now on.
        self._is_settled[stage][parity] = self._is_known[stage]
