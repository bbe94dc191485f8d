"""The base of layers that apply one operator to their input."""

from __future__ import annotations

from typing import Any, ClassVar

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.operators import apply


class Elementwise(Layer):
    """A layer that is one ONNX operator over one input.

    Attributes:
        op_type: the operator.
        attributes: its attributes.
    """

    op_type: ClassVar[str]

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.attributes = attributes

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the operator of x."""
        return apply(self.op_type, x, casts=[cast_to_precision(x)], **self.attributes)
