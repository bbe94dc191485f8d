"""Random arrays: new numbers at each evaluation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.graph import parameter, seed
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import output_types
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.layer import Layer
from renom_onnx.graph.node import Input, State, Value
from renom_onnx.graph.operators import apply_node
from renom_onnx.graph.random import hashed
from renom_onnx.graph.training_form import TrainingForward


class _Noise(Layer):
    """An element without inputs: the operator in inference, counter-based numbers in training, which can be resumed."""

    op_type: str
    names: tuple[str, str]

    def __init__(self, shape: Sequence[int], first: float, second: float) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.moments = (float(first), float(second))
        self._key = seed.layer_key()
        self._step = State(np.array(0, np.int64), "step", self)

    def forward(self) -> GraphElement:
        """Return the numbers."""
        attributes: dict[str, Any] = dict(zip(self.names, self.moments, strict=True))
        dtype = np.dtype(parameter.precision)
        node = apply_node(
            self.op_type, shape=list(self.shape), dtype=dtype, seed=float(self._key % 2**24), **attributes
        )
        node.training_form = self._train
        return GraphElement(node.output)

    def _train(self, op: Builder, inputs: Sequence[Value | None], forward: TrainingForward) -> Sequence[Value]:
        node = op.origin
        function = _noise(self.op_type, self.shape, *self.moments, node.output.dtype, op.opset)
        operands = [op.constant(self._key, np.uint32), self._step.output]
        made = call(function, operands, {}, output_types(function), site=node.site, layers=node.layers, origin=node)
        if self._step not in forward.next_values:
            forward.next_values[self._step] = op.Add(self._step.output, 1)
        return [made.output]


@functools.lru_cache(maxsize=256)
def _noise(
    kind: str, shape: tuple[int, ...], first: float, second: float, dtype: np.dtype[Any], opset: int
) -> Function:
    """Return the function (key, step) -> numbers; normal ones by Box & Muller 1958, doi:10.1214/aoms/1177706645."""
    op = Builder(opset)
    key = Input(np.dtype(np.uint32), (), name="KEY").output
    step = Input(np.dtype(np.int64), (), name="STEP").output
    like = Input(dtype, (shape or (1,)), name="LIKE").output  # of which only the shape is read

    def uniform(turn: int) -> Value:
        """Return numbers inside (0, 1): 24 bits and a half."""
        bits = op.Div(hashed(op, like, op.Add(key, op.constant(turn, np.uint32)), step), op.constant(256, np.uint32))
        y: Value = op.Mul(op.Add(op.Cast(bits, to=dtype), 0.5), 2.0**-24)
        return y

    if kind == "RandomUniform":
        made = op.Add(op.Mul(uniform(0), second - first), first)
    else:
        radius = op.Sqrt(op.Mul(op.Log(uniform(0)), -2.0))
        made = op.Add(op.Mul(op.Mul(radius, op.Cos(op.Mul(uniform(0x9E3779B9), 2 * np.pi))), second), first)
    made = op.Reshape(made, op.constant(shape, np.int64))
    return Function(f"{kind}Train", DOMAIN, opset, (key, step), (made,), ("Y",), (), "A hash of key, step and place.")


class _RandomNormal(_Noise):
    op_type = "RandomNormal"
    names = ("mean", "scale")


class _RandomUniform(_Noise):
    op_type = "RandomUniform"
    names = ("low", "high")


def rand_normal(shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> GraphElement:
    """Return normal numbers, new ones at each evaluation.

    In training they are a pure function of (seed, step, place), so that a training can be resumed.

    Args:
        shape: sizes, all known.
        mean, std: of the numbers.

    Source: https://onnx.ai/onnx/operators/onnx__RandomNormal.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.rand_normal((2, 3)).as_ndarray().shape
        (2, 3)
    """
    return _RandomNormal(shape, mean, std)()


def rand_uniform(shape: Sequence[int], min: float = 0.0, max: float = 1.0) -> GraphElement:
    """Return uniform numbers, new ones at each evaluation; in training as `rand_normal`.

    Args:
        shape: sizes, all known.
        min, max: bounds.

    Source: https://onnx.ai/onnx/operators/onnx__RandomUniform.html.
    """
    return _RandomUniform(shape, min, max)()
