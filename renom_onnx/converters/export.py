"""Export: a tree as an inference model, and as one file with two readings."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.settings import describe_settings
from renom_onnx.converters.spec_form import name_gradient, spec_form
from renom_onnx.converters.structure import TRAINING_DOMAIN, drop_unused, parts
from renom_onnx.converters.surgery.external import externalize
from renom_onnx.converters.surgery.inlining import inline as inline_functions
from renom_onnx.converters.surgery.opset import convert_opset
from renom_onnx.converters.training_info import describe_training
from renom_onnx.converters.tree import TreeWriter, as_bytes, fed_types, is_data, tree_opset
from renom_onnx.converters.writer import value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import checkpoint, parameter, schema, seed
from renom_onnx.graph.backward import BackwardPass
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer
from renom_onnx.graph.node import Input, Leaf, Mutable, Node, State, Value, ancestors
from renom_onnx.graph.operators import apply
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers import training_optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.update import Updates, updates
from renom_onnx.graph.whole_file import write_whole

Source = GraphElement | Layer

LARGEST_FILE_BYTES = 1_900_000_000
"""Data of a model in one file; protobuf writes no message of 2 GiB."""
FORMS = ("functions", "spec")
"""What gradient and update nodes of a training file are: functions of its own, or operators of the specification."""


def to_onnx(
    source: Source | Sequence[GraphElement],
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Mapping[str, GraphElement] | None = None,
    opset: int | None = None,
    inline: bool = False,
) -> onnx.ModelProto:
    """Return an inference model.

    Args:
        source: an element, several, or a layer or model. A loss stands for its prediction. A layer is exported as it
            was last called; one never called needs ``inputs``.
        inputs: shapes by name, such as ``{"x": ("N", 784)}``: the layer is called with inputs of these shapes.
        outputs: elements by the names that they get; default ``output``, or ``output1`` and so on for several.
        opset: 18 to 21; default 18.
        inline: write functions out, for importers that do not know them.

    Returns:
        A ModelProto whose nodes are the elements and whose initializers are the parameters.

    Raises:
        ConversionError: a layer was never called and no inputs are given, or the opset is out of range.

    Example:
        >>> import renom_onnx as rm
        >>> model = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> [n.op_type for n in model.graph.node], [t.name for t in model.graph.initializer]
        (['Gemm'], ['dense1.w', 'dense1.b'])
    """
    if isinstance(source, LoadedModel) and outputs is None and inputs is None:
        return _as_read(source, opset, inline)
    named = _named_outputs(source, inputs, outputs)
    nodes = ancestors(named.values())
    opset = tree_opset(nodes, opset)
    named = _apart(named, opset)
    nodes = ancestors(named.values())
    names = [(value, name) for name, value in named.items()]
    writer = TreeWriter(nodes, named.values(), opset=opset, inline=inline, outputs=names, exact=outputs is not None)
    return writer.model(writer.graph("inference", nodes, list(named.values())))


def _as_read(model: LoadedModel, opset: int | None, inline: bool) -> onnx.ModelProto:
    """Return a loaded model with its names and today's parameters, at its own opset unless a newer one is asked for."""
    proto = model.to_proto()
    if inline and proto.functions:
        proto = inline_functions(proto)
    return proto if opset in (None, model.opset) else convert_opset(proto, opset)


def export(
    source: Source | Sequence[GraphElement],
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Mapping[str, GraphElement] | None = None,
    opset: int | None = None,
    inline: bool = False,
) -> None:
    """Write an inference model; see `renom_onnx.converters.to_onnx` for the arguments.

    The file is written whole or not at all.
    """
    write_file(to_onnx(source, inputs=inputs, outputs=outputs, opset=opset, inline=inline), path)


def to_training_onnx(
    loss: GraphElement,
    optimizer: Optimizer | str | None = None,
    *,
    outputs: Mapping[str, GraphElement] | None = None,
    opset: int | None = None,
    inline: bool = False,
    form: str = "functions",
    reinitialize: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Return one model with two readings: inference, and a training step.

    Read by any ONNX runtime it is a plain inference model. Its ``training_info[0].algorithm`` holds loss, gradient
    nodes and update nodes, all defined by standard operators, as the ONNX specification says: ``update_binding`` maps
    each weight and state to its next value.

    Args:
        loss: a loss, a sum of losses, or an element whose Sum is made small.
        optimizer: or the name of one, such as "adam"; default ``Sgd(0.01, momentum=0.4)``.
        outputs: inference outputs by name, values that depend on no target; default: what the loss compares.
        opset: 18 to 21; default 18.
        inline: write functions out, for importers that do not know them.
        form: "functions" for gradient and update nodes that are functions of the file; "spec" for the operators of
            `ai.onnx.preview.training`: one Gradient, and Momentum, Adam or Adagrad for every parameter. These have
            bodies of standard operators too, unless ``inline`` leaves functions out.
        reinitialize: let the file's initialization set the weights too, to what they are now.
        metadata: further entries of ``metadata_props``.

    Raises:
        GradientError: the loss depends on no trainable parameter, or on one through an operator without gradient.
        ConversionError: an output depends on a target, the opset is out of range, or the specification has no operator
            for the optimizer.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1), form="spec")
        >>> [node.op_type for node in model.training_info[0].algorithm.node]
        ['ReduceSum', 'Gradient', 'Momentum', 'Momentum']
    """
    if form not in FORMS:
        raise ConversionError(f"export_training: form must be one of {', '.join(FORMS)}, got {form!r}.")
    optimizer = training_optimizer(optimizer, "export_training")
    if not isinstance(loss, GraphElement):
        raise ConversionError(
            f"export_training: the loss must be an element, got {type(loss).__name__}. Call model and loss with data "
            f"first: loss = SoftmaxCrossEntropy()(model(x), y). {created_at(user_site())}"
        )
    backward = loss._backward_pass()
    if opset is not None and opset != backward.opset:
        tree_opset(ancestors([backward.loss]), opset)
        backward = BackwardPass(loss.output, opset=opset)
    step = updates(backward, optimizer)
    return training_model(
        step, outputs=outputs, opset=opset, inline=inline, form=form, reinitialize=reinitialize, metadata=metadata
    )[0]


def export_training(
    loss: GraphElement,
    optimizer: Optimizer | str | None,
    path: str | os.PathLike[str],
    *,
    outputs: Mapping[str, GraphElement] | None = None,
    opset: int | None = None,
    inline: bool = False,
    form: str = "functions",
    reinitialize: bool = False,
) -> None:
    """Write the one file with two readings; see `renom_onnx.converters.to_training_onnx` for the arguments.

    The file is written whole or not at all.
    """
    model = to_training_onnx(
        loss, optimizer, outputs=outputs, opset=opset, inline=inline, form=form, reinitialize=reinitialize
    )
    write_file(model, path)


def training_model(
    step: Updates,
    *,
    outputs: Mapping[str, GraphElement] | None = None,
    opset: int | None = None,
    inline: bool = False,
    form: str = "functions",
    reinitialize: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> tuple[onnx.ModelProto, dict[Mutable, str]]:
    """Return the trainable model of update elements, and the names of all that a step changes or is fed by default."""
    loss = step.loss
    predictions = _predictions(loss, outputs)
    forward = ancestors(predictions.values())
    spec = None
    if form == "spec":
        standard = ancestors([*predictions.values(), step.training_loss, loss, *step.next_values.values()])
        step = spec = spec_form(step, fed_types(standard), bodies=not inline)
    results = list(dict.fromkeys([step.training_loss, loss, *step.next_values.values()]))
    inner = [spec.differentiated, *spec.kept] if spec is not None else []
    wanted = [*predictions.values(), *results[:1], *inner[:1], *results[1:], *inner[1:]]
    nodes = ancestors(wanted)
    opset = tree_opset(nodes, opset)
    named = [(value, name) for name, value in predictions.items()]
    first = next((p for p in step.parameters if p.optimizer is None), step.parameters[0])
    own = [step.optimizer.rate, *step.optimizer.counters(first)]  # named first: those of single parameters get numbers
    names = TreeWriter(nodes, wanted, opset=opset, inline=inline, outputs=named, exact=outputs is not None, first=own)
    names.names.give(step.training_loss, "loss")
    names.names.give(loss, "evaluation_loss")
    y = names.names.give(spec.differentiated, "scaled_loss") if spec is not None else ""
    for p, g in step.gradients.items():
        names.names.give(g, f"{names.names.of(p.output)}.grad")
    for leaf, value in step.next_values.items():
        names.names.give(value, f"{names.names.of(leaf.output)}.next")
    in_graph = set(forward)
    model = names.model(names.graph("inference", forward, list(predictions.values())))
    added = [node for node in nodes if node not in in_graph]
    algorithm = names.graph("training", added, results)
    if spec is not None:
        name_gradient(algorithm, spec, y)
        algorithm.value_info.extend(  # which inference does not find
            value_info(names.names.of(g), g.dtype, g.shape) for g in spec.gradients.values()
        )
        model.opset_import.append(helper.make_opsetid(TRAINING_DOMAIN, 1))
    info = model.training_info.add()
    info.algorithm.CopyFrom(algorithm)
    rates = [leaf for leaf in added if type(leaf) is Mutable]
    for rate in rates:
        # a learning rate is an initializer that is also an input: fed to change it, the default when not
        info.algorithm.input.append(value_info(names.names.of(rate.output), rate.output.dtype, ()))
    for leaf, value in step.next_values.items():
        info.update_binding.add(key=names.names.of(leaf.output), value=names.names.of(value))
    states = [leaf for leaf in step.next_values if isinstance(leaf, State)]
    weights = [leaf for leaf in step.next_values if isinstance(leaf, Parameter)] if reinitialize else []
    initial = [*((s, s.initial) for s in states), *((p, p.array) for p in weights)]
    describe_training(info, [(names.names.of(leaf.output), array) for leaf, array in initial])
    if spec is not None:
        drop_unused(model)
    again = [[names.tree_names.nodes[node] for node in group] for group in checkpoint.marked(ancestors([loss]))]
    settings = describe_settings(loss, step.optimizer, step.parameters, again)
    facts = {"optimizer": step.optimizer.name, "epoch": "0", "batch": "0", "seed": str(seed.seed())}
    facts |= {"settings": settings, **(metadata or {})}
    for key, text in sorted(facts.items()):
        model.metadata_props.add(key=key, value=text)
    return model, {leaf: names.names.of(leaf.output) for leaf in [*rates, *step.next_values]}


def _predictions(loss: Value, outputs: Mapping[str, GraphElement] | None) -> dict[str, Value]:
    compared = [p for p in loss.node.loss or () if p is not loss] or [loss]
    predictions = _numbered(compared)
    if outputs is not None:
        predictions = {name: element.output for name, element in outputs.items()}
        targets = _data([loss]) - _data(compared)
        for name, value in predictions.items():
            if read := [leaf.output.name or leaf.output for leaf in ancestors([value]) if leaf in targets]:
                raise ConversionError(
                    f"export_training: an output must depend on no target, got {name!r}, which depends on {read[0]}. "
                    f"Leave it out, or give a value before the loss. {created_at(value.node.site)}"
                )
    return _apart(predictions, loss.node.opset, loss)


def _data(values: Sequence[Value]) -> set[Node]:
    return {node for node in ancestors(values) if is_data(node)}


def _numbered(values: Sequence[Value]) -> dict[str, Value]:
    """Return the outputs by name: a file's where they come from one, else output, or output1 and so on."""
    named: dict[str, Value] = {}
    for i, value in enumerate(values, 1):
        name = value.name if value.node.note is not None else None
        named[name if name and name not in named else f"output{i}" if len(values) > 1 else "output"] = value
    return named


def _apart(named: Mapping[str, Value], opset: int, loss: Value | None = None) -> dict[str, Value]:
    """Return the outputs, each a value of its own: Identity for a leaf, the loss, and one that has a name already.

    bfloat16, which NumPy has not, leaves a model as float32.
    """
    apart: dict[str, Value] = {}
    for name, value in named.items():
        if value.dtype.name == "bfloat16":
            value = apply("Cast", value, to=np.float32, opset=opset or schema.DEFAULT_OPSET).output
        elif isinstance(value.node, Leaf) or value is loss or value in apart.values():
            value = apply("Identity", value, opset=opset or schema.DEFAULT_OPSET).output
        apart[name] = value
    return apart


def _named_outputs(
    source: Source | Sequence[GraphElement],
    inputs: Mapping[str, Sequence[int | str]] | None,
    outputs: Mapping[str, GraphElement] | None,
) -> dict[str, Value]:
    if outputs is not None:
        return {name: element.output for name, element in outputs.items()}
    if isinstance(source, Layer):
        source = _called(source, inputs)
    elements = [source] if isinstance(source, GraphElement) else list(source)
    if not all(isinstance(element, GraphElement) for element in elements):
        raise ConversionError(
            f"export: the source must be an element, several, or a layer, got {type(source).__name__}. "
            f"{created_at(user_site())}"
        )
    values: list[Value] = []
    for element in elements:
        node = element.output.node
        values += [p for p in node.loss if p is not element.output] if node.loss is not None else [element.output]
    return _numbered(list(dict.fromkeys(values)))


def _called(layer: Layer, inputs: Mapping[str, Sequence[int | str]] | None) -> GraphElement:
    if inputs is not None:
        dtype = np.dtype(parameter.precision)
        placeholders = [Input(dtype, tuple(shape), name=name) for name, shape in inputs.items()]
        return layer(*(GraphElement(leaf.output) for leaf in placeholders))
    last = layer.last_output()
    if last is None:
        kind = type(layer).__name__
        raise ConversionError(
            f"export: a model must have been called, or be given inputs, got {kind}, which was never called. "
            f'Call it with data, or give inputs={{"x": ("N", ...)}}.'
        )
    return last


def write_file(model: onnx.ModelProto | bytes, path: str | os.PathLike[str]) -> None:
    """Write a model; the file is written whole or not at all.

    One that is too large for a single file gets its data beside it, as `externalize` writes them.
    """
    if not isinstance(model, bytes) and _data_bytes(model) > LARGEST_FILE_BYTES:
        externalize(model, path)
        return
    data = model if isinstance(model, bytes) else as_bytes(model)
    write_whole(path, lambda file: file.write(data))


def _data_bytes(model: onnx.ModelProto) -> int:
    """Return how many bytes the initializers have, those of the training steps too."""
    tensors = [tensor for graph in parts(model) for tensor in graph.initializer]
    return sum(math.prod(t.dims) * schema.dtype_of(t.data_type).itemsize for t in tensors)


__all__ = ["export", "export_training", "to_onnx", "to_training_onnx", "training_model", "write_file"]
