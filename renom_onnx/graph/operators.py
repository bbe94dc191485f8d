"""Operators and functions over elements. NumPy decides the types, ONNX does the rest."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.graph import autocast, clipping, layer, schema
from renom_onnx.graph.builder import make_node
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.node import Constant, Node, Value
from renom_onnx.graph.promotion import LOGICAL, resolved, sum_type, wider, with_numbers

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
    types = [(value.dtype, value.shape) for value in node.outputs]
    schema.require_tensors(schema.operator(op_type, opset), types, list(node.operand_types()), node.site)
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
            node.gradient_limits = clipping.current_limits()


def binary(op_type: str, ufunc: str, a: Operand, b: Operand) -> Any:
    """Return ``a op b`` with the types that the NumPy ufunc of that name would use."""
    try:
        operands = [_typed(a), _typed(b)]
    except TypeError:
        return NotImplemented
    *wanted, result = resolved(op_type, ufunc, *operands)
    elements = [_element(x, dtype) for x, dtype in zip((a, b), wanted, strict=True)]
    if wanted[0] != wanted[1] and {t.kind for t in wanted} == {"i", "u"}:
        return _compared(op_type, *elements)
    if result.kind == "b" and op_type in LOGICAL:
        return apply(LOGICAL[op_type], *elements)
    return _computed(op_type, elements, wanted, result)


def _computed(op_type: str, elements: Sequence[GraphElement], wanted: Sequence[Any], result: Any) -> GraphElement:
    """Return an operator over operands of the wanted types, in the type of the result."""
    kernels = [wider(op_type, dtype) for dtype in wanted]
    y = apply(op_type, *elements, casts=[None if x.dtype == t else t for x, t in zip(elements, kernels, strict=True)])
    return _narrowed(y, result)


def _narrowed(y: GraphElement, result: np.dtype[Any]) -> GraphElement:
    """Return what was computed in a wider type in the type of the result; autocast may have its own for numbers."""
    return apply("Cast", y, to=result) if result.kind in "biu" and y.dtype != result else y


def _compared(op_type: str, a: GraphElement, b: GraphElement) -> GraphElement:
    """Return the comparison of an int64 and a uint64, exact as NumPy's: what is negative is less than all others."""
    unsigned = np.dtype(np.uint64)
    casts = [None if x.dtype == unsigned else unsigned for x in (a, b)]
    signed = b if a.dtype == unsigned else a
    negative = apply("Less", signed, Constant(np.array(0, signed.dtype)).output)
    holds_if_negative = op_type.startswith("Greater") is (signed is b)
    same = apply(op_type, a, b, casts=casts)
    if holds_if_negative:
        return apply("Or", negative, same)
    return apply("And", apply("Not", negative), same)


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
    dtype = resolved(op_type, ufunc, x.dtype)[0]
    if op_type == "Neg" and dtype.kind == "u":  # 0 - x, which wraps around
        return binary("Sub", "subtract", static(np.zeros((), dtype)), x)  # type: ignore[no-any-return]
    if op_type == "Abs" and dtype.kind == "b":
        op_type = "Identity"
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
    is_noop = None if axis is None or np.size(axis) else 1  # NumPy reduces over no axes, ONNX over all
    result = x.dtype
    if op_type == "ReduceMean" and x.dtype.kind in "biu":
        kernel = result = np.dtype(np.float64)
    else:
        kernel = wider(op_type, x.dtype)
        result = sum_type(x.dtype) if op_type == "ReduceSum" else x.dtype
    largest = op_type in ("ReduceMax", "ReduceMin") and x.dtype == np.uint64
    half = Constant(np.array(2**63, np.uint64)).output
    if largest:  # as int64, in the same order
        x = apply("Cast", apply("Sub", x, half), to=np.dtype(np.int64))
        kernel = x.dtype
    casts = [None if x.dtype == kernel else kernel, None]
    y = apply(op_type, x, _axes(axis), casts=casts, keepdims=int(keepdims), noop_with_empty_axes=is_noop)
    y = _narrowed(y, result)
    return apply("Add", y, half) if largest else y


def sum(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> GraphElement:
    """Sum over axes; integers are summed in 64 bits, which onnxruntime does exactly up to 2^53.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceSum.html.
    """
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

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.clip(np.array([1, 2, 3]), 1.5, 2.5))
        [1.5 2.  2.5]
    """
    x = as_element(x)
    dtype = with_numbers(x.dtype, floor, ceil)
    kernel = wider("Clip", dtype)
    limits = [Constant(np.array(bound, kernel)).output for bound in (floor, ceil)]
    y = apply("Clip", x, *limits, casts=[None if x.dtype == kernel else kernel, None, None])
    return _narrowed(y, dtype)


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
    dtype = resolved("Square", "square", x.dtype)[0]
    return _computed("Mul", [x, x], [dtype, dtype], dtype)


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
