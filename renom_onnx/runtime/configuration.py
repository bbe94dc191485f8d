"""What this process runs on, for people and for reports of defects."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy as np

from renom_onnx.errors import RenomError
from renom_onnx.graph import parameter, seed
from renom_onnx.runtime.device import default_device, devices
from renom_onnx.runtime.ort import onnxruntime


def show_config() -> None:
    """Print versions, devices, precision and seed.

    Example:
        >>> import renom_onnx as rm
        >>> rm.show_config()  # doctest: +ELLIPSIS
        renom_onnx      ...
        precision       float32
        seed            ...
    """
    for name, value in configuration().items():
        print(f"{name:<16}{value}")


def configuration() -> dict[str, str]:
    """Return what `show_config` prints."""
    from renom_onnx import __version__

    found = {
        "renom_onnx": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "onnx": importlib.metadata.version("onnx"),
    }
    try:
        module = onnxruntime()
        providers = [name for name in module.get_available_providers() if name != "AzureExecutionProvider"]
        found["onnxruntime"] = f"{module.__version__} with {', '.join(providers)}"
        found["devices"] = ", ".join(device.name for device in devices())
        found["default device"] = str(default_device())
    except (RenomError, ImportError) as e:
        found["onnxruntime"] = str(e)
    return {**found, "precision": np.dtype(parameter.precision).name, "seed": str(seed.seed())}
