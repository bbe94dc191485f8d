"""`Tensor`: onnxruntime's OrtValue, wrapped once.

The raw class reinterprets element types, reads past the end of buffers and can crash the process when its memory
belongs to NumPy. This one owns its memory through onnxruntime and checks every write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import DeviceError, DTypeError, ShapeError, first_line
from renom_onnx.graph.node import type_text
from renom_onnx.graph.rows import Picked
from renom_onnx.runtime.cuda import allocate
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.ort import onnxruntime


class Tensor:
    """An array in the memory of a device.

    Args:
        shape: its sizes.
        dtype: its element type.
        device: where it lives.
        name: for errors.
    """

    __slots__ = ("_memory", "device", "dtype", "name", "shape", "value")

    def __init__(self, shape: Sequence[int], dtype: Any, device: Device, name: str = "tensor") -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.device = device
        self.name = name
        try:
            if device.kind == "cuda":
                self.value = allocate(list(self.shape), self.dtype.type, device.index)
            else:
                self.value = onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(self.shape), self.dtype.type)
        except Exception as e:  # no memory, or no such device
            raise DeviceError(
                f'{name}: device "{device}" must have memory for {type_text(self.dtype, self.shape)}, got: '
                f"{first_line(e)}."
            ) from e
        self._memory: np.ndarray[Any, Any] | None = self.value.numpy() if device.kind == "cpu" else None

    @classmethod
    def from_array(cls, array: np.ndarray[Any, Any], device: Device, name: str = "tensor") -> Tensor:
        """Return a tensor that holds a copy of the array."""
        tensor = cls(array.shape, array.dtype, device, name)
        tensor.write(array)
        return tensor

    def part(self, start: int, shape: Sequence[int], name: str) -> Tensor:
        """Return a tensor of some elements of this one, in their order, on the CPU: it has no memory of its own."""
        assert self._memory is not None
        part = Tensor.__new__(Tensor)
        part.shape, part.dtype, part.device, part.name = tuple(shape), self.dtype, self.device, name
        part._memory = self._memory.reshape(-1)[start : start + math.prod(shape)].reshape(part.shape)
        part.value = onnxruntime().OrtValue.ortvalue_from_numpy(part._memory)
        return part

    def write(self, array: np.ndarray[Any, Any] | Picked) -> None:
        """Copy an array in.

        Raises:
            ShapeError: its shape is another.
            DTypeError: its element type is another.
        """
        if array.dtype != self.dtype:
            raise DTypeError(f"{self.name}: an array must be {self.dtype.name}, got {array.dtype.name}.")
        if array.shape != self.shape:
            raise ShapeError(f"{self.name}: an array must have shape {list(self.shape)}, got {list(array.shape)}.")
        if self._memory is not None:
            if type(array) is Picked:
                array.copy_to(self._memory)
            else:
                np.copyto(self._memory, array)
        elif 0 not in array.shape:
            self.value.update_inplace(np.asarray(array, order="C"))

    def read(self) -> np.ndarray[Any, Any]:
        """Return a copy in host memory."""
        return np.array(self.view())

    def item(self) -> float:
        """Return the one element that it has."""
        return float(self.view().item())

    def view(self) -> np.ndarray[Any, Any]:
        """Return the memory itself where the host can write it, else a copy; `commit` makes changes count."""
        array: np.ndarray[Any, Any] = self.value.numpy() if self._memory is None else self._memory
        return array

    def commit(self, view: np.ndarray[Any, Any]) -> None:
        """Copy a changed `view` back to a device whose memory the host cannot write."""
        if self.device.kind != "cpu":
            self.write(view)
