"""Integer arithmetic whose result is promoted later has a gradient in the type that it was promoted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder, make_node
from renom_onnx.graph.node import Input, Value

op = Builder(18)


def gradient_of_promoted(function: Callable[[Value], Value]) -> Value | None:
    """Return the gradient of x in float(function(x)) * w, for int64 x."""
    x = Input(np.dtype(np.int64), ("N", 3), name="x").output
    w = Input(np.dtype(np.float32), (), name="w").output
    node = make_node("Mul", [function(x), w], {}, opset=18, casts=[np.dtype(np.float32), None])
    dy = Input(np.dtype(np.float32), node.output.shape, name="dy").output
    return reverse_walk([(node.output, dy)], opset=18, wanted=[x, w]).gradient(x)


FUNCTIONS: dict[str, Callable[[Value], Any]] = {
    "ReduceSum": lambda x: op.ReduceSum(x, [0], keepdims=0),
    "ReduceMax": lambda x: op.ReduceMax(x, [0]),
    "Gather": lambda x: op.Gather(x, [0, 1]),
    "Slice": lambda x: op.Slice(x, [0], [1], [0], [1]),
    "Tile": lambda x: op.Tile(x, [2, 1]),
    "Transpose": op.Transpose,
    "Mul": lambda x: op.Mul(x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_axes_and_indices_of_integer_operators_stay_integers(name: str):
    gradient = gradient_of_promoted(FUNCTIONS[name])
    assert gradient is not None
    assert (gradient.dtype, gradient.shape) == (np.float32, ("N", 3))


def test_a_conversion_to_integers_has_no_gradient():
    assert gradient_of_promoted(lambda x: op.Cast(x, to=np.int32)) is None
