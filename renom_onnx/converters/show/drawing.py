"""Drawings: boxes and arrows of a graph, placed in lanes and rows, as plain data for a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from renom_onnx.converters.importer import captured
from renom_onnx.converters.show import layering
from renom_onnx.converters.show.roles import FORWARD, GRADIENT, UPDATE
from renom_onnx.converters.show.words import attribute_texts, formal_names, tensor_text
from renom_onnx.converters.structure import FunctionKey, key_of, subgraphs

INPUT, OUTPUT = "input", "output"
LANES = (FORWARD, GRADIENT, UPDATE)
MOST_READERS = 3
"""An update that more nodes than this read, such as a step count, is drawn apart from them."""
FLOW, AGAIN = "flow", "again"
"""An arrow along a lane or on to the next, and one by which a value of the forward pass is read again."""


@dataclass
class Box:
    """A node, or an input or output of the graph.

    Attributes:
        name: of the node or value.
        op_type, domain: "" for inputs and outputs.
        role: "forward", "gradient", "update", "input" or "output".
        label: the second line: layer, or the parameter that is updated.
        reads, writes: formal name and value, the value "" where it is absent.
        attributes: as text.
        bodies: names of drawings inside: the function called, the bodies of control flow.
        row, lane: where it is.
        cost: multiply-adds and operations, where known.
    """

    name: str
    op_type: str
    role: str
    label: str = ""
    domain: str = ""
    reads: list[tuple[str, str]] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    bodies: list[tuple[str, str]] = field(default_factory=list)
    row: int = 0
    lane: int = 0
    cost: tuple[int, int] | None = None


@dataclass
class Drawing:
    """One graph, placed.

    Attributes:
        title: what it is.
        boxes: with their places.
        arrows: source, target, value, kind, and the waypoints' numbers.
        lanes: by lane, the items of every row: boxes, or waypoints, whose numbers are negative.
        tensors: what initializers and constants hold, by name.
    """

    title: str
    boxes: list[Box] = field(default_factory=list)
    arrows: list[tuple[int, int, str, str, list[int]]] = field(default_factory=list)
    lanes: list[dict[int, list[int]]] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)


@dataclass
class Source:
    """What is drawn: a graph, a function or a body.

    Attributes:
        title: what it is.
        nodes: with their roles.
        inputs, outputs: names of values.
        initializers: tensors.
        opset: of the default domain.
        updated: by the name of a next value, the parameter or state that it becomes.
    """

    title: str
    nodes: Sequence[tuple[onnx.NodeProto, str]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    initializers: Sequence[onnx.TensorProto] = ()
    opset: int = 0
    updated: Mapping[str, str] = field(default_factory=dict)


def draw(source: Source, functions: Mapping[FunctionKey, onnx.FunctionProto]) -> Drawing:
    """Return the drawing of a graph; constants are part of who reads them."""
    drawing = Drawing(source.title)
    drawing.tensors = {tensor.name: tensor_text(tensor) for tensor in source.initializers}
    writer: dict[str, int] = {}
    for node, _ in source.nodes:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output:
            drawing.tensors[node.output[0]] = ", ".join(attribute_texts(node).values())
    shown = [(node, role) for node, role in source.nodes if not (node.output and node.output[0] in drawing.tensors)]
    read_by: dict[str, set[str]] = defaultdict(set)
    for node, role in shown:
        for name in [*node.input, *captured(node)]:
            read_by[name].add(role)
    for name in source.inputs:
        if name not in drawing.tensors and read_by[name] - {UPDATE}:
            writer[name] = len(drawing.boxes)
            drawing.boxes.append(Box(name, "", INPUT, writes=[("", name)]))
    for node, role in shown:
        box = _box(node, role, source, functions)
        writer.update((name, len(drawing.boxes)) for name in node.output if name)
        drawing.boxes.append(box)
    for name in source.outputs:
        if name in writer:
            drawing.boxes.append(Box(name, "", OUTPUT, reads=[("", name)]))
    _connect(drawing, writer, source.nodes)
    _place(drawing)
    return drawing


def _box(node: onnx.NodeProto, role: str, source: Source, functions: Mapping[FunctionKey, onnx.FunctionProto]) -> Box:
    next_of = [source.updated[name] for name in node.output if name in source.updated]
    layer = node.name.rpartition("/")[0] or node.name
    label = next_of[0] if role == UPDATE and next_of else layer if layer != node.op_type else ""
    if role == GRADIENT and node.op_type == "Sum":
        label = ""  # it adds up what several readers send back: no layer's
    function = functions.get(key_of(node))
    reads, writes = formal_names(node, source.opset, function)
    box = Box(node.name, node.op_type, role, label, node.domain, reads, writes, attribute_texts(node))
    if function is not None:
        box.bodies.append(("body", body_name(function)))
    box.bodies += [(name, f"{source.title} / {node.name or node.op_type} / {name}") for name, _ in bodies_of(node)]
    return box


def body_name(function: onnx.FunctionProto) -> str:
    """Return what the drawing of a function is called."""
    overload = f" ({function.overload})" if function.overload else ""
    return f"{function.domain}.{function.name}{overload}"


def bodies_of(node: onnx.NodeProto) -> list[tuple[str, onnx.GraphProto]]:
    """Return the bodies of control flow that a node carries, by the attribute's name."""
    found = []
    for attribute in node.attribute:
        inner = subgraphs(onnx.NodeProto(domain=node.domain, op_type=node.op_type, attribute=[attribute]))
        found += [(attribute.name if len(inner) == 1 else f"{attribute.name}[{i}]", g) for i, g in enumerate(inner)]
    return found


def _connect(drawing: Drawing, writer: Mapping[str, int], nodes: Iterable[tuple[onnx.NodeProto, str]]) -> None:
    outside = {node.name: captured(node) for node, _ in nodes}
    n_readers = Counter(writer[name] for box in drawing.boxes for _, name in box.reads if name in writer)
    for target, box in enumerate(drawing.boxes):
        names = [name for _, name in box.reads] + (outside.get(box.name, []) if box.op_type else [])
        for name in dict.fromkeys(names):
            if name in writer and writer[name] != target:
                source = writer[name]
                is_again = drawing.boxes[source].role in (FORWARD, INPUT) and box.role in (GRADIENT, UPDATE)
                is_again |= drawing.boxes[source].role == UPDATE and n_readers[source] > MOST_READERS
                drawing.arrows.append((source, target, name, AGAIN if is_again else FLOW, []))


def _place(drawing: Drawing) -> None:
    """Give every box its lane and row, and every lane its order."""
    boxes = drawing.boxes
    for box in boxes:
        box.lane = LANES.index(box.role) if box.role in LANES else 0
    for i, box in enumerate(boxes):
        if box.role == OUTPUT:  # beside who writes it
            box.lane = next((boxes[a].lane for a, b, *_ in drawing.arrows if b == i), 0)
    above = []
    for source, target, _, kind, _ in drawing.arrows:
        lanes = boxes[source].lane, boxes[target].lane
        if kind == FLOW and lanes[0] == lanes[1] == 0:
            above.append((source, target))
        elif kind == FLOW and lanes[0] == lanes[1] == 1:
            above.append((target, source))  # gradients flow up
    partners = _partners(drawing)
    for i, j in partners:
        boxes[i].label = boxes[j].label
    gradients = [i for i, box in enumerate(boxes) if box.lane == 1]
    found = layering.rows(len(boxes), above, partners, gradients)
    _place_updates(drawing, found)
    for box, row in zip(boxes, found, strict=True):
        box.row = row
    for number in range(len(LANES)):
        members = [i for i, box in enumerate(boxes) if box.lane == number]
        inner = {
            k: (a, b)
            for k, (a, b, _, kind, _) in enumerate(drawing.arrows)
            if boxes[a].lane == boxes[b].lane == number and kind == FLOW
        }
        lane = layering.order(members, found, inner)
        drawing.lanes.append(lane.layers)
        for k, waypoints in lane.waypoints.items():
            a, b, *_ = drawing.arrows[k]
            drawing.arrows[k][4].extend(waypoints if found[a] < found[b] else waypoints[::-1])


def _place_updates(drawing: Drawing, found: list[int]) -> None:
    """Give updates rows: beside the gradient that they read, else below the update that they read, else at the end."""
    lane = LANES.index(UPDATE)
    read: dict[int, list[int]] = defaultdict(list)
    read_by: dict[int, list[int]] = defaultdict(list)
    for source, target, _, kind, _ in drawing.arrows:
        if kind == FLOW and drawing.boxes[target].lane == lane:
            read[target].append(source)
            read_by[source].append(target)
    updates = [i for i, box in enumerate(drawing.boxes) if box.lane == lane]  # inputs before readers
    last = max((found[i] for i, box in enumerate(drawing.boxes) if box.lane != lane), default=-1) + 1
    placed: set[int] = set()
    for i in updates:
        rows = [
            found[j] + (drawing.boxes[j].lane == lane) for j in read[i] if drawing.boxes[j].lane != lane or j in placed
        ]
        if rows:
            found[i] = max(rows)
            placed.add(i)
    for i in reversed(updates):
        if i not in placed:
            lowest = min((found[j] for j in read_by[i] if j in placed), default=0)
            found[i] = lowest - 1 if lowest else last
            placed.add(i)


def _partners(drawing: Drawing) -> list[tuple[int, int]]:
    """Return the gradient boxes, each with the forward box whose gradient it is: who shares most values with it.

    A gradient node reads outputs and inputs of its forward node, first the gradients of the outputs.
    """
    values: dict[str, list[int]] = defaultdict(list)
    for i, box in enumerate(drawing.boxes):
        if box.lane == 0 and box.op_type:
            for name in {name for _, name in [*box.reads, *box.writes] if name}:
                values[name].append(i)
    scores = []
    for i, box in enumerate(drawing.boxes):
        if box.lane != 1:
            continue
        shared: dict[int, int] = defaultdict(int)
        for name in {name for _, name in box.reads}:
            for j in values.get(name, ()):
                shared[j] += 3 if any(name == written for _, written in drawing.boxes[j].writes) else 2
        for j, score in shared.items():
            is_named = box.op_type == f"{drawing.boxes[j].op_type}Grad" and box.label == drawing.boxes[j].label
            scores.append((score + 100 * is_named, j, i))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, j, i in sorted(scores, reverse=True):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return list(pairs.items())


def plain(drawing: Drawing) -> dict[str, Any]:
    """Return the drawing for JSON, with short keys because there are many."""
    return {
        "title": drawing.title,
        "boxes": [_plain_box(box) for box in drawing.boxes],
        "arrows": [[a, b, value, kind, points] for a, b, value, kind, points in drawing.arrows],
        "lanes": [[[row, items] for row, items in lane.items()] for lane in drawing.lanes],
        "tensors": drawing.tensors,
    }


def _plain_box(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = {"name": box.name, "op": box.op_type, "role": box.role, "row": box.row, "lane": box.lane}
    for key, value in (
        ("label", box.label),
        ("domain", box.domain),
        ("reads", box.reads),
        ("writes", box.writes),
        ("attributes", box.attributes),
        ("bodies", box.bodies),
        ("cost", box.cost),
    ):
        if value:
            found[key] = value
    return found
