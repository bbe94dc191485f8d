"""Numbers that are multiplied by products, for nothing.

Gemm has a factor for its product. So a product that is only read times numbers is scaled where it is made, and a value
that only products read is scaled where they read it. In a transformer that is Gelu, between two dense layers: of
z = x / sqrt 2 and y = x / 2 (1 + erf z), neither quotient needs a pass of its own.

The numbers are those of the file but for the last bits. These nodes are written for the session that is about to be
opened, never into a file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import onnx

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.rewrite import Rewrite
from renom_onnx.converters.step_graph import attribute


def with_scaled_products(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step in which products take the numbers before and behind them.

    Args:
        model: a step, whose calls are written out.
        shapes: of the step's values.
    """
    step = Rewrite(model, shapes)
    for i, node in step.candidates("Add", "Gemm"):
        _scale_result(step, i, node)
    step = Rewrite(step.model(), shapes)
    for i, node in step.candidates("Mul"):
        _scale_operand(step, i, node)
    return step.model()


def _scale_result(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """X = a w + b, read as x c, x c and x d, is z = (a w + b) c, read as z, z and z (d / c)."""
    x, readers = node.output[0], step.readers(node.output[0])
    numbers = [_times_number(step, j, x) for j in readers]
    if not readers or None in numbers or step.made_by(x, node.op_type, reads=len(readers)) is None:
        return
    number = Counter(numbers).most_common(1)[0][0]
    written = _product(step, node, step.fresh(f"{x}.scaled"), number, number) if number else None
    if written is None or not number:
        return
    step.replace(i, written)
    scaled = written[-1].output[0]
    step.shapes.tell(scaled, step.shapes[x])
    for j, other in zip(readers, numbers, strict=True):
        reader = step.nodes[j]
        if other == number:
            step.replace(j, [step.node(reader, "Identity", [scaled], reader.output[0])])
        elif other is not None:
            step.replace(j, [step.node(reader, "Mul", [scaled, step.constant(other / number)], reader.output[0])])


def _scale_operand(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """Y = (u c) v, read by products alone, is u v, and the products are c times as large."""
    for scaled, v in (node.input, node.input[::-1]):
        inner = step.made_by(scaled, "Mul", reads=1)
        for u, name in [] if inner is None else [inner.input, inner.input[::-1]]:
            number, size = step.number(name), step.shapes.get(node.output[0])
            if number and size and step.shapes.get(u) == step.shapes.get(v) == size:
                plain = step.node(node, "Mul", [u, v])
                written = _readers_scaled(step, node.output[0], plain.output[0], number)
                if written:
                    step.replace(i, [plain])
                    for j, nodes in written.items():
                        step.replace(j, nodes)
                return


def _readers_scaled(step: Rewrite, y: str, plain: str, number: float) -> dict[int, list[onnx.NodeProto]]:
    """Return what comes in the place of the products that read y, by place; nothing if others read it too."""
    readers = step.readers(y)
    written: dict[int, list[onnx.NodeProto]] = {}
    if step.made_by(y, "Mul", reads=len(readers)) is None:
        return {}
    for j in readers:
        reader = step.nodes[j]
        behind = step.readers(reader.output[0])
        if reader.op_type == "MatMul" and len(behind) == 1 and reader.input[0] == y:
            total = step.nodes[behind[0]]
            nodes = _product(step, total, total.output[0], number, 1.0, plain) if total.op_type == "Add" else None
            if nodes is None:
                return {}
            written[behind[0]] = nodes
        elif reader.op_type == "Reshape" and reader.input[0] == y:
            matrix = step.node(
                reader, "Reshape", [plain, *reader.input[1:]], allowzero=attribute(reader, "allowzero", 0)
            )
            sizes = step.shapes.get(reader.output[0])
            if not sizes or step.made_by(reader.output[0], "Reshape", reads=len(behind)) is None:
                return {}
            step.shapes.tell(matrix.output[0], sizes)
            written[j] = [matrix]
            if any(k in written for k in behind):
                return {}
            for k in behind:
                written[k] = _gemm_scaled(step, k, reader.output[0], matrix.output[0], number)
        elif j in written:
            return {}
        else:
            written[j] = _gemm_scaled(step, j, y, plain, number)
    return written if all(written.values()) and not any(step.is_replaced(j) for j in written) else {}


def _gemm_scaled(step: Rewrite, place: int, old: str, new: str, number: float) -> list[onnx.NodeProto]:
    """Return a product of matrices that reads a new operand, of which its factor is a number times as large."""
    node = step.nodes[place]
    if (node.domain, node.op_type) != ("", "Gemm") or list(node.input).count(old) != 1 or old in node.input[2:]:
        return []
    inputs = [new if name == old else name for name in node.input]
    alpha = attribute(node, "alpha", 1.0) * number
    kept = {name: attribute(node, name, default) for name, default in (("beta", 1.0), ("transA", 0), ("transB", 0))}
    return [step.node(node, "Gemm", inputs, node.output[0], alpha=alpha, **kept)]


def _product(
    step: Rewrite, node: onnx.NodeProto, output: str, alpha: float, beta: float, operand: str = ""
) -> list[onnx.NodeProto] | None:
    """Return alpha a w + beta b for a node a w + b over rows, or over sequences of them; None if it is no such node.

    Args:
        step: that has the node.
        node: Gemm, or the Add behind a MatMul.
        output: name of what is returned.
        alpha: factor of the product.
        beta: factor of b.
        operand: read in the place of a; default: a.
    """
    if node.op_type == "Gemm":
        if len(node.input) < 3 or not node.input[2] or node.output[0] not in step.shapes:
            return None
        kept = {name: attribute(node, name, default) for name, default in (("beta", 1.0), ("transA", 0), ("transB", 0))}
        alpha *= attribute(node, "alpha", 1.0)
        before, bias = _times(step, node, node.input[2], beta)
        return [*before, step.node(node, "Gemm", [*node.input[:2], bias], output, alpha=alpha, **kept)]
    for product, bias in (node.input, node.input[::-1]):
        made = step.made_by(product, "MatMul", reads=1)
        if made is None:
            continue
        a, w, b, y = (step.shapes.get(name, ()) for name in (*made.input, bias, node.output[0]))
        if len(a) < 2 or len(w) != 2 or not _is_row(b, w[1]) or y != (*a[:-1], w[1]):
            return None
        flat = step.node(made, "Reshape", [operand or made.input[0], step.constant([-1, a[-1]], "int64")])
        before, bias = _times(step, node, bias, beta)
        gemm = step.node(made, "Gemm", [flat.output[0], made.input[1], bias], alpha=alpha)
        return [flat, *before, gemm, step.node(node, "Reshape", [gemm.output[0], step.constant(y, "int64")], output)]
    return None


def _times(step: Rewrite, node: onnx.NodeProto, bias: str, number: float) -> tuple[list[onnx.NodeProto], str]:
    """Return what makes a scaled bias, and its name: Gemm's own factor takes a pass over all rows."""
    if number == 1:
        return [], bias
    scaled = step.node(node, "Mul", [bias, step.constant(number)])
    return [scaled], scaled.output[0]


def _is_row(sizes: Sequence[int], n: int) -> bool:
    """Whether a value of these sizes is added to every row of n elements."""
    return len(sizes) in (1, 2) and sizes[-1] == n == math.prod(sizes)


def _times_number(step: Rewrite, place: int, x: str) -> float | None:
    """Return the number by which a node multiplies a value; None if it does something else."""
    node = step.nodes[place]
    if (node.domain, node.op_type) != ("", "Mul") or step.is_replaced(place) or list(node.input).count(x) != 1:
        return None
    other = next(name for name in node.input if name != x)
    is_small = len(step.shapes.get(other, (1,) * 9)) <= len(step.shapes.get(x, ()))
    return step.number(other) if is_small else None
