"""Local SGD: processes train apart for some steps, and then average what they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.runtime.device import Device
from renom_onnx.runtime.engine import Engine
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


def averages(engine: Engine, state: Mapping[str, Sequence[Tensor]], weight: float) -> dict[str, Array]:
    """Return the averages of weights and state over all processes; nothing is changed yet.

    Args:
        engine: what joins the processes.
        state: tensors by name, one for each device of this process, of the same values.
        weight: of this process: the rows that it trained on.

    Counts, which are no averages, are those of rank 0; all processes have the same.

    Example:
        >>> from renom_onnx.runtime import LocalEngine
        >>> w = Tensor.from_array(np.array([1, 2], np.float32), Device("cpu"))
        >>> averages(LocalEngine(), {"w": [w]}, 64)
        {'w': array([1., 2.], dtype=float32)}
    """
    arrays = {name: tensors[0].read() for name, tensors in state.items()}
    averaged = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    dtype = np.result_type(np.float32, *(array.dtype for array in averaged.values()))
    flat = np.concatenate([*(array.reshape(-1).astype(dtype) for array in averaged.values()), np.ones(1, dtype)])
    buffer = Tensor.from_array(flat * dtype.type(weight), Device("cpu"), "average")
    engine.allreduce([buffer])
    total = buffer.read()
    total /= total[-1]
    first = 0
    for name, array in averaged.items():
        arrays[name] = total[first : first + array.size].reshape(array.shape).astype(array.dtype)
        first += array.size
    for name, array in arrays.items():
        if name not in averaged:
            tensor = Tensor.from_array(array, Device("cpu"), name)
            engine.broadcast([tensor])
            arrays[name] = tensor.read()
    return arrays
