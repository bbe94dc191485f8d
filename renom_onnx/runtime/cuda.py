"""CUDA: options of the provider, and the provider itself, whichever way it is packaged.

onnxruntime-gpu has the CUDA provider built in; onnxruntime with one of the packages onnxruntime-ep-cuda12 and
onnxruntime-ep-cuda13 has it as a plugin. A session is on "cuda:0" with either.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.ort import onnxruntime

CUDA = "CUDAExecutionProvider"
PLUGIN = "onnxruntime_ep_cuda"
_CHOICES = {
    "cudnn_conv_algo_search": ("HEURISTIC", "EXHAUSTIVE", "DEFAULT"),
    "arena_extend_strategy": ("kSameAsRequested", "kNextPowerOfTwo"),
}


@dataclass(frozen=True)
class CudaOptions:
    """Options of the CUDA provider, with the defaults that training wants.

    Attributes:
        use_tf32: round float32 products to TF32; off, so that results agree with the CPU's. cuDNN does not ask: the
            environment's NVIDIA_TF32_OVERRIDE=0 turns it off there too.
        cudnn_conv_algo_search: "HEURISTIC" picks at once; "EXHAUSTIVE" tries all for each new shape; "DEFAULT" takes
            one for all.
        cudnn_conv_use_max_workspace: let convolutions have as much memory as their fastest algorithm asks for.
        cudnn_conv1d_pad_to_nc1d: compute one-dimensional convolutions as two-dimensional ones of width 1 in front.
        fuse_conv_bias: let cuDNN add the bias of a convolution.
        prefer_nhwc: let the provider move convolutions to NHWC.
        arena_extend_strategy: "kSameAsRequested" leaves room for several sessions on one GPU; "kNextPowerOfTwo" asks
            the driver less often.
        gpu_mem_limit_bytes: of a session's arena; 0 for no limit.
        cuda_graph: capture the step for the first batch size as a CUDA graph, which starts all its kernels at once;
            other batch sizes run without. Every node must be on the GPU, and none may be control flow.
        strict: refuse a training step of which a node is not on the GPU.
        more: further provider options, as onnxruntime names them.

    Raises:
        DeviceError: a choice is none of those that there are.

    Example:
        >>> CudaOptions(use_tf32=True).provider_options(1)["use_tf32"]
        '1'
    """

    use_tf32: bool = False
    cudnn_conv_algo_search: str = "HEURISTIC"
    cudnn_conv_use_max_workspace: bool = True
    cudnn_conv1d_pad_to_nc1d: bool = False
    fuse_conv_bias: bool = False
    prefer_nhwc: bool = False
    arena_extend_strategy: str = "kSameAsRequested"
    gpu_mem_limit_bytes: int = 0
    cuda_graph: bool = False
    strict: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise DeviceError(
                    f"CudaOptions: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )

    def provider_options(self, index: int, *, capture: bool = False) -> dict[str, str]:
        """Return what onnxruntime is given.

        Args:
            index: number of the GPU.
            capture: whether the session's runs are captured as CUDA graphs.
        """
        options = {
            "device_id": str(index),
            "use_tf32": str(int(self.use_tf32)),
            "cudnn_conv_algo_search": self.cudnn_conv_algo_search,
            "cudnn_conv_use_max_workspace": str(int(self.cudnn_conv_use_max_workspace)),
            "cudnn_conv1d_pad_to_nc1d": str(int(self.cudnn_conv1d_pad_to_nc1d)),
            "fuse_conv_bias": str(int(self.fuse_conv_bias)),
            "prefer_nhwc": str(int(self.prefer_nhwc)),
            "arena_extend_strategy": self.arena_extend_strategy,
            "enable_cuda_graph": str(int(capture)),
        }
        if self.gpu_mem_limit_bytes:
            options["gpu_mem_limit"] = str(self.gpu_mem_limit_bytes)
        return {**options, **self.more}


@functools.cache
def plugin_devices() -> tuple[Any, ...]:
    """Return the GPUs that the plugin offers, in their order; none where it is not installed.

    Raises:
        DeviceError: the plugin is installed and cannot be registered.
    """
    try:
        plugin = importlib.import_module(PLUGIN)
    except ImportError:
        return ()
    module = onnxruntime()
    if hasattr(module, "preload_dlls"):
        _preload(module)
    name = plugin.get_ep_name()
    try:
        module.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as e:
        if "already registered" not in str(e).lower():
            raise DeviceError(
                f"{PLUGIN}: onnxruntime must be able to load the plugin, got {type(e).__name__}: {e}. Install versions "
                f"of both that belong together."
            ) from e
    return tuple(device for device in module.get_ep_devices() if device.ep_name == name)


def provider_names() -> set[str]:
    """Return the names under which sessions on CUDA tell their provider: the built-in one's and the plugin's."""
    return {CUDA, *(str(device.ep_name) for device in plugin_devices())}


@functools.cache
def cuda_works(index: int = 0) -> bool:
    """Whether there is a GPU of this number: the provider may be listed without libraries or a GPU."""
    if plugin_devices():
        return index < len(plugin_devices())
    module = onnxruntime()
    if CUDA not in module.get_available_providers():
        return False
    if hasattr(module, "preload_dlls"):
        _preload(module)
    try:
        module.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", index)
    except Exception:  # whatever it says, there is no usable GPU
        return False
    return True


def gpu_count() -> int:
    """Return how many GPUs there are."""
    count = 0
    while cuda_works(count):
        count += 1
    return count


def _preload(module: Any) -> None:
    """Load CUDA from wheels; it prints about libraries that it does not find, which is not our user's business."""
    with contextlib.redirect_stdout(io.StringIO()):
        module.preload_dlls()


def allocate(shape: list[int], dtype: Any, index: int) -> Any:
    """Return memory of a GPU as an OrtValue."""
    module = onnxruntime()
    plugged = plugin_devices()
    if not plugged:
        return module.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", index)
    info = plugged[index].memory_info(module.OrtDeviceMemoryType.DEFAULT)
    return module.OrtValue.ortvalue_from_shape_and_type(shape, dtype, memory_info=info)
