"""`Meter`: the sizes of all values, and the cost of all nodes, once the symbols of the inputs have numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.body import WITH_BODIES, Body, attribute_bodies, captures, operand_count
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
        if node.op_type in WITH_BODIES and attribute_bodies(node.attributes):
            return self._control(node)
        self.measure(node)
        inputs, outputs = [self.shape(v) for v in node.inputs], [self.shape(v) for v in node.outputs]
        found = formula_cost(node, inputs, outputs)
        return self._through_body(node) if found is None else found

    def let(self, symbol: str, size: int) -> None:
        """Give a symbol a number; values that were measured before keep what was found."""
        self._sizes[symbol] = size

    def measure(self, node: Node) -> None:
        """Find the sizes of the outputs of a node, and the numbers in them where they are small integers."""
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
            self._set(value, numbers)

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
            if any(v is not None and a is None for v, a in zip(node.inputs, operands, strict=True)):
                return  # not known, which is another thing than absent
            folded = fold(node.op_type, operands, node.attributes, node.output.dtype)
            if folded is None:
                return
            array = folded
        self._known[node.output] = array
        self._shapes[node.output] = array.shape

    def _call(self, node: Node, function: Function) -> Cost:
        inner = Meter()
        for formal, actual in zip(function.inputs, node.inputs, strict=False):
            inner._bind(formal, self.shape(actual), self.known(actual))
        cost = inner.read_all(function.body())
        for outer, value in zip(node.outputs, function.outputs, strict=False):
            self._set(outer, inner.shape(value))
        return cost

    def _bind(self, formal: Value, shape: Numbers | None, array: np.ndarray[Any, Any] | None = None) -> None:
        """Give a formal input the sizes, and the numbers where they are known, that it has in one call."""
        if shape is None:
            return
        self._shapes[formal] = shape
        for symbol, size in zip(formal.shape or (), shape, strict=False):
            if isinstance(symbol, str):
                self._sizes[symbol] = size
        if array is not None:
            self._known[formal] = array

    def _set(self, value: Value, shape: Numbers | None) -> None:
        if shape is not None and self.shape(value) is None:
            self._shapes[value] = shape

    def _control(self, node: Node) -> Cost:
        """Measure If, Loop or Scan: the dearer branch, or the body as often as it is known to run."""
        inner = self._inside(node)
        bodies = [body for _, body in attribute_bodies(node.attributes)]
        if node.op_type == "If":
            costs = [inner.read_all(body.nodes) for body in bodies]
            for i, value in enumerate(node.outputs):
                shapes = {inner.shape(body.outputs[i]) for body in bodies if i < len(body.outputs)}
                self._set(value, shapes.pop() if len(shapes) == 1 else None)
            return max(costs, key=lambda cost: cost.flops)
        operands = node.inputs[: operand_count(node)]
        n_steps, scanned = self._steps(node, operands)
        states = operands[2 if node.op_type == "Loop" else 0 : len(operands) - len(scanned)]
        formals = bodies[0].inputs[2 if node.op_type == "Loop" else 0 :]
        for formal, shape in zip(formals, [*(self.shape(v) for v in states), *scanned], strict=False):
            inner._bind(formal, shape)
        once = inner.read_all(bodies[0].nodes)
        if n_steps is None:
            return Cost(uncounted=once.uncounted | {node.op_type})
        cost = Cost(n_steps * once.macs, n_steps * once.flops, once.uncounted)
        if once.uncounted and any(self.known(v) is not None for v in operands[len(states) :]):
            # what a step reads may decide how large its values are
            cost = sum((self._step(node, bodies[0], states, scanned, i) for i in range(n_steps)), Cost())
        results = bodies[0].outputs[1 if node.op_type == "Loop" else 0 :]
        for i, (value, result) in enumerate(zip(node.outputs, results, strict=False)):
            shape = inner.shape(result)
            is_stacked = i >= len(states) and shape is not None
            self._set(value, (n_steps, *shape) if is_stacked and shape is not None else shape)
        return cost

    def _inside(self, node: Node) -> Meter:
        """Return a meter for the bodies of a node, which knows what they capture."""
        inner = Meter(self._sizes)
        for body, captured in captures(node):
            for formal, actual in zip(body.captures, captured, strict=False):
                inner._bind(formal, self.shape(actual), self.known(actual))
        return inner

    def _step(
        self, node: Node, body: Body, states: Sequence[Value | None], scanned: Sequence[Numbers | None], i: int
    ) -> Cost:
        """Return what one step of a Scan costs."""
        inner = self._inside(node)
        operands = node.inputs[len(states) : len(states) + len(scanned)]
        axes = node.attributes.get("scan_input_axes") or (0,) * len(scanned)
        arrays = [self.known(value) for value in operands]
        read = [None if a is None else a.take(i, axis) for a, axis in zip(arrays, axes, strict=True)]
        shapes = [*(self.shape(state) for state in states), *scanned]
        for formal, shape, array in zip(body.inputs, shapes, [*(None for _ in states), *read], strict=False):
            inner._bind(formal, shape, array)
        return inner.read_all(body.nodes)

    def _steps(self, node: Node, operands: Sequence[Value | None]) -> tuple[int | None, list[Numbers | None]]:
        """Return how often a body runs, where sizes tell, and the shapes of what each step of a Scan reads."""
        if node.op_type == "Loop":
            limit = self.known(operands[0] if operands else None)
            return (int(limit.reshape(-1)[0]) if limit is not None and limit.size == 1 else None), []
        n_scanned = int(node.attributes.get("num_scan_inputs", 0))
        shapes = [self.shape(value) for value in operands[len(operands) - n_scanned :]]
        axes = node.attributes.get("scan_input_axes") or (0,) * n_scanned
        if any(
            shape is None or not -len(shape) <= axis < len(shape) for shape, axis in zip(shapes, axes, strict=False)
        ):
            return None, [None] * n_scanned
        known = [(shape, axis % len(shape)) for shape, axis in zip(shapes, axes, strict=False) if shape]
        parts: list[Numbers | None] = [(*shape[:axis], *shape[axis + 1 :]) for shape, axis in known]
        return (known[0][0][known[0][1]] if known else None), parts

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
