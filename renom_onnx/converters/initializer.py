"""Which initializers of a file training may change: decided from their element type and from who reads them.

A float array is a weight unless the operand that it is cannot be one (the scales of Resize, the bounds of Clip), or
nobody learns it: one number that meets many features, such as the epsilon of a normalization that is written out. The
running statistics of BatchNormalization are no weights either; training may move them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import onnx

from renom_onnx.graph import schema
from renom_onnx.graph.node import is_float

SETTINGS: Mapping[str, frozenset[int]] = {
    name: frozenset(positions)
    for name, positions in {
        "Resize": (1, 2),
        "Upsample": (1,),
        "Clip": (1, 2),
        "Pow": (1,),
        "Pad": (2,),
        "Dropout": (1,),
        "OneHot": (1, 2),
        "Range": (0, 1, 2),
        "Mod": (1,),
        "NonMaxSuppression": (0, 1, 2, 3, 4),
        "RoiAlign": (1,),
        "QuantizeLinear": (1, 2),
        "DequantizeLinear": (1, 2),
        "QLinearConv": (1, 2, 4, 5, 6, 7),
        "QLinearMatMul": (1, 2, 4, 5, 6, 7),
        "MelWeightMatrix": (0, 1, 2, 3, 4),
        "STFT": (1, 2, 3),
        "DFT": (1, 2),
        "Equal": (0, 1),
        "Greater": (0, 1),
        "GreaterOrEqual": (0, 1),
        "Less": (0, 1),
        "LessOrEqual": (0, 1),
        "Max": tuple(range(64)),
        "Min": tuple(range(64)),
        "If": (0,),
        "Loop": (0, 1),
    }.items()
}
"""Operands that are settings of an operator, no data: by operator, their positions."""
STATISTICS = {"BatchNormalization": (3, 4)}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}


class Kind(Enum):
    """What becomes of an initializer: a parameter, a running statistic, or an array that stays."""

    WEIGHT = "weight"
    STATISTIC = "statistic"
    FIXED = "fixed"


def kind_of(tensor: onnx.TensorProto, readers: Iterable[tuple[onnx.NodeProto, int]]) -> Kind:
    """Return what becomes of an initializer.

    Args:
        tensor: the initializer.
        readers: the nodes that read it, each with the operand's position.
    """
    if not tensor.dims or 0 in tensor.dims or not is_float(schema.dtype_of(tensor.data_type)):
        return Kind.FIXED
    readers = list(readers)
    if readers and all(position in STATISTICS.get(node.op_type, ()) for node, position in readers):
        return Kind.STATISTIC
    may_learn = [not _is_setting(node, position, tensor) for node, position in readers]
    return Kind.WEIGHT if any(may_learn) else Kind.FIXED


def _is_setting(node: onnx.NodeProto, position: int, tensor: onnx.TensorProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if position in SETTINGS.get(node.op_type, ()):
        return True
    return node.op_type in ELEMENTWISE and all(size == 1 for size in tensor.dims)


def readers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    """Return the readers of every name, those in the bodies of control flow too."""
    found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        for position, name in enumerate(node.input):
            found.setdefault(name, []).append((node, position))
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                stack += graph.node
    return found
