"""`add_prefix`: a prefix for every name, in the graph, in its training steps and in their bindings."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx

from renom_onnx.converters.importer import read_model
from renom_onnx.converters.structure import every_node, parts, rename_values, value_names
from renom_onnx.errors import ConversionError


def add_prefix(model: Any, prefix: str, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return the model with a prefix before the name of every value and every node.

    The training steps keep reading, updating and initializing what they did: bindings and the names in Gradient's
    attributes are renamed too, which `onnx.compose.add_prefix` forgets. So are the steps themselves; functions, symbols
    of sizes and metadata keep their names.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.
        prefix: such as ``"encoder/"``.
        keep: names of values that stay as they are, such as those of inputs and outputs.

    Raises:
        ConversionError: a name in ``keep`` is in no graph, or is what another one becomes.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.add_prefix(rm.converters.to_training_onnx(loss), "encoder/", keep=["x"])
        >>> model.graph.input[0].name, model.graph.output[0].name
        ('x', 'encoder/output')
        >>> model.training_info[0].update_binding[0].key
        'encoder/dense1.w'
    """
    result = onnx.ModelProto()
    result.CopyFrom(read_model(model))
    if not prefix:
        return result
    known = {name for graph in parts(result) for name in value_names(graph)}
    for name in keep:
        if name not in known:
            raise ConversionError(f"add_prefix: keep must name values of the model, got {name!r}, which is none.")
        if name.removeprefix(prefix) in known - {name} and name.removeprefix(prefix) not in keep:
            raise ConversionError(
                f"add_prefix: a name must stay one value's own, got {name!r} to keep, which "
                f"{name.removeprefix(prefix)!r} becomes. Choose another prefix."
            )

    def new(name: str) -> str:
        return name if name in keep else f"{prefix}{name}"

    for graph in parts(result):
        rename_values(graph, new)
        for node in every_node(graph.node):
            if node.name:
                node.name = f"{prefix}{node.name}"
    for info in result.training_info:
        info.algorithm.name = f"{prefix}{info.algorithm.name}"
        for binding in [*info.update_binding, *info.initialization_binding]:
            binding.key, binding.value = new(binding.key), new(binding.value)
    return result
