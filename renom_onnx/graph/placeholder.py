"""`Placeholder`: a value that is fed later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError, DTypeError, ShapeError
from renom_onnx.graph import parameter, tree
from renom_onnx.graph.element import GraphElement, as_numbers
from renom_onnx.graph.node import BATCH, Shape, ancestors, type_text, unknown_dim
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.splice import Splice


class Placeholder(GraphElement):
    """A value that is fed later, by `GraphElement.feed` or by an executor: a graph may be built before there are data.

    An exported model that depends on a placeholder which was not fed has an input of its name.

    Args:
        shape: sizes, the batch first, whose number is only an example: any number of rows may be fed. None is a size
            that is not known, a string a symbol.
        dtype: default float32, the type of parameters. Class indices are int64.
        name: of the input in a file.

    Raises:
        ShapeError: a size is negative or no size.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> x = rm.graph.Placeholder((None, 2), name="x")
        >>> y = rm.graph.Dense(1, initializer=rm.utility.initializer.Constant(1))(x)
        >>> print(y.feed(x, np.array([[1, 2], [3, 4]])))
        [[3.]
         [7.]]
        >>> print(y.feed(x, np.array([[5, 6]])))
        [[11.]]
    """

    def __init__(self, shape: Sequence[int | str | None], dtype: Any = None, name: str = "placeholder") -> None:
        sizes = tuple(_size(size, i, shape) for i, size in enumerate(shape))
        element_type = np.dtype(parameter.precision if dtype is None else dtype)
        super().__init__(Splice(element_type, sizes, name).output)
        self._name = name

    @property
    def name(self) -> str:
        """The name that its input has in a file."""
        return self._name


def _size(size: Any, axis: int, shape: Sequence[int | str | None]) -> int | str:
    if not (size is None or isinstance(size, str) or (isinstance(size, int | np.integer) and size >= 0)):
        raise ShapeError(
            f"Placeholder: a size must be 0 or more, None or a symbol, got {list(shape)}. {created_at(user_site())}"
        )
    if axis == 0:
        return BATCH
    return unknown_dim() if size is None else size if isinstance(size, str) else int(size)  # a NumPy number too


def feed(element: GraphElement, placeholder: Any, value: Any) -> None:
    """Let a placeholder before the element have a value, until it is fed again.

    Raises:
        ShapeError: the value has other sizes.
        DTypeError: it is of a type that cannot be converted without loss of its kind.
        ConversionError: the element does not depend on the placeholder, or the value does.
    """
    node = placeholder.output.node if isinstance(placeholder, GraphElement) else None
    if not isinstance(node, Splice):
        got = tree.printed_name(node) if node is not None else type(placeholder).__name__
        raise ConversionError(f"feed: a Placeholder must be fed, got {got}. {created_at(user_site())}")
    if node not in ancestors([element.output]):
        raise ConversionError(
            f"feed: the element must depend on the placeholder, got {tree.printed_name(element.output.node)}, which "
            f"does not depend on {node.name!r}. {created_at(user_site())}"
        )
    if isinstance(value, GraphElement):
        _feed_element(node, value)
    else:
        node.hold(_as_fed(node, value))


def _feed_element(node: Splice, value: GraphElement) -> None:
    source = value.output
    if node in ancestors([source]):
        raise ConversionError(
            f"feed: the value must not depend on the placeholder, got {tree.printed_name(source.node)}, which depends "
            f"on {node.name!r}. {created_at(user_site())}"
        )
    _check(node, source.dtype, source.shape)
    node.read(source, None if source.dtype == node.output.dtype else node.output.dtype)


def _as_fed(node: Splice, value: Any) -> np.ndarray[Any, Any]:
    """Return a number as one row filled with it, and an array in the type of the placeholder."""
    array = as_numbers(value, f"feed: placeholder {node.name!r}")
    wanted = node.output
    if not array.shape and wanted.shape:
        array = np.full((1, *(d if isinstance(d, int) else 1 for d in wanted.shape[1:])), array)
    _check(node, array.dtype, array.shape)
    return array.astype(wanted.dtype, copy=False)


def _check(node: Splice, dtype: np.dtype[Any], shape: Shape | None) -> None:
    wanted = node.output
    rule = f"feed: placeholder {node.name!r} must be given {wanted}, got {type_text(dtype, shape)}."
    if shape is not None and wanted.shape is not None:
        pairs = zip(wanted.shape, shape, strict=False)
        if len(shape) != len(wanted.shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
        ):
            raise ShapeError(f"{rule} {created_at(user_site())}")
    if dtype != wanted.dtype and not np.can_cast(dtype, wanted.dtype, "same_kind"):
        raise DTypeError(f'{rule} Convert with .astype("{wanted.dtype.name}"). {created_at(user_site())}')
