"""Models that infer on every ONNX runtime and train on stock onnxruntime, in one ONNX file.

    import renom_onnx as rm

`rm.graph` holds elements, layers, losses and optimizers; `rm.export` and `rm.export_training` write files; all of it is
imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from renom_onnx.errors import (
    ConversionError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexRangeError,
    RenomError,
    RunError,
    ShapeError,
)

if TYPE_CHECKING:
    from renom_onnx import backend, converters, graph, runtime, utility
    from renom_onnx.eager import Dense, NdarrayDistributor, Node, Sgd, sum
    from renom_onnx.graph.parameter import precision
    from renom_onnx.graph.seed import set_renom_seed, set_seed
    from renom_onnx.runtime import renom_cuda as cuda
    from renom_onnx.runtime.configuration import show_config
    from renom_onnx.runtime.renom_cuda import get_device_count, has_cuda, is_cuda_active, set_cuda_active

__version__ = "0.1.0"

_MODULES = ("backend", "converters", "eager", "graph", "runtime", "utility")
_LAZY = {
    "Dense": "renom_onnx.eager",
    "NdarrayDistributor": "renom_onnx.eager",
    "Node": "renom_onnx.eager",
    "Sgd": "renom_onnx.eager",
    "doctor": "renom_onnx.converters",
    "export": "renom_onnx.converters",
    "export_training": "renom_onnx.converters",
    "get_device_count": "renom_onnx.runtime.renom_cuda",
    "has_cuda": "renom_onnx.runtime.renom_cuda",
    "is_cuda_active": "renom_onnx.runtime.renom_cuda",
    "load": "renom_onnx.converters",
    "lora": "renom_onnx.converters",
    "make_trainable": "renom_onnx.converters",
    "precision": "renom_onnx.graph.parameter",
    "set_renom_seed": "renom_onnx.graph.seed",
    "set_seed": "renom_onnx.graph.seed",
    "set_cuda_active": "renom_onnx.runtime.renom_cuda",
    "show_config": "renom_onnx.runtime.configuration",
    "sum": "renom_onnx.eager",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"renom_onnx.{name}")
    if name == "cuda":
        return importlib.import_module("renom_onnx.runtime.renom_cuda")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'renom_onnx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "ConversionError",
    "DTypeError",
    "Dense",
    "DeviceError",
    "GradientError",
    "IndexRangeError",
    "NdarrayDistributor",
    "Node",
    "RenomError",
    "RunError",
    "Sgd",
    "ShapeError",
    "backend",
    "converters",
    "cuda",
    "doctor",
    "export",
    "export_training",
    "get_device_count",
    "graph",
    "has_cuda",
    "is_cuda_active",
    "load",
    "lora",
    "make_trainable",
    "precision",
    "runtime",
    "set_cuda_active",
    "set_renom_seed",
    "set_seed",
    "show_config",
    "sum",
    "utility",
]
