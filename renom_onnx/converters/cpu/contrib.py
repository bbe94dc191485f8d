"""onnxruntime's own operators: their domain, how a step imports it, and how a session asks whether one is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.structure import opsets_of

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


def declare(model: onnx.ModelProto, domain: str) -> None:
    """Import a domain of onnxruntime's into a model that uses it."""
    if domain not in opsets_of(model) and any(node.domain == domain for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def probe_of(op_type: str, feeds: Mapping[str, np.ndarray[Any, Any]], **attributes: Any) -> bytes:
    """Return a model of one node that reads these feeds."""
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, a.shape) for name, a in feeds.items()]
    node = helper.make_node(op_type, list(feeds), ["result"], domain=CONTRIB, **attributes)
    graph = helper.make_graph([node], "probe", inputs, [onnx.ValueInfoProto(name="result")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
