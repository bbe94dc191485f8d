"""`State`: weights and optimizer state on one device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.runtime.device import Device
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


class State:
    """Memory of weights and optimizer state by name, also of those that are updated together.

    A step reads one set of them and writes another. The two share what a step may write over; where that is all,
    there is one set.

    Args:
        arrays: what it begins with.
        joined: which lie behind one another, by the name of all of them together.
        in_place: which a step may write over, those that are updated together under their common name.
        device: where it is.

    Attributes:
        held_once: names of weights and states that both sets share, or that the only set has.
        sets: one or two.
        current: number of the one that the next step reads.

    Example:
        >>> arrays = {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
        >>> state = State(arrays, {"both": ["w", "b"]}, {"both"}, Device("cpu"))
        >>> state.now["both"].read(), len(state.sets), sorted(state.held_once)
        (array([[1., 1., 1., 1., 0., 0.]], dtype=float32), 1, ['b', 'w'])
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        joined: Mapping[str, Sequence[str]],
        in_place: Collection[str],
        device: Device,
    ) -> None:
        self._device = device
        first = self._memory(arrays, joined, {})
        for name, array in arrays.items():
            first[name].write(array)
        apart = first.keys() - set(in_place) - {name for member in joined.values() for name in member}
        shared = {name: first[name] for name in in_place}
        self.sets = [first, self._memory(arrays, joined, shared)] if apart else [first]
        self.held_once = frozenset(name for whole in in_place for name in joined.get(whole, [whole]))
        self.current = 0

    def _memory(
        self, arrays: Mapping[str, Array], joined: Mapping[str, Sequence[str]], shared: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return new memory, but for what another set shares."""
        memory = dict(shared)
        for whole_name, members in joined.items():
            size, dtype = sum(arrays[name].size for name in members), arrays[members[0]].dtype
            whole = memory.setdefault(whole_name, Tensor([1, size], dtype, self._device, whole_name))
            start = 0
            for name in members:
                memory[name] = whole.part(start, arrays[name].shape, name)
                start += arrays[name].size
        for name, array in arrays.items():
            if name not in memory:
                memory[name] = Tensor(array.shape, array.dtype, self._device, name)
        return memory

    @property
    def now(self) -> dict[str, Tensor]:
        """What the next step reads."""
        return self.sets[self.current]

    def advance(self) -> None:
        """Take what a step wrote for what the next one reads."""
        self.current = (self.current + 1) % len(self.sets)

    def evaluate(self, session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what a session gives out that reads weights, and these arrays besides."""
        binding = session.io_binding()
        fed = {name: Tensor.from_array(array, self._device, name) for name, array in feeds.items()}
        for value in session.get_inputs():
            binding.bind_ortvalue_input(value.name, (fed.get(value.name) or self.now[value.name]).value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        return {name: np.array(value.numpy()) for name, value in zip(names, binding.get_outputs(), strict=True)}
