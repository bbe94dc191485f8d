"""Operators and functions over elements. NumPy decides the types, ONNX does the rest."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError
from renom_onnx.graph import autocast, layer
from renom_onnx.graph.builder import make_node
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.node import Constant, Node, Value
from renom_onnx.graph.site import created_at, user_site

__all__ = [
    "binary", "clip", "concatenate", "exp", "log", "max", "mean", "min", "relu", "reshape", "sigmoid", "softmax",
    "sqrt", "square", "stop_gradient", "sum", "tanh", "transpose", "unary",
]  # fmt: skip

Operand = Any


def apply(
    op_type: str,
    *inputs: GraphElement | Value | None,
    casts: Sequence[np.dtype[Any] | None] | None = None,
    opset: int | None = None,
    **attributes: Any,
) -> GraphElement:
    """Return the first output of an ONNX operator over elements, in the layer that is being called."""
    return GraphElement(apply_node(op_type, *inputs, casts=casts, opset=opset, **attributes).output)


def apply_node(
    op_type: str,
    *inputs: GraphElement | Value | None,
    casts: Sequence[np.dtype[Any] | None] | None = None,
    opset: int | None = None,
    n_outputs: int | None = None,
    **attributes: Any,
) -> Node:
    """Return the node of an ONNX operator over elements, in the layer that is being called."""
    values = [x.output if isinstance(x, GraphElement) else x for x in inputs]
    opset = opset or _newest(values)
    casts = autocast.operand_casts(op_type, values, casts if casts is not None else [None] * len(values), opset)
    node = make_node(
        op_type,
        values,
        attributes,
        opset=opset,
        casts=casts,
        n_outputs=n_outputs,
        layers=layer.current_layers(),
    )
    _keep_loss(node)
    return node


def _newest(values: Sequence[Value | None]) -> int:
    """Return the newest opset among the operands, at least that which is asked for now."""
    return builtins.max([autocast.least_opset(), *(v.node.opset for v in values if v is not None)])


def _keep_loss(node: Node) -> None:
    """One number made of losses is a loss."""
    if node.output.shape is not None and all(d == 1 for d in node.output.shape):
        predictions = [p for v in node.inputs if v is not None for p in v.node.loss or ()]
        if predictions:
            node.loss = tuple(dict.fromkeys(predictions))
            is_mean = all(v.node.reduction == "mean" for v in node.inputs if v is not None and v.node.loss)
            node.reduction = "mean" if is_mean else "sum"


def binary(op_type: str, ufunc: str, a: Operand, b: Operand) -> Any:
    """Return ``a op b`` with the types that the NumPy ufunc of that name would use."""
    try:
        operands = [_typed(a), _typed(b)]
    except TypeError:
        return NotImplemented
    resolved = _resolved(op_type, ufunc, *operands)
    elements = [_element(x, dtype) for x, dtype in zip((a, b), resolved, strict=False)]
    casts = [None if x.dtype == dtype else dtype for x, dtype in zip(elements, resolved, strict=False)]
    return apply(op_type, *elements, casts=casts)


def _resolved(op_type: str, ufunc: str, *operands: Any) -> tuple[np.dtype[Any], ...]:
    """Return the types in which NumPy would compute, those of the operands first."""
    half = next((t for t in operands if t not in (int, float) and t.name == "bfloat16"), None)
    if half is not None:  # beside which NumPy takes a Python number for float32
        operands = tuple(half if t in (int, float) else t for t in operands)
    try:
        found: tuple[np.dtype[Any], ...] = getattr(np, ufunc).resolve_dtypes((*operands, None))
    except TypeError as e:
        names = ", ".join(getattr(t, "name", None) or t.__name__ for t in operands)
        rule = str(e).split("\n")[0].rstrip(".")
        raise DTypeError(f"{op_type}: {rule}, got {names}. {created_at(user_site())}") from e
    return found


def _typed(x: Operand) -> Any:
    """Return what NumPy's promotion wants to know of an operand: a dtype, or the type of a Python number."""
    if isinstance(x, GraphElement):
        return x.dtype
    if type(x) in (bool, int, float):
        return np.dtype(bool) if type(x) is bool else type(x)
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype
    raise TypeError


def _element(x: Operand, dtype: np.dtype[Any]) -> GraphElement:
    if isinstance(x, GraphElement):
        return x
    return static(np.asarray(x, dtype=dtype if isinstance(x, bool | int | float) else None))


def unary(op_type: str, ufunc: str, x: Operand, **attributes: Any) -> GraphElement:
    """Return ``op(x)`` with the types that the NumPy ufunc of that name would use."""
    x = as_element(x)
    dtype = _resolved(op_type, ufunc, x.dtype)[0]
    return apply(op_type, x, casts=[None if x.dtype == dtype else dtype], **attributes)


def as_element(x: Operand) -> GraphElement:
    """Return an element as it is and anything else as a static variable."""
    return x if isinstance(x, GraphElement) else static(x)


def integers(values: Sequence[int]) -> Value:
    """Return a constant int64 list: axes, a shape."""
    return Constant(np.array(values, np.int64)).output


def _axes(axis: int | Sequence[int] | None) -> Value | None:
    return None if axis is None else integers([int(axis)] if isinstance(axis, int | np.integer) else list(axis))


def reduce_(op_type: str, x: Operand, axis: int | Sequence[int] | None, keepdims: bool) -> GraphElement:
    """Reduce over the given axes, or over all."""
    x = as_element(x)
    cast: np.dtype[Any] | None = None
    if op_type == "ReduceMean" and x.dtype.kind in "biu":
        cast = np.dtype(np.float64)
    elif x.dtype.kind in "bi" and x.dtype != np.int64:
        cast = np.dtype(np.int64)
    is_noop = None if axis is None or np.size(axis) else 1  # NumPy reduces over no axes, ONNX over all
    return apply(op_type, x, _axes(axis), casts=[cast, None], keepdims=int(keepdims), noop_with_empty_axes=is_noop)


def sum(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> GraphElement:
    """Sum over axes; integers are summed in int64. Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html."""
    return reduce_("ReduceSum", x, axis, keepdims)


def mean(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> GraphElement:
    """Mean over axes; integers are averaged in float64. Source: https://onnx.ai/onnx/operators/onnx__ReduceMean.html."""
    return reduce_("ReduceMean", x, axis, keepdims)


def max(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> GraphElement:
    """Return the largest over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceMax.html."""
    return reduce_("ReduceMax", x, axis, keepdims)


def min(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> GraphElement:
    """Return the smallest over axes. Source: https://onnx.ai/onnx/operators/onnx__ReduceMin.html."""
    return reduce_("ReduceMin", x, axis, keepdims)


def clip(x: Operand, floor: float, ceil: float) -> GraphElement:
    """Return each element, at least ``floor`` and at most ``ceil``; the gradient is 1 from bound to bound.

    Source: https://onnx.ai/onnx/operators/onnx__Clip.html.
    """
    x = as_element(x)
    return apply("Clip", x, *(Constant(np.array(bound, x.dtype)).output for bound in (floor, ceil)))


def exp(x: Operand) -> GraphElement:
    """E to the power of x. Source: https://onnx.ai/onnx/operators/onnx__Exp.html."""
    return unary("Exp", "exp", x)


def log(x: Operand) -> GraphElement:
    """Natural logarithm. Source: https://onnx.ai/onnx/operators/onnx__Log.html."""
    return unary("Log", "log", x)


def sqrt(x: Operand) -> GraphElement:
    """Square root. Source: https://onnx.ai/onnx/operators/onnx__Sqrt.html."""
    return unary("Sqrt", "sqrt", x)


def tanh(x: Operand) -> GraphElement:
    """Hyperbolic tangent. Source: https://onnx.ai/onnx/operators/onnx__Tanh.html."""
    return unary("Tanh", "tanh", x)


def square(x: Operand) -> GraphElement:
    """Square, as x * x."""
    x = as_element(x)
    return binary("Mul", "multiply", x, x)  # type: ignore[no-any-return]


def sigmoid(x: Operand) -> GraphElement:
    """1 / (1 + e^-x). Source: https://onnx.ai/onnx/operators/onnx__Sigmoid.html."""
    return unary("Sigmoid", "exp", x)


def relu(x: Operand) -> GraphElement:
    """max(x, 0). Source: https://onnx.ai/onnx/operators/onnx__Relu.html."""
    return apply("Relu", as_element(x))


def softmax(x: Operand, axis: int = -1) -> GraphElement:
    """Softmax along an axis. Source: https://onnx.ai/onnx/operators/onnx__Softmax.html."""
    return unary("Softmax", "exp", x, axis=axis)


def reshape(x: Operand, shape: Sequence[int]) -> GraphElement:
    """Return the elements in a new shape; one size may be -1 (what is left over) and 0 keeps a size.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html.
    """
    return apply("Reshape", as_element(x), integers(list(shape)))


def transpose(x: Operand, axes: Sequence[int] | None = None) -> GraphElement:
    """Permute the axes; without ``axes``, reverse them. Source: https://onnx.ai/onnx/operators/onnx__Transpose.html."""
    return apply("Transpose", as_element(x), perm=None if axes is None else list(axes))


def concatenate(xs: Sequence[Operand], axis: int = 0) -> GraphElement:
    """Join elements along an axis. Source: https://onnx.ai/onnx/operators/onnx__Concat.html."""
    elements = [as_element(x) for x in xs]
    dtype = np.result_type(*(x.dtype for x in elements))
    return apply("Concat", *elements, casts=[None if x.dtype == dtype else dtype for x in elements], axis=axis)


def stop_gradient(x: GraphElement) -> GraphElement:
    """Return x as a value that no gradient passes.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> a = rm.graph.StaticVariable(np.array([3.0]))
        >>> y = a * rm.graph.stop_gradient(a)
        >>> print(y.backward().get_gradient(a.output))
        [3.]
    """
    node = apply_node("Identity", x)
    node.stops_gradient = True
    return GraphElement(node.output)
