"""Models that infer on every ONNX runtime and train on stock onnxruntime, in one ONNX file.

    import renom_onnx as rm

`rm.graph` holds elements, layers, losses and optimizers; `rm.export` and `rm.export_training` write files;
`rm.runtime` and `rm.converters` are imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from renom_onnx import graph, utility
from renom_onnx.errors import (
    ConversionError,
    DeviceError,
    DTypeError,
    GradientError,
    RenomError,
    RunError,
    ShapeError,
)
from renom_onnx.graph.parameter import precision
from renom_onnx.graph.seed import set_seed

if TYPE_CHECKING:
    from renom_onnx import converters, runtime

__version__ = "0.1.0"

set_renom_seed = set_seed

_LAZY = {
    "Dense": "renom_onnx.eager",
    "NdarrayDistributor": "renom_onnx.eager",
    "Node": "renom_onnx.eager",
    "Sgd": "renom_onnx.eager",
    "doctor": "renom_onnx.converters",
    "export": "renom_onnx.converters",
    "export_training": "renom_onnx.converters",
    "load": "renom_onnx.converters",
    "sum": "renom_onnx.eager",
}


def __getattr__(name: str) -> Any:
    if name in ("converters", "runtime", "eager"):
        return importlib.import_module(f"renom_onnx.{name}")
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
    "NdarrayDistributor",
    "Node",
    "RenomError",
    "RunError",
    "Sgd",
    "ShapeError",
    "converters",
    "doctor",
    "export",
    "export_training",
    "graph",
    "load",
    "precision",
    "runtime",
    "set_renom_seed",
    "set_seed",
    "sum",
    "utility",
]
