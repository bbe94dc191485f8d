"""Reductions by NCCL: buffers of different GPUs are added over the links between them, without the host.

Complete, and not run yet on hardware; written for nccl4py 0.6, which comes with renom-onnx[nccl].

Source: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/usage/communicators.html (one process, many devices);
NCCL gives every device the same bits, and the same bits again for the same devices and version.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from renom_onnx.errors import DeviceError, first_line
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.reduction import HostReduction, Reduction
from renom_onnx.runtime.tensor import Tensor


def best_reduction(devices: Sequence[Device]) -> Reduction:
    """Return NCCL for different GPUs where it is installed, else a reduction in host memory.

    Example:
        >>> type(best_reduction([Device("cpu"), Device("cpu")])).__name__
        'HostReduction'
    """
    are_gpus = all(device.kind == "cuda" for device in devices)
    if are_gpus and len(set(devices)) == len(devices) > 1 and is_installed():
        return NcclReduction(devices)
    return HostReduction()


def is_installed() -> bool:
    """Whether nccl4py can be imported, which asks for CUDA's bindings and libraries."""
    try:
        importlib.import_module("nccl.core")
    except (ImportError, OSError, RuntimeError):
        return False
    return True


class NcclReduction(Reduction):
    """Adds on the GPUs, one communicator and one stream for each.

    onnxruntime has finished a run when it returns, and the sums have arrived when `sum` returns: the two need no common
    stream.

    Args:
        devices: different GPUs, in the order of the buffers.

    Raises:
        DeviceError: NCCL cannot be loaded, or cannot connect the devices.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        try:
            from cuda.core import Device as CudaDevice
            from nccl import core

            self._nccl: Any = core
            self._streams = []
            for device in devices:
                gpu = CudaDevice(device.index)
                gpu.set_current()
                self._streams.append(gpu.create_stream())
            self._communicators = core.Communicator.init_all([device.index for device in devices])
        except Exception as e:  # of the bindings, of NCCL and of CUDA, which have no common base
            raise DeviceError(
                f"NCCL: it must be able to connect {', '.join(map(str, devices))}, got {type(e).__name__}: "
                f"{first_line(e)}. Install renom-onnx[nccl], or give LocalEngine a HostReduction()."
            ) from e

    def sum(self, buffers: Sequence[Tensor]) -> None:
        def add(communicator: Any, value: Any, stream: Any) -> None:
            communicator.allreduce(value, value, self._nccl.SUM, stream=stream)

        self._together(buffers, add)

    def copy(self, buffers: Sequence[Tensor]) -> None:
        def spread(communicator: Any, value: Any, stream: Any) -> None:
            communicator.broadcast(value, value, 0, stream=stream)

        self._together(buffers, spread)

    def _together(self, buffers: Sequence[Tensor], call: Callable[[Any, Any, Any], None]) -> None:
        """Call a collective for every device as one group, and wait until it has ended on all."""
        with self._nccl.group():
            for communicator, buffer, stream in zip(self._communicators, buffers, self._streams, strict=True):
                call(communicator, buffer.value, stream)
        for stream in self._streams:
            stream.sync()

    def __del__(self) -> None:
        for communicator in getattr(self, "_communicators", ()):
            communicator.destroy()
