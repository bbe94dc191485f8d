"""Cases in another float type, as far as ONNX allows it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from renom_onnx.graph.schema import DEFAULT_OPSET, Formal, operator
from tests.gradients.cases import Case, at_opset, is_valid, opset_import
from tests.gradients.reference import FLOATS, in_type
from tests.gradients.session import feeds_in

NAMES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}
_TEXTS = {element: f"tensor({name})" for element, name in zip(NAMES.values(), NAMES, strict=True)}
_TEXTS[TensorProto.FLOAT], _TEXTS[TensorProto.DOUBLE] = "tensor(float)", "tensor(double)"


def at_default_opset(case: Case) -> Case:
    """Return the case at the opset of exports, if the operator is there and has these operands."""
    if opset_import(case.model).version == DEFAULT_OPSET:
        return case
    model = at_opset(case.model, DEFAULT_OPSET)
    return Case(case.name, model, case.feeds) if is_valid(model) else case


def in_float_type(case: Case, element: int) -> Case | None:
    """Return the case in another float type; None where ONNX does not allow it for any operand of its operator."""
    node = case.nodes[0]
    opset = opset_import(case.model).version
    schema = operator(node.op_type, opset)
    allowed = {name: schema.input(i) for i, name in enumerate(node.input) if name}
    model = onnx.ModelProto()
    is_changed = _has_body(node) or bool(case.about)
    model.CopyFrom(in_type(case.model, element) if is_changed else case.model)
    for info in model.graph.input:
        tensor = info.type.tensor_type
        if tensor.elem_type in FLOATS and _allows(allowed.get(info.name), element):
            tensor.elem_type, is_changed = element, True
    if not is_changed:
        return None
    for constant in model.graph.node:
        if constant.op_type == "Constant" and _allows(allowed.get(constant.output[0]), element):
            value = helper.get_attribute_value(constant.attribute[0])
            if isinstance(value, TensorProto) and value.data_type in FLOATS:
                array = numpy_helper.to_array(value).astype(FLOATS[element])
                constant.attribute[0].CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))
    _state_results(model)
    return Case(case.name, model, feeds_in(element, case.feeds)) if is_valid(model) else None


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)


def _allows(formal: Formal | None, element: int) -> bool:
    return formal is not None and _TEXTS[element] in formal.types


def _state_results(model: onnx.ModelProto) -> None:
    """Give the outputs the types that follow."""
    for info in model.graph.output:
        info.ClearField("type")
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.ClearField("output")
    model.graph.output.extend(inferred.graph.output)
