"""Nodes made again over other operands: the body of a function, or of control flow, written out where it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.builder import infer
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Node, Value, unknown_dim


def copied(
    nodes: Iterable[Node], made: Mapping[Value, Value | None], *, is_inferred: bool = False
) -> dict[Value, Value | None]:
    """Return what the values of the nodes become over other operands, in the sizes of these operands.

    Args:
        nodes: inputs before readers.
        made: what stands for formal inputs, and for values that need not be computed.
        is_inferred: ask ONNX for the sizes that the nodes leave open.
    """
    made = dict(made)
    sizes = _sizes(made)
    for node in nodes:
        if node.is_leaf:
            made.setdefault(node.output, node.output)
        elif any(value not in made for value in node.outputs):
            copy = node.copy([None if v is None else made[v] for v in node.inputs])
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.shape = None if old.shape is None else tuple(_size(sizes, d) for d in old.shape)
                made[old] = new
            if is_inferred:
                _infer_sizes(copy)
    return made


def _infer_sizes(node: Node) -> None:
    """Fill in the sizes that follow from those of the operands."""
    if node.function is not None or not any(_is_open(v) for v in node.outputs):
        return
    try:
        op = schema.operator(node.op_type, node.opset, node.domain)
        types = infer(op, node.opset, node.attributes, node.inputs, node.casts, len(node.outputs), node.site)
    except (RenomError, TypeError, ValueError):  # sizes are a help
        return
    for value, (_, shape) in zip(node.outputs, types, strict=True):
        if value.shape is None:
            value.shape = shape
        elif shape is not None and len(shape) == len(value.shape):
            value.shape = tuple(e if isinstance(e, int) else d for d, e in zip(value.shape, shape, strict=True))


def _sizes(made: Mapping[Value, Value | None]) -> dict[Dim, Dim]:
    """Return what the symbols of the formals stand for."""
    sizes: dict[Dim, Dim] = {}
    for formal, actual in made.items():
        if actual is None or formal.shape is None or actual.shape is None or len(formal.shape) != len(actual.shape):
            continue
        for d, e in zip(formal.shape, actual.shape, strict=True):
            if isinstance(d, str) and not isinstance(sizes.get(d), int):
                sizes[d] = e
    return sizes


def _size(sizes: dict[Dim, Dim], dim: Dim) -> Dim:
    """Return a size of the copy; one that only the run will know is another in every copy."""
    is_unknown = isinstance(dim, str) and dim.startswith(UNKNOWN_DIM)
    return sizes.setdefault(dim, unknown_dim()) if is_unknown else sizes.get(dim, dim)


def _is_open(value: Value) -> bool:
    return value.shape is None or any(isinstance(d, str) for d in value.shape)
