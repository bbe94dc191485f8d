"""Draw the training step of a file: forward, gradient and update nodes in three colours.

    python -m examples.draw_graph                                      a small network, drawn into training-graph.png
    python -m examples.draw_graph demo-output/digits.train.onnx        any file that rm.export_training wrote

Forward nodes run from left to right up to the loss, gradient nodes below them run back, and below these every parameter
has its update node. Grey arrows are values of the forward pass that a gradient node reads again.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as LinePath

import renom_onnx as rm
from renom_onnx.converters.show.roles import FORWARD, GRADIENT, UPDATE, needed, roles

FILL = {FORWARD: "#d6e6f5", GRADIENT: "#fbdfc6", UPDATE: "#d8ecd1"}
LINE = {FORWARD: "#2f6da8", GRADIENT: "#c4661f", UPDATE: "#4a8a3a"}
AGAIN = "#a8a8a8"
WIDTH, HEIGHT = 1.5, 0.68
"""Size of a box, in inches."""
STEP_X, STEP_Y, LANE_GAP = 2.1, 0.9, 0.75
LONG_NAME = 17
"""Operators with a longer name than this have it on two lines."""


@dataclass(eq=False)
class Box:
    """A node of the file and its place: lane, column, and row in the lane."""

    node: onnx.NodeProto
    lane: str
    reads: list[Box] = field(default_factory=list)
    column: int = 0
    row: int = 0


@dataclass
class TrainingGraph:
    """What there is to draw.

    Attributes:
        boxes: all nodes, inputs before readers.
        inputs: names of the data, with the boxes that read them.
        parameters: names of weights, state and learning rate.
        outputs: names worth a label, with the boxes that write them.
    """

    boxes: list[Box]
    inputs: dict[str, list[Box]]
    parameters: set[str]
    outputs: dict[str, Box]


def read(model: onnx.ModelProto) -> TrainingGraph:
    """Return the nodes of graph and training step, each in its lane."""
    info = model.training_info[0]
    next_names = {binding.value for binding in info.update_binding}
    tensors = {tensor.name for tensor in [*model.graph.initializer, *info.algorithm.initializer]}
    inputs = [value.name for value in [*model.graph.input, *info.algorithm.input]]
    parameters = {binding.key for binding in info.update_binding} | tensors.intersection(inputs)
    loss = next(output.name for output in info.algorithm.output if output.name not in next_names)
    nodes = roles(model)
    wanted = needed([node for node, _ in nodes], [loss, *next_names])

    boxes: list[Box] = []
    writers: dict[str, Box] = {}
    for i, (node, role) in enumerate(nodes):
        if i not in wanted:
            continue
        box = Box(node, role, list(dict.fromkeys(writers[name] for name in node.input if name in writers)))
        boxes.append(box)
        writers.update((name, box) for name in node.output if name)
    data = {
        name: [box for box in boxes if box.lane == FORWARD and name in box.node.input]
        for name in inputs
        if name not in tensors
    }
    named = [output.name for output in model.graph.output] + [loss]
    return TrainingGraph(boxes, data, parameters, {name: writers[name] for name in named if name in writers})


def place(graph: TrainingGraph) -> None:
    """Give every box a column, counted from the loss at 0, and a row."""
    distance: dict[Box, int] = defaultdict(int)
    for box in reversed(graph.boxes):
        if box.lane == FORWARD:
            for earlier in box.reads:
                distance[earlier] = max(distance[earlier], distance[box] + 1)
            box.column = -distance[box]
    for box in graph.boxes:
        before = [earlier.column for earlier in box.reads if earlier.lane == GRADIENT]
        if box.lane == GRADIENT:
            box.column = min(before, default=2) - 1
        elif box.lane == UPDATE:
            box.column = min(before, default=1)
    stacks: dict[tuple[str, int], int] = defaultdict(int)
    for box in graph.boxes:
        box.row = stacks[box.lane, box.column]
        stacks[box.lane, box.column] += 1


def draw(model: onnx.ModelProto, path: Path) -> None:
    """Draw the training step of a model as a PNG."""
    graph = read(model)
    place(graph)
    columns = [box.column for box in graph.boxes]
    first, last = min(columns), max(columns)
    tops, y = {}, 0.0
    for lane in (FORWARD, GRADIENT, UPDATE):
        tops[lane] = y
        y -= STEP_Y * (1 + max((box.row for box in graph.boxes if box.lane == lane), default=0)) + LANE_GAP
    centers = {box: (STEP_X * (box.column - first), tops[box.lane] - STEP_Y * box.row) for box in graph.boxes}

    left, right, top, bottom = -1.55, STEP_X * (last - first) + 1.15, 1.25, y + LANE_GAP + 0.25
    figure = Figure(figsize=(right - left, top - bottom))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    _draw_legend(axes, left + 0.25, top - 0.3)
    for box in graph.boxes:
        for earlier in box.reads:
            _draw_arrow(axes, earlier, box, centers)
    for name, readers in graph.inputs.items():
        for box in readers:
            _draw_input(axes, name, centers[box], from_left=not box.reads)
    for box, center in centers.items():
        _draw_box(axes, box, center, graph.parameters)
    for name, box in graph.outputs.items():
        x, y = centers[box]
        axes.text(x + WIDTH / 2 + 0.06, y + 0.05, name, fontsize=9, style="italic", va="bottom")
    figure.savefig(path, dpi=110)


def _draw_box(axes: Axes, box: Box, center: tuple[float, float], parameters: set[str]) -> None:
    x, y = center
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    style = dict(boxstyle="round,pad=0,rounding_size=0.09", fc=FILL[box.lane], ec=LINE[box.lane], lw=1.2, zorder=3)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, **style))
    owned = [name for name in box.node.input if name in parameters] if box.lane != GRADIENT else []
    below = owned[0] if box.lane == UPDATE and owned else ", ".join(owned)
    below = below or box.node.name.rpartition("/")[0]
    lines = _lines(box.node.op_type)
    size = _fitting(max(lines, key=len), 10.5)
    raised = 0.1 if below else 0
    axes.text(x, y + raised, "\n".join(lines), fontsize=size, weight="bold", linespacing=1.1, **CENTERED)
    lowered = 0.16 if len(lines) == 1 else 0.22
    axes.text(x, y - lowered, below, fontsize=_fitting(below, 8.5), color="#444444", **CENTERED)


CENTERED = dict(ha="center", va="center", zorder=4)


def _lines(operator: str) -> list[str]:
    """Return the name, a long one broken in two before a capital."""
    if len(operator) <= LONG_NAME:
        return [operator]
    words = re.findall(r"[A-Z][^A-Z]*|^[^A-Z]+", operator)
    lengths = [len("".join(words[:i])) for i in range(len(words) + 1)]
    cut = min(range(1, len(words)), key=lambda i: max(lengths[i], lengths[-1] - lengths[i]), default=1)
    return ["".join(words[:cut]), "".join(words[cut:])]


def _fitting(text: str, size: float) -> float:
    """Return the font size, smaller where the text would be wider than a box."""
    return min(size, 72 * WIDTH * 0.94 / (0.62 * max(len(text), 1)))


def _draw_arrow(axes: Axes, start: Box, end: Box, centers: dict[Box, tuple[float, float]]) -> None:
    is_again = start.lane == FORWARD and end.lane != FORWARD
    points = _route(start, end, centers)
    axes.add_patch(
        FancyArrowPatch(
            path=LinePath(points),
            arrowstyle="-|>",
            mutation_scale=11,
            fc=AGAIN if is_again else LINE[end.lane],
            ec=AGAIN if is_again else LINE[end.lane],
            lw=0.9 if is_again else 1.3,
            joinstyle="round",
            zorder=1 if is_again else 2,
        )
    )


def _route(start: Box, end: Box, centers: dict[Box, tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of an arrow that crosses no box of its own lane."""
    (x0, y0), (x1, y1) = centers[start], centers[end]
    half, clear = WIDTH / 2, WIDTH / 2 + 0.22
    if start.lane == end.lane:
        if x0 == x1:
            return [(x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2)]
        side = 1 if x1 > x0 else -1
        if abs(x1 - x0) < STEP_X * 1.5:
            return [(x0 + side * half, y0), (x1 - side * half, y1)]
        above = y0 + STEP_Y * start.row + HEIGHT / 2 + 0.2
        return [
            (x0 + side * half, y0),
            (x0 + side * clear, y0),
            (x0 + side * clear, above),
            (x1 - side * clear, above),
            (x1 - side * clear, y1),
            (x1 - side * half, y1),
        ]
    if end.row:
        level = y1 + STEP_Y * end.row + HEIGHT / 2 + 0.38
        foot = x1 - 0.35 if x0 == x1 else x0
        return [(foot, y0 - HEIGHT / 2), (foot, level), (x1 - clear, level), (x1 - clear, y1), (x1 - half, y1)]
    shift = 0.0 if x0 == x1 else (0.28 if x0 < x1 else -0.28)
    return [(x0 + shift, y0 - HEIGHT / 2), (x1 - shift, y1 + HEIGHT / 2)]


def _draw_input(axes: Axes, name: str, target: tuple[float, float], *, from_left: bool) -> None:
    x, y = target
    tip = (x - WIDTH / 2, y) if from_left else (x, y + HEIGHT / 2)
    tail = (tip[0] - 0.45, y) if from_left else (x, tip[1] + 0.38)
    style = dict(arrowstyle="-|>", mutation_scale=11, color=LINE[FORWARD], lw=1.4, shrinkA=0, shrinkB=1)
    axes.add_patch(FancyArrowPatch(tail, tip, **style))
    place_text = dict(ha="right", va="center") if from_left else dict(ha="center", va="bottom")
    axes.text(tail[0] - (0.06 if from_left else 0), tail[1], name, fontsize=10.5, style="italic", **place_text)


def _draw_legend(axes: Axes, x: float, y: float) -> None:
    for lane in (FORWARD, GRADIENT, UPDATE):
        axes.add_patch(
            FancyBboxPatch(
                (x, y - 0.09), 0.3, 0.18, boxstyle="round,pad=0,rounding_size=0.05", fc=FILL[lane], ec=LINE[lane]
            )
        )
        axes.text(x + 0.38, y, lane, fontsize=10, va="center")
        x += 1.25


def small_model() -> onnx.ModelProto:
    """Return the trainable file of a network with two dense layers."""
    rm.set_seed(0)
    x, y = np.zeros((1, 64), np.float32), np.zeros(1, np.int64)
    network = rm.graph.Sequential([rm.graph.Dense(32), rm.graph.Relu(), rm.graph.Dense(10)])
    loss = rm.graph.SoftmaxCrossEntropy()(network(x), y)
    return rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a file and say where the picture is."""
    parser = argparse.ArgumentParser(prog="python -m examples.draw_graph", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, nargs="?", help="a file with a training step (default: a small network)")
    parser.add_argument(
        "--output", type=Path, default=Path("training-graph.png"), help="the picture (default: training-graph.png)"
    )
    options = parser.parse_args(arguments)
    model = onnx.load(options.path) if options.path is not None else small_model()
    draw(model, options.output)
    print(f"Drew {options.output} ({options.output.stat().st_size / 1000:.0f} kB).")


if __name__ == "__main__":
    main()
