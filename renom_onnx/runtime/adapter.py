"""Adapters of `renom_onnx.lora` in onnxruntime's own file format."""

from __future__ import annotations

import os
from typing import Any

from renom_onnx.converters.lora import adapter_arrays
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.ort import onnxruntime
from renom_onnx.runtime.tensor import Tensor


def save_adapter(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the adapters of a model as an ``.onnx_adapter``, for sessions of `renom_onnx.converters.adapter_base`.

    A stock onnxruntime takes it at each run: ``options.add_active_adapter(adapter)`` on its `RunOptions`.

    Args:
        model: a path, bytes, a ModelProto, or what `renom_onnx.lora` returned; of a trainable file today's values.
        path: of the file.

    Raises:
        ConversionError: the model has no adapters.

    Example:
        >>> import renom_onnx as rm, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "tuned.onnx_adapter")
        >>> file = rm.converters.to_onnx(rm.graph.Dense(4), inputs={"x": ("N", 3)})
        >>> rm.runtime.save_adapter(rm.lora(file), path)
    """
    tensors = {name: Tensor.from_array(array, Device("cpu"), name) for name, array in adapter_arrays(model).items()}
    format_ = onnxruntime().AdapterFormat()
    format_.set_parameters({name: tensor.value for name, tensor in tensors.items()})
    format_.set_adapter_version(1)
    format_.set_model_version(1)
    format_.export_adapter(os.fspath(path))
