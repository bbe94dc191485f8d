"""The operators and methods of elements; `renom_onnx.graph.operators` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement


def _make(function: str, *arguments: Any) -> GraphElement:
    from renom_onnx.graph import operators  # which works on elements

    made: GraphElement = getattr(operators, function)(*arguments)
    return made


class Arithmetic:
    """What an element computes with operators and methods, each one element more."""

    def __add__(self, other: Any) -> GraphElement:
        return _make("binary", "Add", "add", self, other)

    def __radd__(self, other: Any) -> GraphElement:
        return _make("binary", "Add", "add", other, self)

    def __sub__(self, other: Any) -> GraphElement:
        return _make("binary", "Sub", "subtract", self, other)

    def __rsub__(self, other: Any) -> GraphElement:
        return _make("binary", "Sub", "subtract", other, self)

    def __mul__(self, other: Any) -> GraphElement:
        return _make("binary", "Mul", "multiply", self, other)

    def __rmul__(self, other: Any) -> GraphElement:
        return _make("binary", "Mul", "multiply", other, self)

    def __truediv__(self, other: Any) -> GraphElement:
        return _make("binary", "Div", "true_divide", self, other)

    def __rtruediv__(self, other: Any) -> GraphElement:
        return _make("binary", "Div", "true_divide", other, self)

    def __pow__(self, other: Any) -> GraphElement:
        return _make("binary", "Pow", "power", self, other)

    def __rpow__(self, other: Any) -> GraphElement:
        return _make("binary", "Pow", "power", other, self)

    def __matmul__(self, other: Any) -> GraphElement:
        return _make("binary", "MatMul", "matmul", self, other)

    def __rmatmul__(self, other: Any) -> GraphElement:
        return _make("binary", "MatMul", "matmul", other, self)

    def __lt__(self, other: Any) -> GraphElement:
        return _make("binary", "Less", "less", self, other)

    def __le__(self, other: Any) -> GraphElement:
        return _make("binary", "LessOrEqual", "less_equal", self, other)

    def __gt__(self, other: Any) -> GraphElement:
        return _make("binary", "Greater", "greater", self, other)

    def __ge__(self, other: Any) -> GraphElement:
        return _make("binary", "GreaterOrEqual", "greater_equal", self, other)

    def __neg__(self) -> GraphElement:
        return _make("unary", "Neg", "negative", self)

    def __pos__(self) -> GraphElement:
        return _make("unary", "Identity", "positive", self)

    def __abs__(self) -> GraphElement:
        return _make("unary", "Abs", "absolute", self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> GraphElement:
        """Sum over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html."""
        return _make("reduce_", "ReduceSum", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> GraphElement:
        """Mean over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceMean.html."""
        return _make("reduce_", "ReduceMean", self, axis, keepdims)

    def reshape(self, *shape: Any) -> GraphElement:
        """Return the elements in a new shape; -1 is what is left over, 0 keeps a size."""
        return _make("reshape", self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def max(self, axis: Any = None, keepdims: bool = False) -> GraphElement:
        """Return the largest over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceMax.html."""
        return _make("reduce_", "ReduceMax", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> GraphElement:
        """Return the smallest over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceMin.html."""
        return _make("reduce_", "ReduceMin", self, axis, keepdims)

    def exp(self) -> GraphElement:
        """E to the power of each element."""
        return _make("exp", self)

    def log(self) -> GraphElement:
        """Natural logarithm of each element."""
        return _make("log", self)

    def sqrt(self) -> GraphElement:
        """Square root of each element."""
        return _make("sqrt", self)

    def square(self) -> GraphElement:
        """Square of each element."""
        return _make("square", self)

    def clip(self, floor: float, ceil: float) -> GraphElement:
        """Each element, at least ``floor`` and at most ``ceil``."""
        return _make("clip", self, floor, ceil)

    def __getitem__(self, index: Any) -> GraphElement:
        """Return the elements at an index, as NumPy would; see `renom_onnx.graph.get_item`."""
        from renom_onnx.graph.indexing import get_item

        return get_item(self, index)  # type: ignore[arg-type]
