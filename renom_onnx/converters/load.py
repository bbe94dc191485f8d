"""`load`: any ONNX model as a layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.as_read import shell_of
from renom_onnx.converters.continuation import is_continuable
from renom_onnx.converters.free_batch import free_reshapes
from renom_onnx.converters.importer import ImportedGraph, import_graph, read_model, static_leaf
from renom_onnx.converters.initializer import Kind, kind_of, readers_of
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.writer import value_info
from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph.node import Leaf
from renom_onnx.graph.parameter import Parameter, Statistic


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
) -> LoadedModel:
    """Read an ONNX model as a layer.

    Args:
        model: a path, bytes or a ModelProto.
        inputs: shapes by input that replace the file's, such as ``{"x": ("N", 3, 224, 224)}`` to free a batch size
            that the file fixes.

    Returns:
        A layer: ``model(x)`` connects it, ``model.outputs`` holds it as it was read.

    Raises:
        ConversionError: the file is damaged or no ONNX model.
        OSError: there is no such file.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> model = load(file)  # rm.load
        >>> [name for name, _ in model.named_parameters()], model(np.ones((4, 3), np.float32)).shape
        (['dense1.w', 'dense1.b'], ('N', 2))
    """
    proto = read_model(model)
    if inputs:
        proto = _with_inputs(proto, inputs)
    readers = readers_of(proto.graph.node)
    kinds = {t.name: kind_of(t, readers.get(t.name, ())) for t in proto.graph.initializer}

    trained = {b.key for b in proto.training_info[0].update_binding} if is_continuable(proto) else set(kinds)

    def make_leaf(name: str, array: np.ndarray[Any, Any]) -> Leaf:
        if kinds.get(name, Kind.FIXED) is Kind.FIXED:
            return static_leaf(array)
        leaf = (Statistic if kinds[name] is Kind.STATISTIC else Parameter)(array, None, name)
        leaf.name = name
        leaf.trainable = leaf.trainable and name in trained
        return leaf

    shell, graph = shell_of(proto), import_graph(proto, make_leaf)
    if inputs:
        _infer_outputs(shell, graph)
    return LoadedModel(shell, graph)


def _with_inputs(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int | str]]) -> onnx.ModelProto:
    """Return the model with other shapes of its inputs, without what it says of values that depend on them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    known = {info.name: info for info in result.graph.input if info.name not in weights}
    for name, shape in inputs.items():
        if name not in known:
            raise ConversionError(
                f"load: inputs must name inputs of the model, got {name!r}. There are: {', '.join(known) or 'none'}."
            )
        declared = known[name].type.tensor_type.shape
        if known[name].type.tensor_type.HasField("shape") and len(declared.dim) != len(shape):
            raise ShapeError(
                f"load: the shape of {name!r} must have the file's {len(declared.dim)} axes, got {list(shape)}."
            )
        fixed = declared.dim[0].dim_value if declared.dim else 0
        if fixed and shape and isinstance(shape[0], str):
            free_reshapes(result.graph, fixed)
        del declared.dim[:]
        for size in shape:
            declared.dim.add(**({"dim_value": size} if isinstance(size, int) else {"dim_param": size}))
    del result.graph.value_info[:]
    for info in result.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    return result


def _infer_outputs(shell: onnx.ModelProto, graph: ImportedGraph) -> None:
    """Write the shapes of the outputs that follow from new shapes of the inputs."""
    for info in shell.graph.output:
        value = graph.outputs[info.name]
        if info.type.HasField("tensor_type") and value.shape is not None:
            info.CopyFrom(value_info(info.name, value.dtype, value.shape))
