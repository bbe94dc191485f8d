"""`training_info`: the training step of a file, read as the ONNX specification says.

Source: https://onnx.ai/onnx/repo-docs/IR.html#training-related-information.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.encoding import array_of, copy_field, tensor_shell
from renom_onnx.converters.importer import captured
from renom_onnx.converters.structure import named_values, names_in
from renom_onnx.errors import ConversionError


def describe_training(info: onnx.TrainingInfoProto, states: Sequence[tuple[str, np.ndarray[Any, Any]]]) -> None:
    """Write the initialization of optimizer state and counters: constants bound to the initializers they reset."""
    nodes, outputs = [], []
    for name, array in states:
        output = f"{name}.initial"
        if array.size and not array.any():
            shape = numpy_helper.from_array(np.array(array.shape, np.int64), f"{output}.shape")
            zero = numpy_helper.from_array(np.zeros(1, array.dtype))
            nodes.append(helper.make_node("Constant", [], [f"{output}.shape"], value=shape))
            nodes.append(helper.make_node("ConstantOfShape", [f"{output}.shape"], [output], value=zero))
        else:
            nodes.append(helper.make_node("Constant", [], [output], value=numpy_helper.from_array(array)))
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        outputs.append(helper.make_tensor_value_info(output, element, array.shape))
        info.initialization_binding.add(key=name, value=output)
    info.initialization.CopyFrom(helper.make_graph(nodes, "initialization", [], outputs))


@dataclass(frozen=True)
class TrainingStep:
    """A training step as one graph for a stock runtime.

    Attributes:
        model: the concatenation of graph and algorithm; mutable initializers are plain inputs without a value, and
            only loss and next states are outputs.
        loss: name of the loss.
        evaluation_loss: name of the loss as inference computes it; the same where training computes nothing else.
        bindings: next value by the name of the mutable initializer.
        state: values of the mutable initializers by name.
        feeds: names of the inputs that a step is fed, the learning rate among the optional ones.
        optional: feeds with a default, by name.
        weights: names of the mutable initializers of the graph; those of the algorithm are state.
        rate: name of the learning rate among the optional feeds, None without one.
    """

    model: onnx.ModelProto
    loss: str
    evaluation_loss: str
    bindings: dict[str, str]
    state: dict[str, np.ndarray[Any, Any]]
    feeds: tuple[str, ...]
    optional: dict[str, np.ndarray[Any, Any]]
    weights: tuple[str, ...]
    rate: str | None


def concatenate(model: onnx.ModelProto, index: int = 0) -> onnx.GraphProto:
    """Return graph and algorithm as the specification concatenates them: inputs, initializers, outputs, nodes."""
    return joined(model.graph, _entry(model, index).algorithm)


def _entry(model: onnx.ModelProto, index: int) -> onnx.TrainingInfoProto:
    if len(model.training_info) <= index:
        raise ConversionError(
            f"training: a model must hold training_info, got one with {len(model.training_info)} entries. "
            f"Write it with rm.export_training."
        )
    info: onnx.TrainingInfoProto = model.training_info[index]
    return info


def joined(graph: onnx.GraphProto, algorithm: onnx.GraphProto) -> onnx.GraphProto:
    """Return a graph continued by an algorithm."""
    whole = onnx.GraphProto()
    whole.CopyFrom(graph)
    for field in (
        "node",
        "initializer",
        "sparse_initializer",
        "input",
        "output",
        "value_info",
        "quantization_annotation",
    ):
        getattr(whole, field).extend(getattr(algorithm, field))
    return whole


def with_graph(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return a model of another graph with the same functions and imports, and without training_info."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name not in ("graph", "training_info"):
            copy_field(result, field.name, value)
    result.graph.CopyFrom(graph)
    return result


def training_step(model: onnx.ModelProto, index: int = 0) -> TrainingStep:
    """Return the step of a trainable model, ready for a session; its state may be the model's own memory."""
    info = _entry(model, index)
    graphs = (model.graph, info.algorithm)  # not joined, which would copy all weights
    nodes, inputs = [n for g in graphs for n in g.node], [i for g in graphs for i in g.input]
    bindings = {b.key: b.value for b in info.update_binding}
    tensors = {t.name: t for g in graphs for t in g.initializer}
    missing = [key for key in bindings if key not in tensors]
    if missing:
        raise ConversionError(f"training: update_binding must name initializers, got {missing[0]}, which is none.")
    outputs = {o.name: o for g in graphs for o in g.output}
    next_names = set(bindings.values())
    losses = [o.name for o in info.algorithm.output if o.name not in next_names]
    if not losses:
        raise ConversionError("training: the algorithm must have the loss among its outputs, got only next values.")
    unwritten = [value for value in bindings.values() if value not in outputs]
    if unwritten:
        raise ConversionError(f"training: update_binding must name outputs, got {unwritten[0]}, which is none.")
    state = {key: array_of(tensors[key]) for key in bindings}
    defaults = {i.name for i in inputs} & set(tensors)
    optional = {name: array_of(tensors[name]).copy() for name in sorted(defaults - set(bindings))}

    step = onnx.GraphProto()
    step.name = "step"
    wanted = [losses[0], *dict.fromkeys(bindings.values())]
    step.node.extend(needed(nodes, wanted))
    read = _read(step.node)
    kept = set(tensors) - set(bindings) - set(optional)
    step.initializer.extend(t for name, t in tensors.items() if name in kept and name in read)
    feeds = [i for i in inputs if i.name not in bindings and (i.name in read or i.name in wanted)]
    step.input.extend(feeds)
    for key in bindings:
        tensor = tensors[key]
        step.input.append(helper.make_tensor_value_info(key, tensor.data_type, list(tensor.dims)))
    step.output.extend(outputs[name] for name in wanted)
    names = tuple(i.name for i in feeds)
    return TrainingStep(
        with_graph(model, step),
        losses[0],
        next((name for name in losses[1:] if name.endswith("evaluation_loss")), losses[0]),  # it may have a prefix
        bindings,
        state,
        names,
        {k: v for k, v in optional.items() if k in names},
        tuple(tensor.name for tensor in model.graph.initializer if tensor.name in bindings),
        next((name for name in optional if name.endswith("learning_rate")), None),
    )


def evaluation_model(model: onnx.ModelProto, step: TrainingStep, *, with_loss: bool) -> onnx.ModelProto:
    """Return the inference outputs, and the loss, as a model whose mutable initializers are plain inputs."""
    graph = concatenate(model) if with_loss else model.graph
    wanted = [*model.graph.output, *(o for o in graph.output if with_loss and o.name == step.evaluation_loss)]
    nodes = needed(graph.node, [o.name for o in wanted])
    read = _read(nodes) | {o.name for o in wanted}
    result = onnx.GraphProto()
    result.name = "evaluation"
    result.node.extend(nodes)
    result.initializer.extend(t for t in graph.initializer if t.name in read and t.name not in step.bindings)
    result.input.extend(i for i in graph.input if i.name in read and i.name not in step.bindings)
    for tensor in graph.initializer:
        if tensor.name in step.bindings and tensor.name in read:
            result.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    result.output.extend(wanted)
    return with_graph(model, result)


def without_state(model: onnx.ModelProto, names: Container[str], index: int = 0) -> onnx.ModelProto:
    """Return the model with the values of these initializers left out; `fill_state` puts them in again."""
    result = with_graph(model, onnx.GraphProto())
    _copy_without(result.graph, model.graph, names)
    for i, info in enumerate(model.training_info):
        copy = result.training_info.add()
        for field, value in info.ListFields():
            if field.name != "algorithm" or i != index:
                copy_field(copy, field.name, value)
        if i == index:
            _copy_without(copy.algorithm, info.algorithm, names)
    return result


def _copy_without(target: onnx.GraphProto, graph: onnx.GraphProto, names: Container[str]) -> None:
    """Copy a graph but for the values of these initializers, which are most of it."""
    for field, value in graph.ListFields():
        if field.name != "initializer":
            copy_field(target, field.name, value)
    for tensor in graph.initializer:
        target.initializer.append(tensor_shell(tensor) if tensor.name in names else tensor)


def fill_state(
    model: onnx.ModelProto, values: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str], index: int = 0
) -> onnx.ModelProto:
    """Return the model with the given values of initializers of graph and one algorithm, and with further metadata."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in _tensors(result, index):
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values[tensor.name], order="C"), tensor.name))
    entries = {p.key: p.value for p in result.metadata_props} | dict(metadata)
    del result.metadata_props[:]
    for key, value in sorted(entries.items()):
        result.metadata_props.add(key=key, value=value)
    return result


def _tensors(model: onnx.ModelProto, index: int) -> Iterable[onnx.TensorProto]:
    yield from model.graph.initializer
    yield from model.training_info[index].algorithm.initializer


def needed(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str], given: Iterable[str] = ()) -> list[onnx.NodeProto]:
    """Return the nodes that the wanted names need, in order; those that write what is given are not looked for."""
    known = set(given)
    names = set(wanted) - known
    kept = []
    for node in reversed(nodes):
        if not names.isdisjoint(node.output):
            kept.append(node)
            names.update(name for name in read_names(node) if name and name not in known)
    return kept[::-1]


def _read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names that the nodes, and the graphs in them, read."""
    return {name for node in nodes for name in read_names(node) if name}


def read_names(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node and the graphs in it read; a Gradient reads the value that it differentiates."""
    if not node.attribute:
        return list(node.input)
    named = [name for attribute in named_values(node) for name in names_in(attribute)]
    return [*node.input, *captured(node), *named]
