"""`Meter`: the sizes of all values, and the cost of all nodes, once the symbols of the inputs have numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.cost import Cost, formula_cost
from renom_onnx.graph.expansion import expand
from renom_onnx.graph.folding import LARGEST, fold
from renom_onnx.graph.function import Function
from renom_onnx.graph.node import Node, Shape, Value, ancestors, known_array

Numbers = tuple[int, ...]


class Meter:
    """Measures nodes, inputs before readers.

    Args:
        sizes: numbers for symbols, such as ``{"N": 32}``.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> y = rm.graph.Dense(16)(np.ones((2, 8), np.float32)).output
        >>> meter = Meter({"N": 32})
        >>> meter.read_all(ancestors([y])), meter.shape(y)
        (Cost(macs=4096, flops=8704, uncounted=frozenset()), (32, 16))
    """

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self._sizes = dict(sizes or {})
        self._shapes: dict[Value, Numbers] = {}
        self._known: dict[Value, np.ndarray[Any, Any]] = {}

    def shape(self, value: Value | None) -> Numbers | None:
        """Return the sizes of a value, or None where they are not known."""
        if value is None:
            return None
        found = self._shapes.get(value)
        return found if found is not None else _numbers(value.shape, self._sizes)

    def n_elements(self, value: Value | None) -> int | None:
        """Return how many elements a value has, or None."""
        shape = self.shape(value)
        if shape is None:
            return None
        count = 1
        for size in shape:
            count *= size
        return count

    def known(self, value: Value | None) -> np.ndarray[Any, Any] | None:
        """Return the array of a small integer value that sizes decide."""
        if value is None:
            return None
        array = self._known.get(value, known_array(value))
        return array if array is None or array.size <= LARGEST else None

    def read_all(self, nodes: Iterable[Node]) -> Cost:
        """Measure nodes and return what they cost together."""
        result = Cost()
        for node in nodes:
            result = result + self.read(node)
        return result

    def read(self, node: Node) -> Cost:
        """Measure the outputs of a node and return what it costs; a leaf costs nothing."""
        if node.is_leaf:
            return Cost()
        if node.function is not None:
            return self._call(node, node.function)
        self._size_outputs(node)
        inputs, outputs = [self.shape(v) for v in node.inputs], [self.shape(v) for v in node.outputs]
        found = formula_cost(node, inputs, outputs)
        return self._through_body(node) if found is None else found

    def _size_outputs(self, node: Node) -> None:
        is_standard = node.domain in ("", "ai.onnx")
        if is_standard and all(v.dtype.kind in "iub" for v in node.outputs):
            self._fold(node)
        if all(self.shape(v) is not None for v in node.outputs):
            return
        types = [
            None if t is None else (t[0], self.shape(v) if self.shape(v) is not None else t[1])
            for t, v in zip(node.operand_types(), node.inputs, strict=True)
        ]
        data = {i: a for i, v in enumerate(node.inputs) if (a := self.known(v)) is not None}
        try:
            operator = schema.operator(node.op_type, node.opset, node.domain)
            plain = {name: value for name, value in node.attributes.items() if name in operator.attributes}
            inferred = schema.infer(operator, node.opset, plain, types, data, len(node.outputs), node.site)
        except (RenomError, KeyError, TypeError, ValueError):
            return
        for value, (_, shape) in zip(node.outputs, inferred, strict=True):
            numbers = _numbers(shape, self._sizes)
            if numbers is not None and self.shape(value) is None:
                self._shapes[value] = numbers

    def _fold(self, node: Node) -> None:
        """Compute the one output if it is a small array of integers that the sizes decide."""
        if len(node.outputs) != 1:
            return
        if node.op_type in ("Shape", "Size"):
            shape = self.shape(node.inputs[0] if node.inputs else None)
            if shape is None:
                return
            sizes = np.array(shape, np.int64)
            cut = slice(node.attributes.get("start", 0), node.attributes.get("end"))
            array: np.ndarray[Any, Any] = sizes[cut] if node.op_type == "Shape" else np.array(sizes.prod(), np.int64)
        else:
            operands = [self.known(v) for v in node.inputs]
            folded = fold(node.op_type, operands, node.attributes, node.output.dtype)
            if folded is None:
                return
            array = folded
        self._known[node.output] = array
        self._shapes[node.output] = array.shape

    def _call(self, node: Node, function: Function) -> Cost:
        inner = Meter()
        for formal, actual in zip(function.inputs, node.inputs, strict=False):
            shape, array = self.shape(actual), self.known(actual)
            if shape is None:
                continue
            inner._shapes[formal] = shape
            for symbol, size in zip(formal.shape or (), shape, strict=False):
                if isinstance(symbol, str):
                    inner._sizes[symbol] = size
            if array is not None:
                inner._known[formal] = array
        cost = inner.read_all(function.body())
        for outer, value in zip(node.outputs, function.outputs, strict=False):
            shape = inner.shape(value)
            if shape is not None and self.shape(outer) is None:
                self._shapes[outer] = shape
        return cost

    def _through_body(self, node: Node) -> Cost:
        """Return the cost of the operators that ONNX defines this one by."""
        unknown = Cost(uncounted=frozenset([f"{node.domain}.{node.op_type}" if node.domain else node.op_type]))
        if not schema.has_body(node.op_type, node.opset, node.domain):
            return unknown
        leaves = [value.node for value in node.inputs if value is not None]
        try:
            outputs = expand(Builder(node.opset), node, node.inputs)
        except (RenomError, KeyError, TypeError, ValueError):
            return unknown
        body = [n for n in ancestors(outputs, leaves) if n not in leaves]
        return unknown if any(n.op_type == node.op_type for n in body) else self.read_all(body)


def _numbers(shape: Shape | None, sizes: Mapping[str, int]) -> Numbers | None:
    if shape is None:
        return None
    numbers: list[int] = []
    for dim in shape:
        size = dim if isinstance(dim, int) else sizes.get(dim)
        if size is None:
            return None
        numbers.append(size)
    return tuple(numbers)


def total(nodes: Iterable[Node], sizes: Mapping[str, int] | None = None) -> Cost:
    """Return what nodes cost together, symbols being of these sizes."""
    return Meter(sizes).read_all(nodes)
