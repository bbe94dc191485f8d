"""Devices and sessions: "cpu", "cuda", "cuda:1"; a session that is not where it was asked to be is an error."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.signature import holds_bfloat16
from renom_onnx.errors import DeviceError, RunError, first_line
from renom_onnx.runtime.ort import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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


@dataclass(frozen=True)
class CudaOptions:
    """Options of the CUDA provider, with the defaults that training wants.

    Attributes:
        use_tf32: round float32 products to TF32; off, so that results agree with the CPU's.
        cudnn_conv_algo_search: "HEURISTIC" picks at once; "EXHAUSTIVE" tries all for each new shape.
        arena_extend_strategy: "kSameAsRequested" leaves room for several sessions on one GPU.
        prefer_nhwc: let the provider move convolutions to NHWC.
        gpu_mem_limit_bytes: 0 for no limit.
    """

    use_tf32: bool = False
    cudnn_conv_algo_search: str = "HEURISTIC"
    arena_extend_strategy: str = "kSameAsRequested"
    prefer_nhwc: bool = False
    gpu_mem_limit_bytes: int = 0

    def provider_options(self, device: Device) -> dict[str, str]:
        """Return what onnxruntime is given."""
        options = {
            "device_id": str(device.index),
            "use_tf32": str(int(self.use_tf32)),
            "cudnn_conv_algo_search": self.cudnn_conv_algo_search,
            "arena_extend_strategy": self.arena_extend_strategy,
            "prefer_nhwc": str(int(self.prefer_nhwc)),
        }
        if self.gpu_mem_limit_bytes:
            options["gpu_mem_limit"] = str(self.gpu_mem_limit_bytes)
        return options


def parse_device(device: str | Device | None) -> Device:
    """Return the device of a name; None is the best there is.

    Raises:
        DeviceError: the name is no device, or this onnxruntime has no provider for it.

    Example:
        >>> print(parse_device("cpu"))
        cpu
    """
    if isinstance(device, Device):
        return device
    if device is None:
        return Device("cuda") if cuda_works() else Device("cpu")
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", str(device))
    if match is None or (match[1] == "cpu" and match[2] not in (None, "0")):
        raise DeviceError(f'device {device!r}: it must be "cpu", "cuda" or "cuda:<number>", got {device!r}.')
    parsed = Device(match[1], int(match[2] or 0))
    available = onnxruntime().get_available_providers()
    if parsed.provider not in available:
        has = ", ".join(p for p in available if p != "AzureExecutionProvider")
        raise DeviceError(
            f'device "{device}": this onnxruntime has no {parsed.provider} (it has: {has}). '
            f'Install renom-onnx[gpu], or use device="cpu".'
        )
    if parsed.kind == "cuda" and not cuda_works(parsed.index):
        raise _missing(parsed, _PROVIDERS["cpu"])
    return parsed


def _missing(device: Device, got: str) -> DeviceError:
    return DeviceError(
        f'device "{device}": onnxruntime must run on {device.provider}, got {got}: CUDA 13, cuDNN 9 or the GPU itself '
        f'is missing. Install renom-onnx[cuda], or use device="cpu".'
    )


@functools.cache
def cuda_works(index: int = 0) -> bool:
    """Whether a CUDA session can be opened: the provider may be listed without libraries or a GPU."""
    module = onnxruntime()
    if _PROVIDERS["cuda"] not in module.get_available_providers():
        return False
    if hasattr(module, "preload_dlls"):
        _preload(module)
    try:
        module.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", index)
    except Exception:  # whatever it says, there is no usable GPU
        return False
    return True


def _preload(module: Any) -> None:
    """Load CUDA from wheels; it prints about libraries that it does not find, which is not our user's business."""
    with contextlib.redirect_stdout(io.StringIO()):
        module.preload_dlls()


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _refused(error: Exception, model: bytes, device: Device) -> RunError:
    text = first_line(error)
    missing = re.search(r"implementation for (\w+)\(\d+\) node with name '([^']*)'", text)
    if missing and device.kind == "cpu" and holds_bfloat16(model):
        return RunError(
            f"{missing[1]}: bfloat16 must run on a GPU, got device \"cpu\" for the node with name '{missing[2]}'. "
            f'Use device="cuda", or autocast("float16").'
        )
    return RunError(f"onnxruntime refused the model: {text}.")


def open_session(
    model: bytes,
    device: Device,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    spinning: bool = True,
    shared_threads: bool = False,
    cuda: CudaOptions | None = None,
) -> Any:
    """Return an onnxruntime session that is on the device asked for.

    Args:
        model: its bytes.
        device: where it runs.
        dims: sizes of symbols, such as {"N": 64}: shapes are then known and folded away.
        threads: of the session; default: all cores.
        spinning: let idle workers spin for about 50 ms, which makes small steps faster and costs a core.
        shared_threads: use the process's pool instead of one for this session.
        cuda: options of the CUDA provider.

    Raises:
        DeviceError: onnxruntime put the session on another provider.
        RunError: onnxruntime refused the model.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 4
    for name, size in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if shared_threads:
        options.use_per_session_threads = False
    provider: Any = device.provider
    if device.kind == "cuda":
        cuda_works()  # loads the libraries
        provider = (device.provider, (cuda or CudaOptions()).provider_options(device))
    try:
        session = module.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception as e:
        raise _refused(e, model, device) from e
    got = session.get_providers()[0]
    if got != device.provider:
        raise _missing(device, got)
    session.disable_fallback()
    return session
