"""`Builder`: every attribute is an ONNX operator of one opset.

    op = Builder(18)
    y = op.Relu(op.Conv(x, w, pads=[1, 1, 1, 1]))

Layers, gradient rules and optimizers all write their formulas with it. Types and shapes come from ONNX's inference at
once, so a mistake is an error at the line that made it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.body import WITH_BODIES, Type, output_types
from renom_onnx.graph.formal import Operator
from renom_onnx.graph.node import FORWARD, Constant, Node, Value, known_array
from renom_onnx.graph.site import Site, user_site

Operand = Value | np.ndarray[Any, Any] | float | int | bool | Sequence[int] | None


def is_small_integer(array: np.ndarray[Any, Any]) -> bool:
    """Whether the array can be axes, a shape or the like, which shape inference and rules read."""
    return array.dtype == np.int64 and array.size <= 1024


def _read_by_inference(op_type: str, value: Value | None) -> np.ndarray[Any, Any] | None:
    """Return the constant that the shape of the operator's output may depend on: integers, or Resize's scales."""
    known = known_array(value)
    is_read = known is not None and (is_small_integer(known) or (op_type == "Resize" and known.size <= 16))
    return known if is_read else None


def _operand_types(inputs: Sequence[Value | None], casts: Sequence[np.dtype[Any] | None]) -> list[Type | None]:
    return [None if v is None else (v.dtype if c is None else c, v.shape) for v, c in zip(inputs, casts, strict=True)]


def infer(
    op: Operator,
    opset: int,
    attributes: Mapping[str, Any],
    inputs: Sequence[Value | None],
    casts: Sequence[np.dtype[Any] | None],
    n_outputs: int,
    site: Site,
) -> list[Type]:
    """Return element types and shapes of a node's outputs, as `schema.infer` tells them, or its bodies."""
    types = _operand_types(inputs, casts)
    if op.name in WITH_BODIES and op.domain == "":
        return output_types(op.name, attributes, types)
    data = {i: known for i, v in enumerate(inputs) if (known := _read_by_inference(op.name, v)) is not None}
    return schema.infer(op, opset, attributes, types, data, n_outputs, site)


def make_node(
    op_type: str,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any],
    *,
    opset: int,
    domain: str = "",
    n_outputs: int | None = None,
    casts: Sequence[np.dtype[Any] | None] | None = None,
    tag: str = FORWARD,
    layers: tuple[Any, ...] = (),
    site: Site | None = None,
    origin: Node | None = None,
    is_cut: bool = False,
) -> Node:
    """Return a node of a standard operator, with element types and shapes of its outputs inferred."""
    site = site if site is not None else user_site()
    op = schema.operator(op_type, opset, domain)
    plain = schema.plain_attributes(op, attributes)
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    casts = tuple(casts)[: len(inputs)] if casts is not None else (None,) * len(inputs)
    count = n_outputs if n_outputs is not None else max(1, op.min_outputs)
    return Node(
        op_type,
        inputs,
        infer(op, opset, plain, inputs, casts, count, site),
        opset=opset,
        domain=domain,
        attributes=plain,
        casts=casts,
        tag=tag,
        site=site,
        layers=layers,
        origin=origin,
        is_cut=is_cut,
    )


class Builder:
    """Builds nodes of one opset: ``op.Conv(x, w, strides=[2, 2])``.

    Operands are values, or arrays, numbers and lists of integers, which become constants of the type that the operator
    asks for. A call returns the node's value, or a tuple of values where ``outputs=`` asks for several or the operator
    always has several.
    """

    def __init__(
        self,
        opset: int = schema.DEFAULT_OPSET,
        *,
        tag: str = FORWARD,
        site: Site | None = None,
        origin: Node | None = None,
    ) -> None:
        self.opset = opset
        self._origin = origin  # what the new nodes are in training
        self._tag = tag
        self._site = site

    @property
    def origin(self) -> Node:
        """The element that the new nodes stand for in training."""
        assert self._origin is not None
        return self._origin

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return functools.partial(self.node, op_type)

    def has(self, op_type: str) -> bool:
        """Whether the opset has the operator."""
        return schema.has_operator(op_type, self.opset)

    def node(self, op_type: str, *inputs: Operand, outputs: int | None = None, **attributes: Any) -> Any:
        """Return the output of a new node, or the tuple of its outputs where there are several."""
        op = schema.operator(op_type, self.opset)
        values = [self._operand(op, i, operand, inputs) for i, operand in enumerate(inputs)]
        node = make_node(
            op_type,
            values,
            attributes,
            opset=self.opset,
            n_outputs=outputs,
            tag=self._tag,
            site=self._site,
            origin=self._origin,
            layers=self._origin.layers if self._origin is not None else (),
        )
        return node.outputs if len(node.outputs) > 1 else node.output

    def _operand(self, op: Operator, index: int, operand: Operand, operands: Sequence[Operand]) -> Value | None:
        if operand is None or isinstance(operand, Value):
            return operand
        if isinstance(operand, np.ndarray | np.generic) and not isinstance(operand, np.floating):
            return self.constant(operand)
        formal = op.input(index)
        for i, other in enumerate(operands):
            if isinstance(other, Value) and op.input(i).type_variable == formal.type_variable:
                return self.constant(operand, other.dtype)
        if formal.type_variable == "tensor(int64)" or isinstance(operand, Sequence):
            return self.constant(operand, np.int64)
        first = next((other.dtype for other in operands if isinstance(other, Value)), np.dtype(np.float32))
        return self.constant(operand, first)

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """Return a constant; ``dtype`` defaults to that of an array."""
        return Constant(np.array(value, dtype=dtype, order="C"), site=self._site).output

    def zero(self, like: Value) -> Value:
        """Return the number 0 of the value's type."""
        return self.constant(0, like.dtype)

    def size_of(self, x: Value, axes: Sequence[int]) -> Value:
        """Return the sizes of the axes as int64[len(axes)]: a constant where they are known, else read by Shape."""
        if x.shape is not None and all(isinstance(x.shape[a], int) for a in axes):
            return self.constant([x.shape[a] for a in axes], np.int64)
        if x.shape is not None:
            axes = [a % len(x.shape) for a in axes]
            if list(axes) == list(range(axes[0], axes[0] + len(axes))):
                value: Value = self.Shape(x, start=axes[0], end=axes[-1] + 1)
                return value
        value = self.Gather(self.Shape(x), self.constant(list(axes), np.int64))
        return value

    def shape_of(self, x: Value) -> Value:
        """Return the shape as int64[rank]: a constant where it is known, else read by Shape."""
        if x.shape is not None and all(isinstance(d, int) for d in x.shape):
            return self.constant(x.shape, np.int64)
        value: Value = self.Shape(x)
        return value

    def vector(self, *parts: Value | Sequence[int]) -> Value:
        """Join vectors of sizes into one, int64: a constant where all are known."""
        arrays = [known_array(part) if isinstance(part, Value) else np.array(part, np.int64) for part in parts]
        if all(array is not None for array in arrays):
            return self.constant(np.concatenate(arrays), np.int64)  # type: ignore[arg-type]
        value: Value = self.Concat(*parts, axis=0)
        return value

    def shaped(self, value: Value, like: Value) -> Value:
        """Return ``value``, stated to have the shape of ``like``, which inference cannot always see behind a symbol."""
        value.shape = like.shape
        return value

    def reshape_like(self, value: Value, like: Value) -> Value:
        """Return ``value`` reshaped to the shape of ``like``."""
        shape = self.shape_of(like)
        sizes = known_array(shape)
        allowzero = 1 if sizes is None or 0 in sizes else None  # else Reshape takes an empty axis for "as it was"
        return self.shaped(self.Reshape(value, shape, allowzero=allowzero), like)

    def expand_like(self, value: Value, like: Value) -> Value:
        """Return ``value`` repeated to the shape of ``like``."""
        return self.shaped(self.Expand(value, self.shape_of(like)), like)

    def zeros_like(self, like: Value) -> Value:
        """Return zeros of the type and shape of ``like``."""
        is_bfloat16 = like.dtype.name == "bfloat16"  # which ConstantOfShape takes from opset 20 on
        zero = np.zeros(1, np.float32 if is_bfloat16 else like.dtype)
        zeros = self.ConstantOfShape(self.shape_of(like), value=zero)
        return self.shaped(self.Cast(zeros, to=like.dtype) if is_bfloat16 else zeros, like)
