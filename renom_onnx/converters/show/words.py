"""Attributes, tensors and operands of nodes as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.structure import domain_of
from renom_onnx.errors import RenomError
from renom_onnx.graph import schema

MOST_NUMBERS = 8
LONGEST_TEXT = 200


def attribute_texts(node: onnx.NodeProto) -> dict[str, str]:
    """Return the attributes of a node as text.

    Example:
        >>> attribute_texts(onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], group=1))
        {'group': '1', 'strides': '[2, 2]'}
    """
    return {attribute.name: _attribute_text(attribute) for attribute in node.attribute}


def _attribute_text(attribute: onnx.AttributeProto) -> str:
    kind = attribute.type
    if attribute.ref_attr_name:
        return f"@{attribute.ref_attr_name}"
    if kind == onnx.AttributeProto.TENSOR:
        return tensor_text(attribute.t)
    if kind in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        n_graphs = len(attribute.graphs) or 1
        return f"{n_graphs} graph{'s' if n_graphs > 1 else ''}"
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:
        return "?"
    return shortened(_value_text(value))


def _value_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value_text(item) for item in value)}]"
    return str(value)


def tensor_text(tensor: onnx.TensorProto) -> str:
    """Return type and sizes of a tensor, and its numbers if they are few.

    Example:
        >>> tensor_text(onnx.helper.make_tensor("t", onnx.TensorProto.INT64, [2], [3, -1]))
        'int64[2] = [3, -1]'
    """
    try:
        text = f"{schema.dtype_of(tensor.data_type).name}[{', '.join(map(str, tensor.dims))}]"
    except RenomError:
        return f"?[{', '.join(map(str, tensor.dims))}]"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or not 0 < math.prod(tensor.dims) <= MOST_NUMBERS:
        return text
    try:
        array = array_of(tensor)
    except RenomError:
        return text
    return shortened(f"{text} = {numbers_text(array)}")


def numbers_text(array: np.ndarray[Any, Any]) -> str:
    """Return a few numbers."""
    items = [_value_text(item) for item in array.reshape(-1).tolist()]
    return items[0] if array.ndim == 0 else f"[{', '.join(items)}]"


def shortened(text: str) -> str:
    """Return a text that is not too long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


Operands = list[tuple[str, str]]


def formal_names(node: onnx.NodeProto, opset: int, function: onnx.FunctionProto | None) -> tuple[Operands, Operands]:
    """Return what the operator calls each input and output of a node, with the value; absent ones are left out."""
    if function is not None:
        inputs, outputs = list(function.input), list(function.output)
    elif schema.has_operator(node.op_type, opset, domain_of(node)):
        operator = schema.operator(node.op_type, opset, domain_of(node))
        inputs = [operator.input(i).name for i in range(len(node.input))] if operator.inputs else []
        outputs = [operator.output(i).name for i in range(len(node.output))] if operator.outputs else []
    else:
        inputs, outputs = [], []
    return _paired(inputs, node.input), _paired(outputs, node.output)


def _paired(formals: Sequence[str], names: Sequence[str]) -> Operands:
    padded = [*formals, *[""] * len(names)]
    return [(formal, name) for formal, name in zip(padded, names, strict=False) if name]
