"""Models of the v2.0 API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from renom_onnx.eager.node import Node, compute
from renom_onnx.graph.layer import Layer
from renom_onnx.graph.layers.dense import Dense as GraphDense
from renom_onnx.utility.initializer import Initializer


class Model:
    """A layer that computes at once.

    Args:
        layer: the layer of `renom_onnx.graph` that it calls.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._is_training = False

    def __call__(self, *inputs: Any) -> Node:
        """Return the value for arrays or nodes."""
        return compute(self._layer, inputs, record=self._is_training)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name, as elements."""
        return self._layer.params

    @contextlib.contextmanager
    def train(self) -> Iterator[None]:
        """Record what this model computes, for `Node.grad`."""
        before, self._is_training = self._is_training, True
        try:
            yield
        finally:
            self._is_training = before


class Dense(Model):
    """y = x w + b, computed at once.

    Args:
        output_size: size of the output.
        input_size: size of the input; default: that of the first call.
        ignore_bias: leave b out.
        initializer: of w; default GlorotNormal.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> dense = rm.Dense(2, initializer=rm.utility.initializer.Constant(1))
        >>> with dense.train():
        ...     total = rm.sum(dense(np.ones((1, 3))))
        >>> print(total)
        6.0
    """

    def __init__(
        self,
        output_size: int,
        input_size: int | None = None,
        ignore_bias: bool = False,
        initializer: Initializer | None = None,
    ) -> None:
        layer = GraphDense(output_size, initializer, bias=not ignore_bias)
        super().__init__(layer)
        if input_size is not None:
            layer.parameter("w", (input_size, output_size), initializer)
