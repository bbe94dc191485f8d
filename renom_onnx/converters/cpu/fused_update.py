"""Updates of weights, written into the products that their gradients are.

The gradient of a weight is a product: of what a layer reads and of the gradient of what it returns. Gemm scales a
product and adds another matrix to it, so that an update that only does this needs no pass over the weights of its own:

- ``p - rate * (a b)`` is ``p - a (rate b)``, where scaling b costs less than passing over p twice;
- ``momentum * m + a b`` is one Gemm;
- Adam's ``v + (g * g - v) c`` is ``(1 - c) v + h * h``, where Gemm gives ``h = sqrt(c) g`` for nothing.

The numbers are those of the file but for the last bits. These nodes are written for the session that is about to be
opened, never into a file.
"""

from __future__ import annotations

import math

import onnx

from renom_onnx.converters.cpu.rewrite import Rewrite
from renom_onnx.converters.step_graph import attribute


def fuse_updates(step: Rewrite) -> None:
    """Write updates into the products before them, where that saves passes."""
    scaled: dict[tuple[str, str], str] = {}
    for i, node in step.candidates("Sub"):
        _descend(step, i, node, scaled)
    for i, node in step.candidates("Sub"):
        _descend_with_bias(step, i, node, scaled)
    for i, node in step.candidates("Add"):
        _accumulate(step, i, node)
    for i, node in step.candidates("Add"):
        _move_moments(step, i, node)


def _descend(step: Rewrite, i: int, node: onnx.NodeProto, scaled: dict[tuple[str, str], str]) -> None:
    """P - rate * (a b) = p - a (rate b), or p - (rate a) b: the smaller one is scaled, once for all who read it."""
    found = _rate_and_product(step, node, "Gemm")
    if found is None:
        return
    rate, product = found
    p, operands = node.input[0], list(product.input[:2])
    sizes = [step.size(name) for name in operands]
    order = [0, 1] if 2 * sizes[0] < sizes[1] else [1, 0]
    chosen = next((k for k in order if (operands[k], rate) in scaled or sizes[k] <= step.size(p)), None)
    if chosen is None:
        return
    key = operands[chosen], rate
    if key not in scaled:
        multiply = step.node(product, "Mul", key)
        step.add(multiply)
        scaled[key] = multiply.output[0]
    operands[chosen] = scaled[key]
    step.replace(i, [_gemm(step, node, product, [*operands, p], -1.0, 1.0)])


def _descend_with_bias(step: Rewrite, i: int, node: onnx.NodeProto, scaled: dict[tuple[str, str], str]) -> None:
    """The same of a bias, whose gradient is a product with ones, where the other operand is scaled already."""
    found = _rate_and_product(step, node, "MatMul")
    if found is not None and (found[1].input[1], found[0]) in scaled:
        rate, product = found
        operands = [product.input[0], scaled[product.input[1], rate], node.input[0]]
        step.replace(i, [_gemm(step, node, product, operands, -1.0, 1.0)])


def _rate_and_product(step: Rewrite, node: onnx.NodeProto, op_type: str) -> tuple[str, onnx.NodeProto] | None:
    """Return rate and product of a node p - rate * product."""
    way = step.made_by(node.input[1], "Mul", reads=1)
    for rate, g in [] if way is None else [way.input, way.input[::-1]]:
        product = _product(step, g, node.input[0], op_type)
        if product is not None and step.size(rate) == 1:
            return rate, product
    return None


def _accumulate(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """Number * m + a b."""
    for decayed, g in (node.input, node.input[::-1]):
        kept = step.made_by(decayed, "Mul", reads=1)
        product = _product(step, g, decayed, "Gemm")
        for m, number in [] if kept is None or product is None else [kept.input, kept.input[::-1]]:
            beta = step.number(number)
            if product is not None and beta is not None and step.shapes.get(m) == step.shapes[g]:
                step.replace(i, [_gemm(step, node, product, [*product.input[:2], m], 1.0, beta)])
                return


def _move_moments(step: Rewrite, i: int, node: onnx.NodeProto) -> None:
    """M + (g - m) c and v + (g g - v) d, of a product g that nobody else reads."""
    second = _toward(step, node)
    square = None if second is None else step.made_by(second[1], "Mul", reads=1)
    if second is None or square is None or square.input[0] != square.input[1]:
        return
    (v, _, d), g = second, square.input[0]
    product, place = _product(step, g, v, "Gemm", reads=3), step.place(g)
    if product is None or place is None or not 0 < d < 1:
        return
    far = [k for near in step.readers(g) for k in _after(step, _after(step, [near]))]
    for j in (j for j in far if not step.is_replaced(j)):
        first = _toward(step, step.nodes[j])
        if first is not None and first[1] == g:
            m, _, c = first
            h = step.fresh(f"{g}.scaled")
            step.shapes.tell(h, step.shapes[g])
            step.replace(place, [_gemm(step, product, product, product.input[:2], math.sqrt(d), 0.0, h)])
            step.replace(i, _sum(step, node, v, 1 - d, h, h))
            step.replace(j, _sum(step, step.nodes[j], m, 1 - c, h, step.constant(c / math.sqrt(d))))
            return


def _after(step: Rewrite, places: list[int]) -> list[int]:
    return [k for i in places for k in step.readers(step.nodes[i].output[0])]


def _toward(step: Rewrite, node: onnx.NodeProto) -> tuple[str, str, float] | None:
    """Return old, target and share of a node old + (target - old) * share."""
    if (node.domain, node.op_type) != ("", "Add"):
        return None
    old, moved = node.input
    part = step.made_by(moved, "Mul", reads=1)
    way = None if part is None else step.made_by(part.input[0], "Sub", reads=1)
    share = None if part is None else step.number(part.input[1])
    return None if way is None or share is None or way.input[1] != old else (old, way.input[0], share)


def _product(step: Rewrite, g: str, like: str, op_type: str, reads: int = 1) -> onnx.NodeProto | None:
    """Return the product of two matrices that makes a value, which is as large as another and read so often."""
    node = step.made_by(g, op_type, reads=reads)
    if node is None or (len(node.input) > 2 and node.input[2]) or g not in step.shapes:
        return None
    are_matrices = all(len(step.shapes.get(name, ())) == 2 for name in node.input[:2])
    return node if are_matrices and step.shapes.get(like) == step.shapes[g] else None


def _gemm(
    step: Rewrite, old: onnx.NodeProto, product: onnx.NodeProto, operands: list[str], factor: float, beta: float,
    output: str = "",
) -> onnx.NodeProto:  # fmt: skip
    """Return factor times a product of these operands, plus beta times the third, in the place of an old node."""
    kept = {name: attribute(product, name, 0) for name in ("transA", "transB")}
    alpha = factor * attribute(product, "alpha", 1.0)
    node: onnx.NodeProto = step.node(old, "Gemm", operands, output or old.output[0], alpha=alpha, beta=beta, **kept)
    return node


def _sum(step: Rewrite, old: onnx.NodeProto, a: str, share: float, b: str, by: str) -> list[onnx.NodeProto]:
    """Return share a + b by, in the place of an old node."""
    terms = [step.node(old, "Mul", [a, step.constant(share)]), step.node(old, "Mul", [b, by])]
    sizes = step.shapes.get(a)
    if sizes is not None:
        for term in terms:
            step.shapes.tell(term.output[0], sizes)
    return [*terms, step.node(old, "Add", [term.output[0] for term in terms], old.output[0])]
