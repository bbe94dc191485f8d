"""Weights in a file: an .npz of arrays by name, without pickle, so that loading runs nothing."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph.node import type_text
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.whole_file import write_whole

Array = np.ndarray[Any, Any]


def save(path: str | os.PathLike[str], parameters: Mapping[str, Parameter], kind: str) -> None:
    """Write the parameters."""
    if not parameters:
        raise ConversionError(
            f"{kind}.save: a layer must have been called, got one without parameters. Call it with data."
        )
    arrays = {name: p.array for name, p in parameters.items()}
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def load(path: str | os.PathLike[str], parameters: Mapping[str, Parameter], kind: str) -> dict[str, Array]:
    """Return the arrays by name, checked against the parameters that exist; nothing is changed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError:
        raise
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError) as e:
        raise ConversionError(f"{kind}.load: the file must be one that save wrote, got {Path(path).name}: {e}.") from e
    missing = [name for name in parameters if name not in arrays]
    if missing:
        raise ConversionError(
            f"{kind}.load: the file must hold every parameter, got {Path(path).name} without {', '.join(missing)}."
        )
    for name, parameter in parameters.items():
        checked(arrays[name], name, parameter)
    return arrays


def checked(array: Array, name: str, parameter: Parameter) -> Array:
    """Return the array in the parameter's type.

    Raises:
        ShapeError: it has another shape.
    """
    if array.shape != parameter.output.shape:
        raise ShapeError(
            f"load: {name} must be {parameter.output}, got {type_text(array.dtype, array.shape)}. "
            f"Load it into the model that wrote it."
        )
    return array.astype(parameter.output.dtype)
