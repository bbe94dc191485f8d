"""`vjp`: the gradient of any ONNX graph, as a plain ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

from renom_onnx.converters.importer import ImportedGraph, at_least_opset, default_opset, import_graph, read_model
from renom_onnx.converters.writer import FunctionTable, Names, Writer, value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, DOMAIN_VERSION
from renom_onnx.graph.node import BACKWARD, Input, Node, Value, ancestors


def vjp(model: Any, wrt: Sequence[str] | None = None, *, inline: bool = False) -> onnx.ModelProto:
    """Return the vector-Jacobian product of a model: the model, and the gradients of its inputs.

    For y = f(x) the new model computes y and, from dy, dx = dy * df/dx, summed over everything that x reaches.

    Args:
        model: a ModelProto, path or bytes. Opsets below 18 are upgraded to 18, newer ones kept.
        wrt: names of inputs and initializers; default: all that hold floats.
        inline: write the gradient functions out, for importers that do not know functions.

    Returns:
        A model with the inputs of the given one, then ``<output>_grad`` for every float output, and with its outputs,
        then ``<name>_grad`` for every name in ``wrt`` (zeros where no output depends on it). ``training_info`` is left
        out.

    Raises:
        ConversionError: a name in ``wrt`` is no float input or initializer, or a name is taken.
        GradientError: an operator on the way has no gradient rule.

    Example:
        >>> import numpy as np, onnx
        >>> from renom_onnx.converters import vjp
        >>> model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 18]> f (float[N] x) => (float[N] y) { y = Exp(x) }')
        >>> gradient = vjp(model)
        >>> [i.name for i in gradient.graph.input], [o.name for o in gradient.graph.output]
        (['x', 'y_grad'], ['y', 'x_grad'])
        >>> [node.op_type for node in gradient.graph.node]
        ['Exp', 'ExpGrad']
    """
    proto = at_least_opset(read_model(model), schema.DEFAULT_OPSET)
    graph = import_graph(proto)
    targets = _targets(graph, wrt)
    op = Builder(graph.opset, tag=BACKWARD)

    seeds = {
        name: Input(value.dtype, value.shape, name=f"{name}_grad").output
        for name, value in graph.outputs.items()
        if value.is_float
    }
    walk = reverse_walk(
        [(graph.outputs[name], seed) for name, seed in seeds.items()], opset=graph.opset, wanted=targets.values()
    )
    gradients = {}
    for name, value in targets.items():
        gradient = walk.gradient(value)
        if gradient is None:
            gradient = op.Expand(op.zero(value), op.shape_of(value))
        if gradient.node.is_leaf or gradient in gradients.values():
            gradient = op.Identity(gradient)
        gradients[f"{name}_grad"] = gradient
    return _write(proto, graph, seeds.values(), gradients, inline)


def _targets(graph: ImportedGraph, wrt: Sequence[str] | None) -> dict[str, Value]:
    known = {name: v for name, v in {**graph.inputs, **graph.initializers}.items() if v.is_float}
    if wrt is None:
        return known
    for name in wrt:
        if name not in known:
            raise ConversionError(
                f"vjp: wrt must name inputs or initializers that hold floats, got {name!r}. "
                f"There are: {', '.join(known) or 'none'}."
            )
    return {name: known[name] for name in wrt}


def _write(
    proto: onnx.ModelProto, graph: ImportedGraph, seeds: Any, gradients: dict[str, Value], inline: bool
) -> onnx.ModelProto:
    taken = {name for node in proto.graph.node for name in [*node.input, *node.output]} | set(graph.values)
    for name in [*(str(seed.name) for seed in seeds), *gradients]:
        if name in taken:
            raise ConversionError(
                f"vjp: the name {name} must be free for a gradient, got a model that uses it. Rename it."
            )
    names = Names(taken)
    for node in proto.graph.node:
        names.fresh_node(node.name)
    for value in graph.values.values():
        names.fix(value, str(value.name))
    for seed in seeds:
        names.fix(seed, str(seed.name))
    for name, value in gradients.items():
        names.fix(value, name)
    own = {node for node, _ in graph.nodes} | {v.node for v in [*graph.inputs.values(), *graph.initializers.values()]}
    added = [n for n in ancestors(gradients.values(), own) if n not in own]
    table = FunctionTable(added, [(f.domain, f.name) for f in proto.functions])
    writer = Writer(names, overload=table.overload, inline=inline, node_names=_node_names(added))
    writer.write(added, gradients.values())

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.ClearField("training_info")
    result.ir_version = max(proto.ir_version, schema.DEFAULT_IR_VERSION)
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.initializers)
    result.graph.input.extend(value_info(str(s.name), s.dtype, s.shape) for s in seeds)
    result.graph.output.extend(value_info(name, v.dtype, v.shape) for name, v in gradients.items())
    if not inline:
        result.functions.extend(table.protos())
    if result.functions and all(o.domain != DOMAIN for o in result.opset_import):
        result.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    assert default_opset(result) == graph.opset
    return result


def _node_names(nodes: Sequence[Node]) -> dict[Node, str]:
    names = {}
    for node in nodes:
        forward = node.forward
        base = forward.site[0] if forward is not None and forward.site[1] == 0 else None
        names[node] = f"{base}.grad" if base and base != forward.op_type else node.op_type  # type: ignore[union-attr]
    return names
