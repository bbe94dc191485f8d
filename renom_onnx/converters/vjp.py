"""`vjp`: the gradient of any ONNX graph, as a plain ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

from renom_onnx.converters.addition import addition, require_types
from renom_onnx.converters.importer import ImportedGraph, at_least_opset, default_opset, import_graph, read_model
from renom_onnx.converters.lowering import lowered
from renom_onnx.converters.structure import functions_of, names_of
from renom_onnx.converters.writer import value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, DOMAIN_VERSION
from renom_onnx.graph.node import BACKWARD, Input, Value


def vjp(model: Any, wrt: str | Sequence[str] | None = None, *, inline: bool = False) -> onnx.ModelProto:
    """Return the vector-Jacobian product of a model: the model, and the gradients of its inputs.

    For y = f(x) the new model computes y and, from dy, dx = dy * df/dx, summed over everything that x reaches.

    Args:
        model: a ModelProto, path or bytes. Opsets below 18 are upgraded to 18, newer ones kept.
        wrt: a name of an input or initializer, or several; default: all that hold floats.
        inline: write the gradient functions out, for importers that do not know functions.

    Returns:
        A model with the inputs of the given one, then ``<output>_grad`` for every float output, and with its outputs,
        then ``<name>_grad`` for every name in ``wrt`` (zeros where no output depends on it). A name that the model uses
        already gets a number, ``y_grad_2``, so that a vjp has a vjp. ``training_info`` is left out.

    Raises:
        ConversionError: the model cannot be read, or a name in ``wrt`` is no float input or initializer.
        GradientError: an operator on the way has no gradient rule.

    Example:
        >>> import numpy as np, onnx
        >>> from renom_onnx.converters import vjp
        >>> text = '<ir_version: 10, opset_import: ["": 18]> f (float[N] x) => (float[N] y) { y = Exp(x) }'
        >>> model = onnx.parser.parse_model(text)
        >>> gradient = vjp(model)
        >>> [i.name for i in gradient.graph.input], [o.name for o in gradient.graph.output]
        (['x', 'y_grad'], ['y', 'x_grad'])
        >>> [node.op_type for node in gradient.graph.node]
        ['Exp', 'ExpGrad']
    """
    proto = at_least_opset(lowered(read_model(model)), schema.DEFAULT_OPSET)
    graph = import_graph(proto)
    targets = _targets(graph, wrt)
    op = Builder(graph.opset, tag=BACKWARD)

    seeds = {
        name: Input(value.dtype, value.shape, name=f"{name}_grad").output
        for name, value in graph.outputs.items()
        if value.is_float
    }
    require_types("vjp", graph, targets.values())
    walk = reverse_walk(
        [(graph.outputs[name], seed) for name, seed in seeds.items()],
        opset=graph.opset,
        wanted=targets.values(),
        root="an output",
    )
    gradients: list[Value] = []
    for name, value in targets.items():
        gradient = walk.gradient(value)
        if gradient is None:
            gradient = op.zeros_like(value)
        if gradient.node.is_leaf or gradient in gradients:
            gradient = op.Identity(gradient)
        gradient.name = f"{name}_grad"
        gradients.append(gradient)
    return _write(proto, graph, list(seeds.values()), gradients, inline)


def _targets(graph: ImportedGraph, wrt: str | Sequence[str] | None) -> dict[str, Value]:
    known = {name: v for name, v in {**graph.inputs, **graph.initializers}.items() if v.is_float}
    if wrt is None:
        return known
    names = [wrt] if isinstance(wrt, str) else wrt
    for name in names:
        if name not in known:
            raise ConversionError(
                f"vjp: wrt must name inputs or initializers that hold floats, got {name!r}. "
                f"There are: {', '.join(known) or 'none'}."
            )
    return {name: known[name] for name in names}


def _write(
    proto: onnx.ModelProto, graph: ImportedGraph, seeds: Sequence[Value], gradients: Sequence[Value], inline: bool
) -> onnx.ModelProto:
    names = names_of(proto)
    for value in [*seeds, *gradients]:
        names.give(value, str(value.name))
    added = addition(graph, gradients, names, functions_of(proto), inline=inline)
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.ClearField("training_info")
    result.ir_version = max(proto.ir_version, schema.DEFAULT_IR_VERSION)
    added.name_outputs(result.graph.node)
    result.graph.node.extend(added.nodes)
    result.graph.initializer.extend(added.initializers)
    result.graph.input.extend(value_info(names.of(v), v.dtype, v.shape) for v in seeds)
    result.graph.output.extend(value_info(names.of(v), v.dtype, v.shape) for v in gradients)
    result.functions.extend(added.functions)
    if result.functions and all(o.domain != DOMAIN for o in result.opset_import):
        result.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    if all(o.domain not in ("", "ai.onnx") for o in result.opset_import):  # a model of other domains' operators alone
        result.opset_import.append(helper.make_opsetid("", graph.opset))
    assert default_opset(result) == graph.opset
    return result
