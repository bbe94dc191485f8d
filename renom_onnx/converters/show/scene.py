"""Everything that a page shows of a model: its readings, the bodies in them, and what is known of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from renom_onnx.converters.doctor.reading import Opened, structure
from renom_onnx.converters.importer import ImportedGraph, default_opset
from renom_onnx.converters.initializer import kind_of, readers_of
from renom_onnx.converters.show.drawing import Drawing, Source, bodies_of, body_name, draw, plain
from renom_onnx.converters.show.roles import FORWARD, roles
from renom_onnx.converters.structure import functions_of, opsets_of
from renom_onnx.converters.training_info import concatenate
from renom_onnx.errors import RenomError
from renom_onnx.graph.function import Function
from renom_onnx.graph.meter import Meter
from renom_onnx.graph.node import Node, Value, type_text


@dataclass
class Scene:
    """What is shown.

    Attributes:
        name: of the file.
        facts: lines about the model, as pairs of words.
        readings: "training" and "inference", or the latter alone.
        bodies: drawings of functions and of the bodies of control flow, by title.
        types: by the title of a drawing, the types of its values by name.
    """

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    readings: dict[str, Drawing] = field(default_factory=dict)
    bodies: dict[str, Drawing] = field(default_factory=dict)
    types: dict[str, dict[str, str]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the scene for JSON."""
        return {
            "name": self.name,
            "facts": self.facts,
            "readings": {name: plain(drawing) for name, drawing in self.readings.items()},
            "bodies": {name: plain(drawing) for name, drawing in self.bodies.items()},
            "types": self.types,
        }


def scene(opened: Opened, sizes: Mapping[str, int] | None = None, batch_size: int = 1) -> Scene:
    """Return the scene of a model.

    Args:
        opened: the model.
        sizes: numbers for symbols, for the work of each node.
        batch_size: of the first axis of inputs.
    """
    proto = opened.proto
    found = Scene(opened.name)
    if proto.training_info:
        _add_reading(found, "training", proto, concatenate(proto), sizes, batch_size)
    _add_reading(found, "inference", proto, proto.graph, sizes, batch_size)
    _add_functions(found, proto)
    found.facts = _facts(opened)
    return found


def _add_reading(
    found: Scene,
    name: str,
    proto: onnx.ModelProto,
    graph: onnx.GraphProto,
    sizes: Mapping[str, int] | None,
    batch_size: int,
) -> None:
    is_training = name == "training"
    info = proto.training_info[0] if is_training else onnx.TrainingInfoProto()
    updated = {binding.value: binding.key for binding in info.update_binding}
    outputs = [value.name for value in graph.output if value.name not in updated]
    nodes = roles(proto) if is_training else [(node, FORWARD) for node in graph.node]
    inputs = [value.name for value in graph.input]
    opset = default_opset(proto)
    source = Source(name, nodes, inputs, outputs, graph.initializer, opset, updated)
    drawing = draw(source, functions_of(proto))
    found.readings[name] = drawing
    _add_bodies(found, proto, source, opset)
    try:
        readers = readers_of(graph.node)
        kinds = {
            t.name: kind_of(t, readers.get(t.name, ())) for t in graph.initializer if t.name not in updated.values()
        }
        imported = structure(proto, graph, kinds)
    except RenomError:
        return  # a broken graph is drawn without types
    found.types[name] = _types(imported.values.values())
    _add_costs(drawing, imported, sizes or {}, batch_size)
    for node, _ in imported.nodes:
        _add_function_types(found, node, proto)


def _add_costs(drawing: Drawing, graph: ImportedGraph, sizes: Mapping[str, int], batch_size: int) -> None:
    symbols = {v.shape[0]: batch_size for v in graph.inputs.values() if v.shape and isinstance(v.shape[0], str)}
    meter = Meter({**{str(symbol): size for symbol, size in symbols.items()}, **sizes})
    costs: dict[tuple[str, ...], tuple[int, int]] = {}
    for node, proto in graph.nodes:
        cost = meter.read(node)
        if not cost.uncounted:
            costs[tuple(name for name in proto.output if name)] = (cost.macs, cost.flops)
    for box in drawing.boxes:
        if box.op_type:
            box.cost = costs.get(tuple(name for _, name in box.writes))


def _types(values: Iterable[Value]) -> dict[str, str]:
    return {value.name: type_text(value.dtype, value.shape) for value in values if value.name and value.dtype != object}


def _add_function_types(found: Scene, node: Node, proto: onnx.ModelProto) -> None:
    """Note the types in the body that a node calls; those that differ between calls are left out."""
    stack: list[Node] = [node]
    while stack:
        caller = stack.pop()
        if caller.function is None:
            continue
        title = _title(caller, caller.function)
        inner = [n for n in caller.function.body() if not n.is_leaf]
        values = [*caller.function.inputs, *(v for n in inner for v in n.outputs)]
        types = _types(values)
        known = found.types.get(title)
        if known is None:
            found.types[title] = types
        else:
            found.types[title] = {name: text for name, text in known.items() if types.get(name) == text}
        stack += inner


def _title(node: Node, function: Function) -> str:
    overload = node.note.overload if node.note is not None else ""
    return body_name(onnx.FunctionProto(domain=node.domain, name=function.name, overload=overload))


def _add_functions(found: Scene, proto: onnx.ModelProto) -> None:
    functions = functions_of(proto)
    for function in proto.functions:
        nodes = [(node, FORWARD) for node in function.node]
        opset = opsets_of(function).get("", default_opset(proto))
        source = Source(body_name(function), nodes, list(function.input), list(function.output), (), opset)
        found.bodies[source.title] = draw(source, functions)
        _add_bodies(found, proto, source, opset)


def _add_bodies(found: Scene, proto: onnx.ModelProto, source: Source, opset: int) -> None:
    """Add the bodies of control flow in a graph, and those in them."""
    functions = functions_of(proto)
    for node, _ in source.nodes:
        for name, graph in bodies_of(node):
            title = f"{source.title} / {node.name or node.op_type} / {name}"
            nodes = [(inner, FORWARD) for inner in graph.node]
            inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]
            inner = Source(title, nodes, inputs, outputs, graph.initializer, opset)
            found.bodies[title] = draw(inner, functions)
            _add_bodies(found, proto, inner, opset)


def _facts(opened: Opened) -> dict[str, str]:
    proto = opened.proto
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    facts = {"opset": str(default_opset(proto)), "IR version": str(proto.ir_version)}
    if producer:
        facts["producer"] = producer
    return facts
