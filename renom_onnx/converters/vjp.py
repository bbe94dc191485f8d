"""`vjp`: the gradient of any ONNX graph, as a plain ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import helper

from renom_onnx.converters.importer import ImportedGraph, at_least_opset, default_opset, import_graph, read_model
from renom_onnx.converters.structure import names_of
from renom_onnx.converters.writer import FunctionTable, Writer, read_values, value_info
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.derivative import is_differentiable
from renom_onnx.graph.function import DOMAIN, DOMAIN_VERSION
from renom_onnx.graph.node import BACKWARD, Input, Node, Value, ancestors
from renom_onnx.graph.site import created_at


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
    proto = at_least_opset(read_model(model), schema.DEFAULT_OPSET)
    graph = import_graph(proto)
    targets = _targets(graph, wrt)
    op = Builder(graph.opset, tag=BACKWARD)

    seeds = {
        name: Input(value.dtype, value.shape, name=f"{name}_grad").output
        for name, value in graph.outputs.items()
        if value.is_float
    }
    _require_types(graph, targets.values())
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
            gradient = op.Expand(op.zero(value), op.shape_of(value))
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


def _require_types(graph: ImportedGraph, targets: Iterable[Value]) -> None:
    """Refuse to lose a gradient where nobody knows whether a value holds floats."""
    reached = {value.node for value in targets}
    for node, _ in graph.nodes:
        read = [value for value in node.inputs if value is not None]
        if not any(value.node in reached for value in read):
            continue
        reached.add(node)
        unknown = [
            value.name for value in [*read, *node.outputs] if schema.encoded_type(value.dtype) == b"" and value.name
        ]
        if unknown and is_differentiable(node):
            raise ConversionError(
                f"vjp: the element type of every value must be known, got {unknown[0]!r} without one. Give it a "
                f"value_info. {created_at(node.site)}"
            )


def _write(
    proto: onnx.ModelProto, graph: ImportedGraph, seeds: Sequence[Value], gradients: Sequence[Value], inline: bool
) -> onnx.ModelProto:
    names = names_of(proto)
    for value in graph.values.values():
        names.fix(value, str(value.name))
    for value in [*seeds, *gradients]:
        names.give(value, str(value.name))
    own = {node for node, _ in graph.nodes} | {v.node for v in [*graph.inputs.values(), *graph.initializers.values()]}
    added = [n for n in ancestors(gradients, own) if n not in own]
    skipped = _skipped_outputs(graph, added)
    for value in skipped:
        names.give(value, f"{value.node.site[0]}:{value.index}")
    read = read_values(added, gradients)
    table = FunctionTable(added, read, [(f.domain, f.name) for f in proto.functions])
    writer = Writer(names, functions=table, inline=inline, node_names=_node_names(added))
    writer.write(added, read)

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.ClearField("training_info")
    result.ir_version = max(proto.ir_version, schema.DEFAULT_IR_VERSION)
    for value, position in skipped.items():
        result.graph.node[position].output[value.index] = names.of(value)
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.initializers)
    result.graph.input.extend(value_info(names.of(v), v.dtype, v.shape) for v in seeds)
    result.graph.output.extend(value_info(names.of(v), v.dtype, v.shape) for v in gradients)
    if not inline:
        known = {(f.domain, f.name, f.overload) for f in proto.functions}
        result.functions.extend(f for f in table.protos() if (f.domain, f.name, f.overload) not in known)
    if result.functions and all(o.domain != DOMAIN for o in result.opset_import):
        result.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    assert default_opset(result) == graph.opset
    return result


def _skipped_outputs(graph: ImportedGraph, added: Sequence[Node]) -> dict[Value, int]:
    """Return the outputs that the model skips and its gradient reads, each with the position of its node."""
    positions = {node: i for i, (node, _) in enumerate(graph.nodes)}
    read = dict.fromkeys(value for node in added for value in node.inputs if value is not None)
    return {value: positions[value.node] for value in read if value.node in positions and not value.name}


def _node_names(nodes: Sequence[Node]) -> dict[Node, str]:
    names = {}
    for node in nodes:
        is_read = node.forward is not None and node.forward.site[1] == 0
        names[node] = f"{node.forward.site[0]}.grad" if is_read and node.forward is not None else node.op_type
    return names
