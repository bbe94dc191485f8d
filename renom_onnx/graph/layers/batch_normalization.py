"""Batch normalization."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Unpack

from renom_onnx.errors import ShapeError
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.composition import written_out
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import axes_of, known_sizes
from renom_onnx.graph.node import Mutable, Node, Value
from renom_onnx.graph.operators import apply, apply_node, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.training_form import TrainingForm, TrainingForward
from renom_onnx.utility.initializer import Constant, Initializer


def batch_body(
    op: Builder, x: Value, scale: Value, bias: Value, mean: Value, var: Value, *, epsilon: float, momentum: float,
    unbiased: int,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Y = (X - mean) scale / sqrt(variance + epsilon) + bias; next statistics = momentum old + (1 - momentum) batch."""
    assert x.shape is not None
    axes = [0, *range(2, len(x.shape))]
    per_channel = [-1, *[1] * (len(x.shape) - 2)]
    batch_mean = op.ReduceMean(x, axes, keepdims=1)
    centred = op.Sub(x, batch_mean)
    batch_var = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    factor = op.Div(op.Reshape(scale, per_channel), op.Sqrt(op.Add(batch_var, epsilon)))
    y = op.Add(op.Mul(centred, factor), op.Reshape(bias, per_channel))
    if unbiased:
        count = op.Cast(op.ReduceProd(op.size_of(x, axes), keepdims=0), to=x.dtype)
        batch_var = op.Mul(batch_var, op.Div(count, op.Max(op.Sub(count, 1.0), op.constant(1, x.dtype))))

    def blend(old: Value, new: Value) -> Value:
        new = op.Reshape(new, [-1])
        return op.shaped(op.Add(op.Mul(old, momentum), op.Mul(new, 1 - momentum)), old)

    return op.shaped(y, x), blend(mean, batch_mean), blend(var, batch_var)


def batch_training(
    node: Node, mean: Value, var: Value, *, epsilon: float, momentum: float, unbiased: bool
) -> TrainingForm:
    """Return what BatchNormalization is in training: the batch's statistics, which move the running ones.

    Args:
        node: the element in inference.
        mean, var: the running statistics, leaves.
        epsilon, momentum: attributes of the node.
        bias: False freezes b at 0.
        unbiased: the running variance is that of a sample.
    """
    attributes: dict[str, Any] = dict(epsilon=epsilon, momentum=momentum, unbiased=int(unbiased))
    build = written_out("BatchNormalizationTrain", batch_body, node, **attributes)

    def train(op: Builder, inputs: Sequence[Value | None], forward: TrainingForward) -> Sequence[Value]:
        statistics = [leaf.node for leaf in (mean, var)]
        old = [forward.next_values.get(leaf, leaf.output) for leaf in statistics if isinstance(leaf, Mutable)]
        outputs = build(op, [*inputs[:3], *old]).outputs
        for leaf, value in zip(statistics, outputs[1:], strict=True):
            assert isinstance(leaf, Mutable)
            forward.next_values[leaf] = value
        return outputs

    return train


class BatchNormalize(Layer):
    """y = w (x - mean) / sqrt(var + epsilon) + b, over the batch in training, by running statistics in inference.

    In training the statistics are those of the batch, and the running ones move: running = momentum running +
    (1 - momentum) batch, as in ONNX (PyTorch's momentum is 1 minus this one; ReNom's weighted the batch by 0.99).

    Args:
        momentum: default 0.9.
        epsilon: default 1e-5.
        axis: 1 (the default) for one mean for each channel, None for one for each element of a sample.
        initializer: of w; default 1 (ReNom drew it at random). b starts at 0.
        unbiased: the running variance is that of a sample, n / (n - 1) times the batch's, as in PyTorch.
        mode: ReNom's words for the axis: "feature" is 1, "activation" is None.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: w, b and the statistics mean, var (C,), or the size of a sample with axis None. Mean and var are no
    parameters of the optimizer; freezing the layer does not stop them.

    Called with x (N, C, *S), returns the same shape.

    Raises:
        ShapeError: x has fewer than two axes, a size is not known, or axis or mode is another.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167; https://onnx.ai/onnx/operators/onnx__BatchNormalization.html. The
    training form is written out, because onnxruntime's CUDA provider refuses the operator's.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> norm = rm.graph.BatchNormalize(epsilon=0)
        >>> print(norm(np.array([[1.0, 2.0], [3.0, 6.0]])))
        [[1. 2.]
         [3. 6.]]
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        axis: int | str | None = 1,
        initializer: Initializer | None = None,
        *,
        bias: bool = True,
        unbiased: bool = False,
        mode: str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        wanted = mode if mode is not None else axis
        if wanted not in (1, None, "feature", "activation"):
            raise ShapeError(
                f"BatchNormalize: axis must be 1 or None, or mode 'feature' or 'activation', got {wanted!r}. "
                f"{created_at(user_site())}"
            )
        self.axis = 1 if wanted in (1, "feature") else None
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.bias = bias
        self.unbiased = unbiased
        self.initializer = initializer

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x normalized by the running statistics, as inference sees it."""
        rank = len(axes_of(x, "BatchNormalize", 2, "(N, C, *S)"))
        if self.axis is None and rank > 2:
            sizes = known_sizes(x, range(1, rank), "BatchNormalize")
            y = self._normalized(apply("Flatten", x, axis=1), prod(sizes))
            return apply("Reshape", y, integers([0, *sizes]))
        return self._normalized(x, known_sizes(x, [1], "BatchNormalize")[0])

    def _normalized(self, x: GraphElement, size: int) -> GraphElement:
        w = self.parameter("w", (size,), self.initializer or Constant(1))
        b = self.parameter("b", (size,), Constant(0), trainable=self.bias)
        mean = self.parameter("mean", (size,), Constant(0), trainable=False)
        var = self.parameter("var", (size,), Constant(1), trainable=False)
        casts = [cast_to_precision(x), None, None, None, None]
        attributes: dict[str, Any] = dict(epsilon=self.epsilon, momentum=self.momentum)
        node = apply_node("BatchNormalization", x, w, b, mean, var, casts=casts, **attributes)
        node.training_form = batch_training(node, mean.output, var.output, **attributes, unbiased=self.unbiased)
        return GraphElement(node.output)
