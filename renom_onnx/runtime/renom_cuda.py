"""``rm.cuda``: what ReNom's programs ask of CUDA, said in terms of devices.

New programs name a device where a model runs: ``get_training_executor(devices=["cuda:1"])``. What is printed or
computed eagerly is computed on the CPU, whatever is set here. The raw kernels, memory pools and handles of the original
have no counterpart: onnxruntime owns them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from renom_onnx.errors import DeviceError
from renom_onnx.graph.seed import set_seed
from renom_onnx.runtime.cuda import cuda_works, gpu_count
from renom_onnx.runtime.device import Device, default_device, parse_device, set_default_device

__all__ = [
    "cuGetDeviceCount",
    "curand_set_seed",
    "disable_cuda",
    "get_device_count",
    "has_cuda",
    "is_cuda_active",
    "set_cuda_active",
    "use_cuda",
    "use_device",
]


def has_cuda() -> bool:
    """Whether a CUDA session can be opened here: the wheel, the libraries and a GPU are there.

    Example:
        >>> import renom_onnx as rm
        >>> rm.cuda.has_cuda() == (rm.cuda.get_device_count() > 0)
        True
    """
    return cuda_works()


def get_device_count() -> int:
    """Return the number of GPUs that a session can be opened on; 0 where `has_cuda` is false."""
    return gpu_count()


def is_cuda_active() -> bool:
    """Whether models that name no device run on CUDA; the default is whether they can, see `has_cuda`."""
    return default_device().kind == "cuda"


def set_cuda_active(activate: bool = True) -> None:
    """Let models that name no device run on CUDA, or on the CPU.

    Where CUDA cannot be used, a warning says what is missing, and they stay on the CPU.

    Example:
        >>> import renom_onnx as rm
        >>> rm.cuda.set_cuda_active(rm.cuda.has_cuda())
        >>> rm.cuda.is_cuda_active() == rm.cuda.has_cuda()
        True
    """
    if not activate:
        set_default_device("cpu")
        return
    try:
        set_default_device("cuda")
    except DeviceError as e:
        set_default_device("cpu")
        warnings.warn(f"set_cuda_active: models stay on the CPU: {e}", RuntimeWarning, stacklevel=2)


@contextlib.contextmanager
def use_cuda(is_active: bool = True) -> Iterator[None]:
    """`set_cuda_active` within a block; afterwards the default is as before, after an error too."""
    with _default_within(None):
        set_cuda_active(is_active)
        yield


def disable_cuda(is_disabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """Within the block, models that name no device run on the CPU.

    Example:
        >>> import renom_onnx as rm
        >>> with rm.cuda.disable_cuda():
        ...     rm.cuda.is_cuda_active()
        False
    """
    return _default_within("cpu") if is_disabled else contextlib.nullcontext()


def use_device(device_id: int) -> contextlib.AbstractContextManager[None]:
    """Within the block, models that name no device run on the GPU of that number.

    Args:
        device_id: 0 to `get_device_count` - 1.

    Raises:
        DeviceError: CUDA cannot be used here, or has no such GPU.
    """
    return _default_within(parse_device(f"cuda:{device_id}"))


@contextlib.contextmanager
def _default_within(device: Device | str | None) -> Iterator[None]:
    before = set_default_device(device)
    try:
        yield
    finally:
        set_default_device(before)


def curand_set_seed(seed: int, all_devices: bool = False) -> None:
    """Call `renom_onnx.set_seed`: the same numbers are drawn on every device."""
    set_seed(seed)


cuGetDeviceCount = get_device_count  # noqa: N816  (the original's spelling)
