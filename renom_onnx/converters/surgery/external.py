"""`externalize`: large tensors in a file of their own, those of the training steps too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.structure import parts
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import ConversionError
from renom_onnx.graph.whole_file import write_whole

ALIGNMENT_BYTES = 64
"""Tensors begin at multiples of it, so that a mapped file serves any vector instruction."""


def externalize(
    model: Any, path: str | os.PathLike[str], *, location: str | None = None, threshold_bytes: int = 1024
) -> onnx.ModelProto:
    """Write a model whose large initializers lie in a second file beside it, and return what was written.

    Optimizer state lies there too, which onnx's own writer leaves in the model, where it counts against protobuf's
    limit of 2 GiB. The second file is written before the first, each whole or not at all. By default the name of the
    second is that of the first and a digest of its content, so that a model that was there before keeps the data that
    it was written with until the new model takes its place; data that no model names any more are left to you.

    Every path that takes a model reads both files again.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.
        path: of the model to write.
        location: name of the second file, in the same folder.
        threshold_bytes: initializers of fewer bytes stay in the model.

    Raises:
        ConversionError: the location is no name of a file beside the model.

    Example:
        >>> import tempfile, numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(64)(np.ones((1, 32), np.float32)))
        >>> model = rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1, momentum=0.9))
        >>> folder = tempfile.TemporaryDirectory()
        >>> written = rm.converters.externalize(model, f"{folder.name}/large.onnx")
        >>> [t.name for t in written.training_info[0].algorithm.initializer if t.external_data]
        ['dense1.w.momentum']
        >>> session = rm.runtime.TrainingSession(f"{folder.name}/large.onnx", device="cpu")
        >>> folder.cleanup()
    """
    target = Path(path)
    if location is not None and (PurePath(location).name != location or location in ("", "..", target.name)):
        raise ConversionError(
            f"externalize: location must be the name of a file beside the model, got {location!r} for {target.name!r}."
        )
    result = onnx.ModelProto()
    result.CopyFrom(read_model(model))
    moved = [t for graph in parts(result) for t in graph.initializer if _in_place_bytes(t) >= threshold_bytes]
    if moved:
        name = location or f"{target.name}.{_digest(moved)}.data"
        write_whole(target.with_name(name), lambda file: _write(file, moved))
        offset = 0
        for tensor in moved:
            offset += -offset % ALIGNMENT_BYTES
            length = len(tensor.raw_data)
            set_external_data(tensor, name, offset, length)
            tensor.ClearField("raw_data")
            offset += length
    write_whole(target, lambda file: file.write(as_bytes(result)))
    return result


def _in_place_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor, brought into the form that a file can hold; texts cannot be moved."""
    if tensor.data_type == TensorProto.STRING:
        return -1
    if not tensor.HasField("raw_data"):
        array = array_of(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return len(tensor.raw_data)


def _digest(tensors: Iterable[TensorProto]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.raw_data)
    return found.hexdigest()[:8]


def _write(file: BinaryIO, tensors: Iterable[TensorProto]) -> None:
    for tensor in tensors:
        file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
        file.write(tensor.raw_data)
