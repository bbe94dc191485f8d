"""Data that stay on the device: a step that is fed the numbers of its rows and gathers them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.training_info import TrainingStep
from renom_onnx.errors import ConversionError
from renom_onnx.graph.node import Shape, type_text

ROWS = "rows"
"""What such a step is fed instead of the data."""

Type = tuple[np.dtype[Any], Shape]


def data_name(feed: str) -> str:
    """Return the name of the input that holds all rows of a feed."""
    return f"{feed}.data"


def gathering(step: TrainingStep, held: Mapping[str, Type]) -> TrainingStep:
    """Return a step that takes some of its feeds from data on the device.

    Args:
        step: what a session runs.
        held: element type and shape, all rows first, of the data by feed; they are converted to the feed's type.

    Raises:
        ConversionError: there is no such feed, or its rows have another shape.
    """
    given = {info.name: info for info in step.model.graph.input}
    taken = {name for node in step.model.graph.node for name in [*node.input, *node.output]} | set(given)
    if ROWS in taken or any(data_name(name) in taken for name in held):
        raise ConversionError(f"resident: no value of the step may be called {ROWS!r} or like the data, got one.")
    model = onnx.ModelProto()
    model.CopyFrom(step.model)
    nodes, infos, symbols = [], [], []
    for name, (dtype, shape) in held.items():
        wanted, sizes = value_type(given[name].type) if name in step.feeds else (None, None)
        if sizes is None or not sizes or not isinstance(sizes[0], str) or tuple(sizes[1:]) != tuple(shape[1:]):
            rule = f"rows of {type_text(wanted, sizes)}" if wanted is not None and sizes else "a feed of the step"
            raise ConversionError(f"resident: {name!r} must be {rule}, got {type_text(dtype, shape)}.")
        symbols.append(sizes[0])
        data = data_name(name)
        infos.append(helper.make_tensor_value_info(data, helper.np_dtype_to_tensor_dtype(dtype), shape))
        gathered = name if dtype == wanted else f"{data}.rows"
        nodes.append(helper.make_node("Gather", [data, ROWS], [gathered], name=f"{data}.gather", axis=0))
        if dtype != wanted:
            to = helper.np_dtype_to_tensor_dtype(wanted)
            nodes.append(helper.make_node("Cast", [gathered], [name], name=f"{data}.cast", to=to))
    kept = [info for info in step.model.graph.input if info.name not in held]
    rows = helper.make_tensor_value_info(ROWS, onnx.TensorProto.INT64, [symbols[0]])
    del model.graph.input[:]
    model.graph.input.extend([rows, *infos, *kept])
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])
    return replace(step, model=model, feeds=(ROWS, *(name for name in step.feeds if name not in held)))
