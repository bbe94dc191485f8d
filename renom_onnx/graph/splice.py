"""Splices: the one place of a tree where a node's input may be exchanged.

A placeholder is an Identity whose input is a hole until something is fed: an array, which the leaf behind it holds, or
another element, whose tree is joined for good or until the next feed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.graph import schema
from renom_onnx.graph.node import Input, Node, Shape, Static, Value


class Hole(Input):
    """What a splice reads before it is fed; part of no printed tree."""

    __slots__ = ()


class Splice(Node):
    """An Identity whose input may be exchanged."""

    __slots__ = ("name",)
    label = "Placeholder"

    def __init__(self, dtype: np.dtype[Any], shape: Shape, name: str) -> None:
        hole = Hole(dtype, shape, name=name)
        super().__init__("Identity", [hole.output], [(dtype, shape)], opset=schema.DEFAULT_OPSET)
        self.name = name
        self.depth = 0

    @property
    def source(self) -> Value:
        """What is read: the hole, or what was fed."""
        value = self.inputs[0]
        assert value is not None
        return value

    def hold(self, array: np.ndarray[Any, Any]) -> None:
        """Read an array, of this node's type."""
        source = self.source.node
        if isinstance(source, Held):
            source.array = array
        else:
            held = Held(array, is_batch=bool(self.output.shape)).output
            held.shape = self.output.shape  # what is not known stays so: the next array may have another size there
            self.read(held, None)

    def read(self, value: Value, cast: np.dtype[Any] | None) -> None:
        """Read another value; the gradients of what follows are no longer known."""
        self.source.remove_follower(self)
        self.inputs, self.casts = (value,), (cast,)
        if value.node.connects:
            value.add_follower(self)
        for node in sorted(
            _descendants(self), key=lambda node: node.depth
        ):  # as deep as before, so that inputs come first
            node.depth = 1 + max(v.node.depth for v in node.inputs if v is not None)
            node.backward_pass = None
            node.updates.clear()


class Held(Static):
    """The array that a splice was fed last."""

    __slots__ = ()


def _descendants(start: Node) -> list[Node]:
    """Return the node and everything that is computed from it."""
    found = {start: None}
    stack = [start]
    while stack:
        for value in stack.pop().outputs:
            for follower in value.followers:
                if follower not in found:
                    found[follower] = None
                    stack.append(follower)
    return list(found)
