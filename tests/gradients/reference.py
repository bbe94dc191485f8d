"""The oracle of the gradient check: a model in float64, computed by `onnx.reference.ReferenceEvaluator`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.gradients.corrected import Array, corrected_reference, evaluator

Feeds = Mapping[str, Array]

FLOATS = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_TYPE_ATTRIBUTES = {"to", "dtype", "stash_type", "output_dtype", "output_datatype", "softmax_precision"}
_FLOAT32_BY_DEFAULT = {"GroupNormalization": "stash_type", "MelWeightMatrix": "output_datatype"}


class UncheckableError(Exception):
    """The model is outside what this check can say something about; the message says why."""


def is_float(array: Any) -> bool:
    """Whether it is an array of floats of 16 bits or more."""
    return isinstance(array, np.ndarray) and array.dtype in FLOATS.values()


def wide(feeds: Feeds) -> dict[str, Array]:
    """Return the feeds in float64."""
    return {name: x.astype(np.float64) if is_float(x) else x for name, x in feeds.items()}


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every float type of 16 bits or more replaced by double, in bodies of control flow too."""
    return in_type(model, TensorProto.DOUBLE)


def in_type(model: onnx.ModelProto, element: int) -> onnx.ModelProto:
    """Return the model with every float type of 16 bits or more replaced by another one."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _convert_graph(changed.graph, element)
    for function in changed.functions:
        for node in function.node:
            _convert_node(node, element)
    return changed


def _convert_graph(graph: onnx.GraphProto, element: int) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        _convert_type(info.type, element)
    for tensor in graph.initializer:
        tensor.CopyFrom(_converted(tensor, element))
    for node in graph.node:
        _convert_node(node, element)


def _convert_type(proto: onnx.TypeProto, element: int) -> None:
    kind = proto.WhichOneof("value")
    if kind == "tensor_type" and proto.tensor_type.elem_type in FLOATS:
        proto.tensor_type.elem_type = element
    elif kind in {"sequence_type", "optional_type"}:
        _convert_type(getattr(proto, kind).elem_type, element)


def _convert_node(node: onnx.NodeProto, element: int) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _convert_graph(attribute.g, element)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_converted(attribute.t, element))
        elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in FLOATS:
            attribute.i = element
        elif node.op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
            value = np.array(helper.get_attribute_value(attribute), FLOATS[element])
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, FLOATS[element]))))
    name = _FLOAT32_BY_DEFAULT.get(node.op_type)
    if element == TensorProto.DOUBLE and name is not None and all(a.name != name for a in node.attribute):
        node.attribute.append(helper.make_attribute(name, element))


def _converted(tensor: onnx.TensorProto, element: int) -> onnx.TensorProto:
    if tensor.data_type not in FLOATS:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(FLOATS[element]), tensor.name)


class Reference:
    """The model in float64."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(in_float64(model))
        self.names = [output.name for output in model.graph.output]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        with corrected_reference(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                outputs = self._evaluator.run(None, wide(feeds))
            except Exception as e:
                raise UncheckableError(f"the reference does not compute it in float64: {type(e).__name__}: {e}") from e
        return dict(zip(self.names, outputs, strict=True))
