"""The gradient of maximum pooling over windows of 2 x 2 by comparisons, for the CPU.

The portable body asks MaxPool for the positions of the maxima, for which onnxruntime leaves its fast kernel: most of
the gradient's time. Here a window is a round of matches: left against right in both rows, then the winner above against
the winner below. A later one wins only if it is greater, so that dy goes to the first maximum of each window, as in the
portable body. Each match gives the winner dy mask and the other dy - dy mask, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from renom_onnx.converters.cpu.known_shapes import KnownShapes, Sizes
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import functions_of, key_of, replace_all
from renom_onnx.converters.variants import Writer
from renom_onnx.graph.function import DOMAIN

_GRADIENT = (DOMAIN, "MaxPoolGrad")


def with_compared_pools(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose gradients of pooling by 2 x 2 with stride 2 ask for no positions.

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
            if _is_served(node, actual, shapes):
                _gradient(op, actual["dY"], actual["X"], shapes[actual["X"]], node.output[0])
        nodes += op.nodes or [node]
    replace_all(changed.graph.node, nodes)
    return changed


def _is_served(node: onnx.NodeProto, actual: Mapping[str, str], shapes: KnownShapes) -> bool:
    """Whether the windows are those, share x among them, and no positions are there already."""
    x, dy = (shapes.get(actual.get(formal, ""), ()) for formal in ("X", "dY"))
    pair = [list(attribute(node, name, [1, 1])) for name in ("kernel_shape", "strides")]
    plain = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(attribute(node, "pads", []))
    is_whole = len(x) == 4 and dy == (*x[:2], x[2] // 2, x[3] // 2) and x[2] % 2 == x[3] % 2 == 0 < math.prod(x)
    return pair == [[2, 2], [2, 2]] and plain and is_whole and not actual.get("Y2")


def _gradient(op: Writer, dy: str, x: str, shape: Sizes, output: str) -> None:
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


def _mask(op: Writer, later: str, earlier: str) -> str:
    return op.op("Cast", op.op("Greater", later, earlier), to=onnx.TensorProto.FLOAT)


def _divide(op: Writer, d: str, later_wins: str) -> tuple[str, str]:
    """Return what of d the earlier gets, and the later."""
    later = op.op("Mul", d, later_wins)
    return op.op("Sub", d, later), later
