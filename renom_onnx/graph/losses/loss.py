"""What losses share, and the loss without a target."""

from __future__ import annotations

from typing import Any

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph.autocast import autocast
from renom_onnx.graph.clipping import current_limits
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.node import Node
from renom_onnx.graph.operators import apply
from renom_onnx.graph.site import created_at, user_site


class Loss(Layer):
    """Base of losses; the first operand is the prediction, which becomes the inference output of an export.

    Args:
        reduction: "mean" divides the sum by the rows of the batch, "sum" does not, None leaves every element's loss, of
            which `backward` takes the sum.
    """

    def __init__(self, reduction: str | None = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", None):
            raise ConversionError(
                f"{type(self).__name__}: reduction must be 'mean', 'sum' or None, got {reduction!r}. "
                f"{created_at(user_site())}"
            )
        self.reduction = reduction

    def __call__(self, *inputs: Any) -> GraphElement:
        """Connect prediction and target; the result is the loss, one number unless the reduction is None."""
        with autocast(None):  # losses need the range of their parameters' type
            output = super().__call__(*inputs)
        prediction = inputs[0]
        node = output.output.node
        compared = prediction.output if isinstance(prediction, GraphElement) else _first_leaf(node).output
        node.loss = (compared,)
        node.reduction = self.reduction or "sum"
        node.gradient_limits = current_limits()
        return output


def _first_leaf(node: Node) -> Node:
    while node.inputs:
        assert node.inputs[0] is not None
        node = node.inputs[0].node
    return node


def check_same_shape(loss: str, x: GraphElement, t: GraphElement) -> None:
    """Raise ShapeError if prediction and target cannot have the same shape."""
    if x.shape is not None and t.shape is not None and not could_be_equal(x.shape, t.shape):
        raise ShapeError(
            f"{loss}: x and t must have the same shape, got x is {x.output}, t is {t.output}. {created_at(user_site())}"
        )


def could_be_equal(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> bool:
    """Whether two shapes are the same, as far as their sizes are known."""
    return len(a) == len(b) and all(
        isinstance(i, str) or isinstance(j, str) or i == j for i, j in zip(a, b, strict=True)
    )


def reduced(loss: Loss, x: GraphElement) -> GraphElement:
    """Return the sum of x, the sum divided by the rows, or x itself, as the loss's reduction says."""
    if loss.reduction is None:
        return x
    is_narrow = x.dtype.kind in "biu" or x.dtype.name in {"float16", "bfloat16"}
    total = apply("ReduceSum", x, casts=[cast_to_precision(x) if is_narrow else None], keepdims=0)
    if loss.reduction == "sum":
        return total
    rows = apply("Squeeze", apply("Shape", x, start=0, end=1))
    return apply("Div", total, rows, casts=[None, total.dtype])


class ConstantLoss(Loss):
    """The sum of the elements, or their sum divided by the rows: a loss without a target.

    Args:
        reduction: "sum" (the default), "mean" or None.

    Called with x (N, ...), returns one number, or with None x as it is.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.ConstantLoss()(rm.graph.StaticVariable(np.array([1.5, 2.0]))))
        3.5
    """

    def __init__(self, reduction: str | None = "sum") -> None:
        super().__init__(reduction)

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the sum."""
        return reduced(self, x)
