"""The gradient of maximum pooling over windows of 2 x 2, or 3 x 3 that overlap, by comparisons, for the CPU.

The portable body asks MaxPool for the positions of the maxima, for which onnxruntime leaves its fast kernel: most of
the gradient's time. Here a window is a round of matches: left against right in both rows, then the winner above against
the winner below. A later one wins only if it is greater, so that dy goes to the first maximum of each window, as in the
portable body. Each match gives the winner dy mask and the other dy - dy mask, which is exact.

Windows of 3 x 3 with stride 2, padded by 1, are matches of three: of columns 2 j - 1, 2 j and 2 j + 1, then of such
rows. The first of the three is the last of the window before, moved by one. Where -inf is all that a window has, its
padding wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.cpu.known_shapes import KnownShapes, Sizes
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import functions_of, key_of, replace_all
from renom_onnx.converters.variants import Writer
from renom_onnx.graph.function import DOMAIN

Form = Callable[[Writer, str, str, Sizes, str], None]
"""Called with what writes, dy, x and its sizes, and the name of the gradient."""

_GRADIENT = (DOMAIN, "MaxPoolGrad")
FEW_PIXELS = 1 << 15
"""Up to here as many nodes as matches of three take cost more than positions."""


def with_compared_pools(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose gradients of pooling by 2 x 2, or by 3 x 3 with padding, with stride 2 ask for no positions.

    Args:
        model: a step; its graph is looked at, not what its functions call.
        shapes: of the step's values.
    """
    if not any((node.domain, node.op_type) == _GRADIENT for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    functions = functions_of(model)
    nodes: list[onnx.NodeProto] = []
    for i, node in enumerate(model.graph.node):
        op = Writer(f"pool{i}.{next(filter(None, node.output), '')}")
        if (node.domain, node.op_type) == _GRADIENT and key_of(node) in functions:
            actual = dict(zip(functions[key_of(node)].input, node.input, strict=False))
            write = _form(node, actual, shapes)
            if write is not None:
                write(op, actual["dY"], actual["X"], shapes[actual["X"]], node.output[0])
        nodes += op.nodes or [node]
    replace_all(changed.graph.node, nodes)
    return changed


def _form(node: onnx.NodeProto, actual: Mapping[str, str], shapes: KnownShapes) -> Form | None:
    """Return what writes the gradient; None for other windows, or where positions are there already."""
    x, dy = (shapes.get(actual.get(formal, ""), ()) for formal in ("X", "dY"))
    is_halved = len(x) == 4 and dy == (*x[:2], x[2] // 2, x[3] // 2) and x[2] % 2 == x[3] % 2 == 0 < math.prod(x)
    if not is_halved or actual.get("Y2") or list(attribute(node, "strides", [1, 1])) != [2, 2]:
        return None
    pads = [*attribute(node, "pads", []), 0, 0, 0, 0][:4] if attribute(node, "auto_pad", "NOTSET") == "NOTSET" else None
    kernel = list(attribute(node, "kernel_shape", []))
    if kernel == [2, 2] and (pads == [0] * 4 or attribute(node, "auto_pad", "NOTSET") == "VALID"):
        return _of_pairs
    return _of_threes if kernel == [3, 3] and pads and pads[:2] == [1, 1] and math.prod(x) > FEW_PIXELS else None


def _of_pairs(op: Writer, dy: str, x: str, shape: Sizes, output: str) -> None:
    rows, columns = math.prod(shape[:2]) * shape[2] // 2, shape[3] // 2
    half = rows * 2 * columns
    by_column = op.op("Transpose", op.op("Reshape", x, op.integers([half, 2])), perm=[1, 0])
    left, right = op.halves(by_column, axis=0)
    right_wins = _mask(op, right, left)
    winners = op.op("Reshape", op.op("Max", left, right), op.integers([rows, 2, columns]))
    above, below = op.halves(winners, axis=1)
    d_above, d_below = _divide(op, op.op("Reshape", dy, op.integers([rows, 1, columns])), _mask(op, below, above))
    d_rows = op.op("Reshape", op.op("Concat", d_above, d_below, axis=1), op.integers([1, half]))
    sides = (op.op("Reshape", side, op.integers([half, 1])) for side in _divide(op, d_rows, right_wins))
    op.op("Reshape", op.op("Concat", *sides, axis=1), op.integers(shape), output=output)


def _of_threes(op: Writer, dy: str, x: str, shape: Sizes, output: str) -> None:
    images, height, width = math.prod(shape[:2]), *(n // 2 for n in shape[2:])
    half = images * height * 2 * width
    by_column = op.op("Transpose", op.op("Reshape", x, op.integers([half, 2])), perm=[1, 0])
    even, odd = (op.op("Reshape", side, op.integers([-1, width])) for side in op.halves(by_column, axis=0))
    lowest = op.op("Constant", value=numpy_helper.from_array(np.array(-np.inf, np.float32)))
    before = op.op("Pad", odd, op.integers([0, 1, 0, -1]), lowest)
    columns, winners = _match(op, before, even, odd)
    above, below = op.halves(op.op("Reshape", winners, op.integers([-1, 2, width])), axis=1)
    above, below = (op.op("Reshape", side, op.integers([images, height, width])) for side in (above, below))
    before = op.op("Pad", below, op.integers([0, 1, 0, 0, -1, 0]), lowest)
    rows, _ = _match(op, before, above, below)
    d = op.op("Reshape", dy, op.integers([images, height, width]))
    sides = (op.op("Reshape", side, op.integers([-1, 1, width])) for side in _give(op, d, rows, [0, -1, 0, 0, 1, 0]))
    d_rows = op.op("Reshape", op.op("Concat", *sides, axis=1), op.integers([-1, width]))
    sides = (op.op("Reshape", side, op.integers([half, 1])) for side in _give(op, d_rows, columns, [0, -1, 0, 1]))
    op.op("Reshape", op.op("Concat", *sides, axis=1), op.integers(shape), output=output)


def _match(op: Writer, first: str, second: str, third: str) -> tuple[tuple[str, str], str]:
    """Return whether the first wins, whether the third beats the second, and the winners."""
    others = op.op("Max", second, third)
    first_wins = op.op("Cast", op.op("GreaterOrEqual", first, others), to=onnx.TensorProto.FLOAT)
    return (first_wins, _mask(op, third, second)), op.op("Max", first, others)


def _give(op: Writer, d: str, wins: tuple[str, str], back: Sequence[int]) -> tuple[str, str]:
    """Return what of d the second gets, and the third: also what the window behind gives it as its first."""
    first = op.op("Mul", d, wins[0])
    second, third = _divide(op, op.op("Sub", d, first), wins[1])
    return second, op.op("Add", third, op.op("Pad", first, op.integers(back)))


def _mask(op: Writer, later: str, earlier: str) -> str:
    return op.op("Cast", op.op("Greater", later, earlier), to=onnx.TensorProto.FLOAT)


def _divide(op: Writer, d: str, later_wins: str) -> tuple[str, str]:
    """Return what of d the earlier gets, and the later."""
    later = op.op("Mul", d, later_wins)
    return op.op("Sub", d, later), later
