"""Devices: "cpu", "cuda", "cuda:1"; what is not there is an error that says what to install."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.cuda import CUDA, cuda_works, gpu_count, plugin_devices
from renom_onnx.runtime.ort import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": CUDA}


@dataclass(frozen=True)
class Device:
    """A device of onnxruntime: kind "cpu" or "cuda", and its number.

    Example:
        >>> print(Device("cuda", 1))
        cuda:1
    """

    kind: str
    index: int = 0

    @property
    def provider(self) -> str:
        """Name of the execution provider."""
        return _PROVIDERS[self.kind]

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


_default: list[Device | None] = [None]


def default_device() -> Device:
    """Return where a model runs that names no device: what `set_default_device` set, else the best there is."""
    return _default[0] or (Device("cuda") if cuda_works() else Device("cpu"))


def set_default_device(device: str | Device | None) -> Device | None:
    """Let models that name no device run on this one, in this process; None: on the best there is.

    Returns:
        What was set before, to be set again.

    Raises:
        DeviceError: the device is not there.

    Example:
        >>> before = set_default_device("cpu")
        >>> print(default_device())
        cpu
        >>> _ = set_default_device(before)
    """
    before, _default[0] = _default[0], None if device is None else parse_device(device)
    return before


def parse_device(device: str | Device | None) -> Device:
    """Return the device of a name; None is the default, see `default_device`.

    Raises:
        DeviceError: the name is no device, or this onnxruntime has no provider for it.

    Example:
        >>> print(parse_device("cpu"))
        cpu
    """
    if isinstance(device, Device):
        return device
    if device is None:
        return default_device()
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", str(device))
    if match is None or (match[1] == "cpu" and match[2] not in (None, "0")):
        raise DeviceError(f'device {device!r}: it must be "cpu", "cuda" or "cuda:<number>", got {device!r}.')
    parsed = Device(match[1], int(match[2] or 0))
    available = onnxruntime().get_available_providers()
    if parsed.provider not in available and not (parsed.kind == "cuda" and plugin_devices()):
        has = ", ".join(p for p in available if p != "AzureExecutionProvider")
        raise DeviceError(
            f'device "{device}": this onnxruntime has no {parsed.provider} (it has: {has}). '
            f'Install renom-onnx[gpu], or use device="cpu".'
        )
    if parsed.kind == "cuda" and not cuda_works(parsed.index):
        raise missing(parsed, _PROVIDERS["cpu"])
    return parsed


def missing(device: Device, got: str) -> DeviceError:
    """Return what to raise where onnxruntime does not run on the device asked for."""
    return DeviceError(
        f'device "{device}": onnxruntime must run on {device.provider}, got {got}: CUDA 13, cuDNN 9 or the GPU itself '
        f'is missing. Install renom-onnx[cuda], or use device="cpu".'
    )


@dataclass(frozen=True)
class DeviceInfo:
    """A device that sessions can be opened on.

    Attributes:
        name: what to call it: "cpu", "cuda:0".
        provider: onnxruntime's name for what runs there.
        packaging: "built in" or "plugin".
        detail: cores, or the vendor.
    """

    name: str
    provider: str
    packaging: str
    detail: str


def devices() -> list[DeviceInfo]:
    """Return the devices that there are, the CPU first.

    Example:
        >>> devices()[0].name
        'cpu'
    """
    found = [DeviceInfo("cpu", _PROVIDERS["cpu"], "built in", f"{core_count()} cores")]
    plugged = plugin_devices()
    for i in range(gpu_count()):
        provider = str(plugged[i].ep_name) if plugged else CUDA
        vendor = str(plugged[i].device.vendor) if plugged else "NVIDIA"
        found.append(DeviceInfo(f"cuda:{i}", provider, "plugin" if plugged else "built in", vendor))
    return found


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
