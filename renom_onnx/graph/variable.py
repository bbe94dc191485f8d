"""Elements that are leaves and may be assigned to: static variables and the parameters of layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement, as_numbers
from renom_onnx.graph.node import Static, type_text
from renom_onnx.graph.optimizers import as_optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.regularizer import as_regularizer
from renom_onnx.graph.setting import OneOptimizer, OneRegularizer
from renom_onnx.graph.site import created_at, user_site

Array = np.ndarray[Any, Any]


class StaticVariable(GraphElement):
    """An array as an element; its dtype is kept.

    Args:
        value: an array, a list or a number.

    Raises:
        DTypeError: it holds something else than numbers.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x = rm.graph.StaticVariable(np.array([2]))
        >>> y = x + 1
        >>> x.value = [5]
        >>> print(x, y)
        [5] [6]
    """

    def __init__(self, value: Any) -> None:
        super().__init__(Static(as_numbers(value, "StaticVariable: an array")).output)

    @property
    def value(self) -> Array:
        """The array; what is assigned must have its shape and a type of its kind.

        Raises:
            ShapeError, DTypeError: it does not fit.
        """
        return np.array(self._static.array)

    @value.setter
    def value(self, value: Any) -> None:
        self._static.array = _fitting(value, self._static, "StaticVariable.value", "the array")

    @property
    def _static(self) -> Static:
        node = self.output.node
        assert isinstance(node, Static)
        return node


class Variable(GraphElement):
    """A parameter of a layer, as ``layer.params["w"]`` is one: its value, and who updates it.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> dense = rm.graph.Dense(1)
        >>> y = dense(np.ones((1, 2)))
        >>> dense.params["w"].set_value([[2], [3]])
        >>> print(y)
        [[5.]]
    """

    @property
    def parameter(self) -> Parameter:
        """The leaf that holds value and settings."""
        node = self.output.node
        assert isinstance(node, Parameter)
        return node

    def set_value(self, value: Any) -> None:
        """Give the parameter another value, in its type.

        Raises:
            ShapeError: the value has another shape.
            DTypeError: it holds something else than numbers.
        """
        self.parameter.array = _fitting(value, self.parameter, "Variable.set_value", self.parameter.key)

    def set_optimizer(self, optimizer: OneOptimizer, pattern: str = "*") -> None:  # type: ignore[override]
        """Give the parameter an optimizer of its own; None takes it away again."""
        self.parameter.optimizer = as_optimizer(optimizer, "set_optimizer")

    def set_regularizer(self, regularizer: OneRegularizer, pattern: str = "*") -> None:  # type: ignore[override]
        """Add a penalty to the gradient of the parameter; None takes it away again."""
        self.parameter.regularizer = as_regularizer(regularizer, "set_regularizer")

    def set_updatable(self, is_updatable: bool, pattern: str = "*") -> None:
        """Freeze the parameter, or train it again."""
        self.parameter.trainable = bool(is_updatable)

    set_weight_decay = set_regularizer
    allow_update = set_updatable


def _fitting(value: Any, leaf: Static | Parameter, caller: str, name: str) -> Array:
    array = as_numbers(value, f"{caller}: {name}")
    held = leaf.array
    rule = f"{caller}: {name} must be {type_text(held.dtype, held.shape)}, got {type_text(array.dtype, array.shape)}."
    if array.shape != held.shape:
        raise ShapeError(f"{rule} {created_at(user_site())}")
    if isinstance(leaf, Static) and not np.can_cast(array.dtype, held.dtype, "same_kind"):
        raise DTypeError(f'{rule} Convert with .astype("{held.dtype.name}"). {created_at(user_site())}')
    return array.astype(held.dtype)
