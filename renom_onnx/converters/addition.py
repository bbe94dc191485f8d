"""What is added to an imported graph: gradient nodes, their constants and their functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx

from renom_onnx.converters.importer import ImportedGraph
from renom_onnx.converters.names import Names
from renom_onnx.converters.structure import FunctionKey, key_of
from renom_onnx.converters.writer import FunctionTable, Writer, read_values
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.derivative import is_differentiable
from renom_onnx.graph.node import Node, Value, ancestors
from renom_onnx.graph.site import created_at


@dataclass(frozen=True)
class Addition:
    """Protobuf that continues a graph.

    Attributes:
        nodes: in order.
        initializers: constants that they read.
        functions: what they call and the model lacks.
        outputs: names for outputs that the graph skips and the nodes read, by position of the node and of the output.
    """

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]
    functions: list[onnx.FunctionProto]
    outputs: dict[tuple[int, int], str]

    def name_outputs(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Let the graph's nodes write what they skip and the new nodes read, such as the mask of a Dropout."""
        for (position, index), name in self.outputs.items():
            outputs = nodes[position].output
            outputs.extend([""] * (index + 1 - len(outputs)))
            outputs[index] = name


def addition(
    graph: ImportedGraph,
    wanted: Sequence[Value],
    names: Names,
    functions: Collection[FunctionKey],
    *,
    inline: bool = False,
) -> Addition:
    """Return what the wanted values need and the graph lacks.

    Args:
        graph: as it was read.
        wanted: values that were built on it.
        names: of the model; wanted values may have theirs.
        functions: that the model has already.
        inline: write function calls out.
    """
    for value in graph.values.values():
        names.fix(value, str(value.name))
    own = {node for node, _ in graph.nodes} | {v.node for v in [*graph.inputs.values(), *graph.initializers.values()]}
    added = [node for node in ancestors(wanted, own) if node not in own]
    skipped = _skipped_outputs(graph, added)
    for value in skipped:
        names.give(value, f"{value.node.site[0]}:{value.index}")
    read = read_values(added, wanted)
    table = FunctionTable(added, read, [(domain, name) for domain, name, _ in functions])
    writer = Writer(names, functions=table, inline=inline, node_names=_node_names(added))
    writer.write(added, read)
    new = [] if inline else [f for f in table.protos() if key_of(f) not in functions]
    outputs = {(position, value.index): names.of(value) for value, position in skipped.items()}
    return Addition(writer.nodes, writer.initializers, new, outputs)


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


def require_types(caller: str, graph: ImportedGraph, targets: Iterable[Value]) -> None:
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
                f"{caller}: the element type of every value must be known, got {unknown[0]!r} without one. Give it a "
                f"value_info. {created_at(node.site)}"
            )
