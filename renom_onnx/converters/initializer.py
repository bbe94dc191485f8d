"""Which initializers of a file training may change: decided from their element type and from who reads them.

A float array is a weight unless the operand that it is cannot be one (the scales of Resize, the bounds of Clip), or
nobody learns it: one number that meets many features, such as the epsilon of a normalization that is written out, and
is not the bias of a product with one unit; or a mask, which has numbers that stand for minus infinity. The running
statistics of BatchNormalization are no weights either; training may move them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import numpy as np
import onnx

from renom_onnx.converters.encoding import array_of
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
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sum", "Where"}
LEAST_OF_WEIGHTS = -1e4
"""Numbers below it stand for minus infinity: no weight has them, and masks do."""
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}


class Kind(Enum):
    """What becomes of an initializer: a parameter, a running statistic, or an array that stays."""

    WEIGHT = "weight"
    STATISTIC = "statistic"
    FIXED = "fixed"


class Reader(NamedTuple):
    """One use of a value: the node, the operand's position, and whether it is added to a product with weights."""

    node: onnx.NodeProto
    position: int
    is_bias: bool


def kind_of(tensor: onnx.TensorProto, readers: Iterable[Reader]) -> Kind:
    """Return what becomes of an initializer.

    Args:
        tensor: the initializer.
        readers: its uses, as `readers_of` finds them.
    """
    if not tensor.dims or 0 in tensor.dims or not is_float(schema.dtype_of(tensor.data_type)):
        return Kind.FIXED
    readers = list(readers)
    if readers and all(reader.position in STATISTICS.get(reader.node.op_type, ()) for reader in readers):
        return Kind.STATISTIC
    return Kind.WEIGHT if any(not _is_setting(reader, tensor) for reader in readers) else Kind.FIXED


def _is_setting(reader: Reader, tensor: onnx.TensorProto) -> bool:
    node = reader.node
    if node.domain not in ("", "ai.onnx"):
        return False
    if reader.position in SETTINGS.get(node.op_type, ()):
        return True
    if node.op_type not in ELEMENTWISE:
        return False
    return (all(size == 1 for size in tensor.dims) and not reader.is_bias) or _is_mask(tensor)


def _is_mask(tensor: onnx.TensorProto) -> bool:
    """Whether an array with several axes, which is not left without data, has numbers for minus infinity."""
    if len(tensor.dims) < 2 or not (tensor.raw_data or tensor.float_data or tensor.int32_data or tensor.double_data):
        return False
    return bool(np.any(array_of(tensor).astype(np.float64) <= LEAST_OF_WEIGHTS))


def readers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[Reader]]:
    """Return the readers of every name, those in the bodies of control flow too."""
    found: dict[str, list[Reader]] = {}
    products: set[str] = set()
    stack = list(nodes)[::-1]
    while stack:
        node = stack.pop()
        if node.op_type in PRODUCTS:
            products.update(node.output)
        is_bias = node.op_type == "Add" and any(name in products for name in node.input)
        for position, name in enumerate(node.input):
            found.setdefault(name, []).append(Reader(node, position, is_bias))
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                stack += graph.node[::-1]
    return found
