"""Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph import seed
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.function import call
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of
from renom_onnx.graph.node import Constant, State, Value
from renom_onnx.graph.operators import apply_node
from renom_onnx.graph.random import FIRST_SAMPLE, dropout_mask
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.training_form import TrainingForward


class Dropout(Layer):
    """In training, each element is 0 with probability `dropout_rate`, else x / (1 - dropout_rate); in inference x.

    Which elements are dropped is a pure function of (seed, layer, step, index of the sample), computed in the graph;
    the step is a state of the file, so a training resumed from a checkpoint drops what it would have dropped.

    Args:
        dropout_rate: in [0, 1).
        axis: the axes along which elements are dropped one by one; along the others, what is dropped is dropped whole.
            ``axis=(0, 1)`` drops channels of images, as `SpatialDropout` does, ``axis=(0, 2)`` the same features at
            every position of a sequence. Default: all.

    Called with x (N, ...), returns the same shape.

    Raises:
        ShapeError: the rate is out of range, or x has no such axis.

    Source: Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html;
    https://onnx.ai/onnx/operators/onnx__Dropout.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Dropout(0.5)(np.ones((1, 2), np.float32)))
        [[1. 1.]]
    """

    def __init__(self, dropout_rate: float = 0.5, axis: int | Sequence[int] | None = None) -> None:
        super().__init__()
        if not 0 <= dropout_rate < 1:
            raise ShapeError(
                f"{type(self).__name__}: the rate must be in [0, 1), got {dropout_rate}. {created_at(user_site())}"
            )
        self.dropout_rate = dropout_rate
        self.axis = axis
        self._key = seed.layer_key()
        self._step = State(np.array(0, np.int64), "step", self)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x, as inference sees it."""
        self._shared(x.output)
        cast = cast_to_precision(x)
        ratio = Constant(np.array(self.dropout_rate, np.float32)).output
        node = apply_node("Dropout", x, ratio, casts=[cast, None])
        node.training_form = self.train
        return GraphElement(node.output)

    def train(self, op: Builder, inputs: Sequence[Value | None], forward: TrainingForward) -> Sequence[Value]:
        """Return what stands for the outputs in training; a `TrainingForm`."""
        x = inputs[0]
        assert x is not None
        if (cast := op.origin.casts[0]) is not None:
            x = op.Cast(x, to=cast)
        n_uses = sum(1 for node in forward.values if getattr(node.node.training_form, "__self__", None) is self)
        key = op.constant((self._key + n_uses) % 2**32, np.uint32)
        shared = self._shared(x)
        like = op.Slice(x, [0] * len(shared), [1] * len(shared), shared) if shared else x
        first = FIRST_SAMPLE.output if 0 not in shared else op.constant(0, np.int64)  # one sample for all devices
        function = dropout_mask(x.dtype, like.shape, self.dropout_rate, op.opset)
        mask = call(
            function,
            [like, key, self._step.output, first],
            {},
            [(x.dtype, like.shape)],
            site=op.origin.site,
            layers=op.origin.layers,
            origin=op.origin,
        )
        if self._step not in forward.next_values:
            forward.next_values[self._step] = op.Add(self._step.output, 1)
        y = op.Mul(x, mask.output)
        return [y, op.Cast(mask.output, to=np.dtype(bool))] if len(op.origin.outputs) > 1 else [y]

    def _shared(self, x: Value) -> list[int]:
        """Return the axes along which all elements share their fate."""
        if self.axis is None:
            return []
        given = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        if x.shape is None or any(not -len(x.shape) <= axis < len(x.shape) for axis in given):
            raise ShapeError(f"Dropout: axis must name axes of x, got {self.axis}: x is {x}. {created_at(user_site())}")
        own = {axis % len(x.shape) for axis in given}
        return [axis for axis in range(len(x.shape)) if axis not in own]


class SpatialDropout(Dropout):
    """`Dropout` of whole channels: in training, each is 0 with probability `dropout_rate`, else x / (1 - dropout_rate).

    Args:
        dropout_rate: in [0, 1).

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: the rate is out of range, or x has fewer than three axes.

    Source: Tompson et al. 2015, arXiv:1411.4280; https://onnx.ai/onnx/operators/onnx__Dropout.html.
    """

    def __init__(self, dropout_rate: float = 0.5) -> None:
        super().__init__(dropout_rate, axis=(0, 1))

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x, as inference sees it."""
        axes_of(x, "SpatialDropout", 3, "(N, C, *S)")
        return super().forward(x)
