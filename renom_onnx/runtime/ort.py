"""The one way to onnxruntime: imported at first use, with a clear error where it cannot serve."""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any

from renom_onnx.errors import DeviceError

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")


@functools.cache
def onnxruntime() -> Any:
    """Return the module.

    Raises:
        DeviceError: no onnxruntime is installed, or two that overwrite each other.
    """
    installed = installed_distributions()
    if len(installed) > 1:
        raise DeviceError(
            f"onnxruntime: one distribution must be installed, got {' and '.join(installed)}, which overwrite each "
            f"other. Uninstall them all, then install one: pip install 'renom-onnx[cpu]' or 'renom-onnx[cuda]'."
        )
    try:
        import onnxruntime as module
    except ImportError as e:
        raise DeviceError(
            "onnxruntime: it must be installed to evaluate or train, got none. Install it: "
            "pip install 'renom-onnx[cpu]', or 'renom-onnx[cuda]' for NVIDIA GPUs."
        ) from e
    module.set_default_logger_severity(4)
    return module


def installed_distributions() -> list[str]:
    """Return the names of the installed distributions that provide the module onnxruntime."""
    found = []
    for name in _DISTRIBUTIONS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found
