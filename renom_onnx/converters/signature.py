"""Inputs of a graph as plain types, for those who feed it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.importer import value_type
from renom_onnx.graph.node import Shape

ModelProto = onnx.ModelProto
"""For annotations outside of this folder, where onnx is not imported."""


def input_types(graph: onnx.GraphProto) -> list[tuple[str, np.dtype[Any], Shape | None]]:
    """Return name, element type and shape of every input."""
    return [(info.name, *value_type(info.type)) for info in graph.input]


def output_types(graph: onnx.GraphProto) -> list[tuple[str, np.dtype[Any], Shape | None]]:
    """Return name, element type and shape of every output."""
    return [(info.name, *value_type(info.type)) for info in graph.output]
