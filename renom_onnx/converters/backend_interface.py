"""ONNX's own interface of a backend, for `renom_onnx.runtime.backend`, where onnx is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from renom_onnx.converters.importer import read_model
from renom_onnx.converters.load import load
from renom_onnx.converters.lowering import lower
from renom_onnx.converters.signature import ModelProto
from renom_onnx.errors import ConversionError, first_line
from renom_onnx.graph import schema

__all__ = ["Backend", "BackendRep", "input_names", "model_of_node", "namedtupledict", "through_elements"]


def through_elements(model: Any) -> ModelProto:
    """Return the model as this library writes it after reading it, without what onnxruntime does not know.

    Raises:
        ConversionError: onnx's checker refuses the model, or it cannot be read.
    """
    proto = read_model(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as e:
        raise ConversionError(f"backend: a model must pass onnx.checker, got: {first_line(e)}.") from e
    return lower(load(proto).to_proto())


def input_names(model: ModelProto) -> list[str]:
    """Return the names of the inputs that have no default."""
    graph = model.graph
    defaults = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [i.name for i in graph.input if i.name not in defaults]


def model_of_node(node: Any, inputs: Sequence[Any], opset: int | None) -> ModelProto:
    """Return a model of one node over arrays, whose outputs have the types that follow from theirs."""
    names = [name for name in node.input if name]
    infos = [
        helper.make_tensor_value_info(name, schema.element_type(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], node.op_type, infos, outputs)
    version = opset if opset is not None else schema.DEFAULT_OPSET
    imports = [helper.make_opsetid("", version)]
    if node.domain not in ("", "ai.onnx"):
        imports.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(graph, opset_imports=imports, ir_version=schema.DEFAULT_IR_VERSION)
    inferred: ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return inferred
