"""ReNom's factories of basic operations: the functions of `renom_onnx.graph`, as layers.

rm.graph.Add()(a, b)      # a + b
rm.graph.Sum(axis=0)(a)   # rm.graph.sum(a, axis=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from renom_onnx.graph import operators
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.indexing import get_item
from renom_onnx.graph.layer import Layer

Axes = int | Sequence[int] | None


class _Binary(Layer):
    function: Callable[[Any, Any], Any]

    def __call__(self, a: Any, b: Any) -> GraphElement:
        """Connect two operands: elements, arrays or numbers, which are no batch."""
        return super().__call__(operators.as_element(a), operators.as_element(b))

    def forward(self, a: GraphElement, b: GraphElement) -> GraphElement:
        """Return the operation of both."""
        return type(self).function(a, b)  # type: ignore[no-any-return]


class Add(_Binary):
    """a + b; shapes are broadcast as NumPy's. Source: https://onnx.ai/onnx/operators/onnx__Add.html.

    Example:
        >>> import renom_onnx as rm
        >>> print(rm.graph.Add()([1, 2], [[3], [4]]))
        [[4 5]
         [5 6]]
    """

    function = staticmethod(lambda a, b: a + b)


class Sub(_Binary):
    """a - b; shapes are broadcast as NumPy's. Source: https://onnx.ai/onnx/operators/onnx__Sub.html."""

    function = staticmethod(lambda a, b: a - b)


class Mul(_Binary):
    """a * b; shapes are broadcast as NumPy's. Source: https://onnx.ai/onnx/operators/onnx__Mul.html."""

    function = staticmethod(lambda a, b: a * b)


class Div(_Binary):
    """a / b; shapes are broadcast as NumPy's. Source: https://onnx.ai/onnx/operators/onnx__Div.html."""

    function = staticmethod(lambda a, b: a / b)


class Pow(_Binary):
    """a to the power of b; shapes are broadcast as NumPy's. Source: https://onnx.ai/onnx/operators/onnx__Pow.html."""

    function = staticmethod(lambda a, b: a**b)


class _Unary(Layer):
    function: Callable[[Any], GraphElement]

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the function of x."""
        return type(self).function(x)


class Exp(_Unary):
    """E to the power of x, element by element. Source: https://onnx.ai/onnx/operators/onnx__Exp.html."""

    function = staticmethod(operators.exp)


class Log(_Unary):
    """Natural logarithm, element by element. Source: https://onnx.ai/onnx/operators/onnx__Log.html."""

    function = staticmethod(operators.log)


class Sqrt(_Unary):
    """Square root, element by element. Source: https://onnx.ai/onnx/operators/onnx__Sqrt.html."""

    function = staticmethod(operators.sqrt)


class Square(_Unary):
    """Square, as x * x, element by element."""

    function = staticmethod(operators.square)


class _Reduction(Layer):
    function: Callable[..., GraphElement]

    def __init__(self, axis: Axes = None, keepdims: bool = False) -> None:
        super().__init__()
        self.axis = axis
        self.keepdims = keepdims

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the reduction of x."""
        return type(self).function(x, self.axis, self.keepdims)


class Sum(_Reduction):
    """Sum over axes, which x then lacks, or has of size 1 with keepdims.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html.
    """

    function = staticmethod(operators.sum)


class Mean(_Reduction):
    """Mean over axes, which x then lacks, or has of size 1 with keepdims.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceMean.html.
    """

    function = staticmethod(operators.mean)


class Max(_Reduction):
    """Largest over axes, which x then lacks, or has of size 1 with keepdims.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceMax.html.
    """

    function = staticmethod(operators.max)


class Min(_Reduction):
    """Smallest over axes, which x then lacks, or has of size 1 with keepdims.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceMin.html.
    """

    function = staticmethod(operators.min)


class Clip(Layer):
    """x, at least `floor` and at most `ceil`, element by element.

    Source: https://onnx.ai/onnx/operators/onnx__Clip.html.
    """

    def __init__(self, floor: float, ceil: float) -> None:
        super().__init__()
        self.floor = floor
        self.ceil = ceil

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x between the bounds."""
        return operators.clip(x, self.floor, self.ceil)


class Reshape(Layer):
    """The elements in a new shape: -1 is what is left over and 0 keeps a size, also that of the batch.

    ReNom's shape left the batch axis out: its ``Reshape([-1])`` is ``Reshape([0, -1])``.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the reshaped x."""
        return operators.reshape(x, self.shape)


class GetItem(Layer):
    """``x[index]``; see `renom_onnx.graph.get_item`."""

    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the elements at the index."""
        return get_item(x, self.index)


class Concatenate(Layer):
    """Join any number of inputs along an axis. Source: https://onnx.ai/onnx/operators/onnx__Concat.html."""

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *xs: GraphElement) -> GraphElement:
        """Return the joined inputs."""
        return operators.concatenate(xs, self.axis)
