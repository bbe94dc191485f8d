"""`Node`: an ndarray that may know the graph it was computed by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import GradientError, ShapeError
from renom_onnx.graph import operators
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.site import created_at, user_site

Array = np.ndarray[Any, Any]


class Node(np.ndarray[Any, Any]):
    """The value of a v2.0 operation: an array, and the recorded graph if there is one; then it cannot be written to.

    Attributes:
        element: the recorded graph, or None.
    """

    element: GraphElement | None

    def __new__(cls, array: Any, element: GraphElement | None = None) -> Node:
        """Return the array as a node."""
        node = np.asarray(array).view(cls)
        node.element = element
        if element is not None:
            node.flags.writeable = False  # the record would go on with the old values
        return node

    def __array_finalize__(self, array: Any) -> None:
        self.element = None

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        recorded = any(isinstance(x, Node) and x.element is not None for x in inputs)
        if recorded and method == "__call__" and name in _RECORDED and not kwargs:
            return compute(_RECORDED[name], inputs, is_batch=False)
        if "out" in kwargs:
            kwargs["out"] = tuple(_plain(x) for x in kwargs["out"])
        return getattr(ufunc, method)(*(_plain(x) for x in inputs), **kwargs)

    def as_ndarray(self) -> Array:
        """Return a plain array."""
        return np.array(self)

    def grad(self) -> Grads:
        """Return the gradients of this number with respect to everything that was recorded.

        Raises:
            GradientError: nothing was recorded; compute inside ``with model.train():``.
            ShapeError: the node has more than one element.
        """
        if self.element is None:
            raise GradientError(
                f"grad: the node must have been recorded, got one that was not. "
                f"Compute it inside 'with model.train():'. {created_at(user_site())}"
            )
        if self.size != 1:
            raise ShapeError(
                f"grad: a node must have one element, got shape {list(self.shape)}. Reduce it with rm.sum first. "
                f"{created_at(user_site())}"
            )
        return Grads(self.element)


_BINARY = (
    ("add", "Add"),
    ("subtract", "Sub"),
    ("multiply", "Mul"),
    ("true_divide", "Div"),
    ("divide", "Div"),
    ("power", "Pow"),
    ("matmul", "MatMul"),
)
_UNARY = (
    ("negative", "Neg"),
    ("positive", "Identity"),  # NumPy's x ** 1
    ("reciprocal", "Reciprocal"),  # x ** -1
    ("absolute", "Abs"),
    ("exp", "Exp"),
    ("log", "Log"),
    ("sqrt", "Sqrt"),  # x ** 0.5
    ("tanh", "Tanh"),
)
_RECORDED: dict[str, Callable[..., GraphElement]] = {
    **{name: functools.partial(operators.binary, op_type, name) for name, op_type in _BINARY},
    **{name: functools.partial(operators.unary, op_type, name) for name, op_type in _UNARY},
    "square": operators.square,  # x ** 2
}


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Node) else x


def compute(
    connect: Callable[..., GraphElement], inputs: Sequence[Any], *, is_batch: bool = True, record: bool = False
) -> Node:
    """Return what ``connect`` makes of the inputs, computed at once.

    Only the new operation is run, over the values that the inputs have; it is recorded if an input is, or if asked.
    """
    leaves = [static(_plain(x), is_batch=is_batch) if isinstance(x, np.ndarray) else x for x in inputs]
    value = connect(*leaves).as_ndarray()
    elements = [x.element if isinstance(x, Node) else None for x in inputs]
    if not record and all(element is None for element in elements):
        return Node(value)
    return Node(
        value, connect(*(leaf if element is None else element for leaf, element in zip(leaves, elements, strict=True)))
    )


class Grads:
    """Gradients of one number; made by `Node.grad`."""

    def __init__(self, element: GraphElement) -> None:
        self._element = element.backward()

    def get(self, node: Any) -> Node:
        """Return the gradient with respect to a recorded node.

        Raises:
            GradientError: the node was not recorded, or the number does not depend on it.
        """
        if not isinstance(node, Node) or node.element is None:
            raise GradientError(
                f"Grads.get: the node must have been recorded, got one that was not. {created_at(user_site())}"
            )
        return Node(self._element.get_gradient(node.element).as_ndarray())

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Let an optimizer change the parameters.

        Args:
            optimizer: default: ``Sgd(0.01, momentum=0.4)``.
        """
        self._element.update(optimizer)


def sum(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Node:
    """Sum over axes, recorded if x is.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.sum(np.array([1.0, 2.0])))
        3.0
    """
    return compute(lambda x: operators.sum(x, axis, keepdims), [np.asanyarray(x)])
