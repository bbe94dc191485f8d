"""Values that a layer does not keep for its gradient: the backward pass computes them again.

Kept are what goes into the layer and what comes out. The copy of the layer's nodes reads its inputs through a function,
`After`, whose result is the input and which reads the gradient that arrives. Neither a reader of the graph nor a
runtime can therefore take the copy for the nodes of the forward pass, or begin it before it is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.body import attribute_bodies
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import BACKWARD, Constant, Input, Node, Shape, Static, Value
from renom_onnx.graph.parameter import Parameter

_MULTIPLIED = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64"})
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


class Checkpoint:
    """One call of a layer whose values are computed again for the gradient."""

    __slots__ = ()


def mark(nodes: Iterable[Node]) -> None:
    """Let nodes be computed again together; a call around others takes their nodes over.

    Random operators are left out: computed again they would draw other numbers.
    """
    checkpoint = Checkpoint()
    for node in nodes:
        if not _is_random(node):
            node.checkpoint = checkpoint


def _is_random(node: Node) -> bool:
    inside = [inner for _, body in attribute_bodies(node.attributes) for inner in body.nodes]
    inside += node.function.body() if node.function is not None else ()
    return node.op_type in _RANDOM or any(_is_random(inner) for inner in inside)


def marked(nodes: Iterable[Node]) -> list[list[Node]]:
    """Return the nodes that are computed again, those of a call together."""
    found: dict[Checkpoint, list[Node]] = {}
    for node in nodes:
        if node.checkpoint is not None:
            found.setdefault(node.checkpoint, []).append(node)
    return list(found.values())


class Recomputation:
    """The second computations of one reverse walk.

    Args:
        order: the nodes of the walk, inputs before readers.
        roots: the values that are differentiated.
        opset: of the new nodes.
    """

    def __init__(self, order: Sequence[Node], roots: Collection[Value], opset: int) -> None:
        self._opset = opset
        self._nodes: dict[Checkpoint, list[Node]] = {}
        self._made: dict[Checkpoint, dict[Value, Value]] = {}
        self._kept = set(roots)
        for node in order:
            own = _checkpoint(node)
            if own is not None:
                self._nodes.setdefault(own, []).append(node)
            self._kept.update(v for v in node.inputs if v is not None and _checkpoint(v.node) not in (None, own))

    def values(self, node: Node, dys: Sequence[Value | None]) -> Mapping[Value, Value]:
        """Return what the gradient of a node reads in the place of values; the first one of a call adds them."""
        own = _checkpoint(node)
        if own is None:
            return {}
        if own not in self._made:
            dy = next((dy for dy in dys if dy is not None and not schema.is_container(dy.dtype)), None)
            self._made[own] = {} if dy is None else self._again(self._nodes[own], node, dy)
        return self._made[own]

    def _again(self, nodes: Sequence[Node], last: Node, dy: Value) -> dict[Value, Value]:
        inside = set(nodes)
        made: dict[Value, Value] = {}
        for inner in nodes:
            for value in inner.inputs:
                is_outside = value is not None and value.node not in inside and value not in made
                if value is not None and is_outside and _is_activation(value):
                    made[value] = _after(value, dy, last, self._opset)
        for inner in nodes:
            if all(value in self._kept for value in inner.outputs) or not any(v in made for v in inner.inputs):
                continue
            copy = inner.copy([None if v is None else made.get(v, v) for v in inner.inputs], origin=_first(inner))
            copy.tag = BACKWARD
            made.update((v, again) for v, again in zip(inner.outputs, copy.outputs, strict=True) if v not in self._kept)
        return made


def _first(node: Node) -> Node:
    return node.origin or node


def _checkpoint(node: Node) -> Checkpoint | None:
    found: Checkpoint | None = _first(node).checkpoint
    return found


def _is_activation(value: Value) -> bool:
    """Whether a value from outside is read anew: not a weight, of which there is one copy for all, nor a number."""
    if isinstance(value.node, Static) and not value.node.is_batch and value.node.array.ndim == 0:
        return False
    return not isinstance(value.node, Constant | Parameter) and not schema.is_container(value.dtype)


def _after(x: Value, dy: Value, node: Node, opset: int) -> Value:
    function = _after_function((x.dtype, x.shape), (dy.dtype, dy.shape), opset)
    types = [(x.dtype, x.shape)]
    return call(
        function, [x, dy], {}, types, tag=BACKWARD, site=node.site, layers=_first(node).layers, origin=_first(node)
    ).output


@functools.lru_cache(maxsize=1024)
def _after_function(
    x_type: tuple[np.dtype[Any], Shape | None], dy_type: tuple[np.dtype[Any], Shape | None], opset: int
) -> Function:
    """Return the function (x, dy) -> x.

    The product with a one that is made of dy is x to the last bit, and keeps element type and shape for inference; an
    integer on the way keeps infinities out of it.
    """
    op = Builder(opset, tag=BACKWARD)
    x, dy = Input(*x_type, name="X").output, Input(*dy_type, name="dY").output
    # Of one axis dy would be taken for a shape by onnx's inference, which keeps an object for each element of one.
    rows = op.Reshape(dy, [-1, 1]) if not dy.rank else dy
    n_axes = rows.rank or 2
    first = op.Slice(rows, [0] * n_axes, [1] * n_axes, list(range(n_axes)))
    number = op.Cast(op.ReduceSum(op.Cast(first, to=np.float32), keepdims=0), to=np.int32)  # 0 where dy is empty
    one = op.Add(op.Mul(number, 0), 1)
    wide = x.dtype if x.dtype.name in _MULTIPLIED else np.dtype(np.int32)
    y = op.Mul(op.Cast(x, to=wide) if wide != x.dtype else x, op.Cast(one, to=wide))
    if wide != x.dtype:
        y = op.Cast(y, to=x.dtype)
    doc = "Y = X, known no sooner than dY, so that what is computed of it is computed again."
    return Function("After", DOMAIN, opset, (x, dy), (op.shaped(y, x),), ("Y",), (), doc)
