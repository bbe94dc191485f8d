"""`append_training`: several training steps of one graph in one file."""

from __future__ import annotations

from typing import Any

import onnx

from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.structure import every_node, functions_of, key_of, rename_values
from renom_onnx.converters.surgery.merging import new_imports, with_own_functions
from renom_onnx.converters.surgery.opset import convert_opset
from renom_onnx.errors import ConversionError


def append_training(model: Any, other: Any, *, prefix: str = "") -> onnx.ModelProto:
    """Return the model with the training steps of another one behind its own.

    Both are of the same graph; its weights are those of the first. So one file holds the steps of two players, or of a
    pretraining and what follows it, each training weights of its own. `TrainingSession` takes the step to run by its
    position or by the name of its algorithm.

    Args:
        model, other: a ModelProto, path or bytes each.
        prefix: for what the other's steps declare: their names, inputs, outputs and state. Needed where both have a
            state of the same name.

    Raises:
        ConversionError: the graphs differ, two steps change a weight or state of the same name, or a weight that one
            trains and the other reads is not in the graph.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> first, second = rm.graph.Dense(3), rm.graph.Dense(2)
        >>> y = second(first(np.ones((1, 4), np.float32)))
        >>> loss, steps = rm.graph.ConstantLoss()(y), []
        >>> for trained, frozen in ((first, second), (second, first)):
        ...     for layer in (trained, frozen):
        ...         for parameter in layer.params.values():
        ...             parameter.output.node.trainable = layer is trained
        ...     steps.append(rm.converters.to_training_onnx(rm.graph.ConstantLoss()(y), rm.graph.Sgd(0.1)))
        >>> model = rm.converters.append_training(*steps, prefix="second/")
        >>> [info.algorithm.name for info in model.training_info]
        ['training', 'second/training']
    """
    one, two = read_model(model), read_model(other)
    opset = max(default_opset(one), default_opset(two))
    one, two = convert_opset(one, opset), convert_opset(two, opset)
    _check_graphs(one.graph, two.graph)
    _check_shared(one, two)
    if prefix:
        for info in two.training_info:
            _prefix_step(info, prefix)
    bound = {binding.key for info in one.training_info for binding in info.update_binding}
    for info in two.training_info:
        for binding in info.update_binding:
            if binding.key in bound:
                is_weight = any(tensor.name == binding.key for tensor in one.graph.initializer)
                advice = "Freeze it in one of them." if is_weight else "Give a prefix."
                raise ConversionError(
                    f"append_training: a weight or state must be changed by one step, got {binding.key!r}, which two "
                    f"change. {advice}"
                )
    two = with_own_functions(one, two)
    one.opset_import.extend(new_imports("append_training", one, two))
    one.ir_version = max(one.ir_version, two.ir_version)
    one.training_info.extend(two.training_info)
    known = functions_of(one)
    one.functions.extend(function for function in two.functions if key_of(function) not in known)
    return one


def _check_graphs(one: onnx.GraphProto, two: onnx.GraphProto) -> None:
    """Raise ConversionError if the graphs are not the same but for the values of weights."""
    for what, mine, theirs in (
        ("node", one.node, two.node),
        ("input", one.input, two.input),
        ("output", one.output, two.output),
        ("weight", [_without_data(t) for t in one.initializer], [_without_data(t) for t in two.initializer]),
    ):
        for a, b in zip(mine, theirs, strict=False):
            if a != b:
                raise ConversionError(
                    f"append_training: the models must have the same graph, got another {what}: {a.name!r} and "
                    f"{b.name!r}. Export both with the same outputs."
                )
        if len(mine) != len(theirs):
            raise ConversionError(
                f"append_training: the models must have the same graph, got {len(mine)} and {len(theirs)} {what}s. "
                f"Export both with the same outputs."
            )


def _check_shared(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    """Raise ConversionError if a weight that one model trains and the other reads is private to their algorithms."""
    held, trained = [], []
    for model in (one, two):
        held.append({tensor.name for info in model.training_info for tensor in info.algorithm.initializer})
        trained.append({binding.key for info in model.training_info for binding in info.update_binding})
    for name in sorted(held[0] & held[1] & (trained[0] ^ trained[1])):
        raise ConversionError(
            f"append_training: a weight that one step trains and another reads must be in the graph, got {name!r}, "
            f"which is not. Export both with an output that depends on it."
        )


def _without_data(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _prefix_step(info: onnx.TrainingInfoProto, prefix: str) -> None:
    """Put a prefix before all names that a training step declares itself."""
    algorithm, initialization = info.algorithm, info.initialization
    own = {value.name for value in [*algorithm.input, *algorithm.initializer]}
    own |= {name for node in every_node(algorithm.node) for name in node.output}

    def new(name: str) -> str:
        return f"{prefix}{name}" if name in own else name

    rename_values(algorithm, new)
    rename_values(initialization, lambda name: f"{prefix}{name}")
    algorithm.name = f"{prefix}{algorithm.name}"
    for node in every_node([*algorithm.node, *initialization.node]):
        if node.name:
            node.name = f"{prefix}{node.name}"
    for binding in info.update_binding:
        binding.key, binding.value = new(binding.key), new(binding.value)
    for binding in info.initialization_binding:
        binding.key, binding.value = new(binding.key), f"{prefix}{binding.value}"
