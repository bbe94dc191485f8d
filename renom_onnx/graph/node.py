"""Nodes and values: what a tree is made of.

A `Node` is one ONNX node, or a leaf; a `Value` is one of its outputs. Forward, Backward and Update elements are all
nodes, so printing, evaluation, the reverse walk and export read one and the same graph. A node holds its inputs; a
value knows its followers weakly, so a program that rebuilds its graph in a loop leaves nothing behind.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.graph.site import Site, user_site

if TYPE_CHECKING:
    from renom_onnx.graph.function import Function
    from renom_onnx.graph.note import Note

Dim = int | str
"""A size: a number, or the name of a symbol such as "N"."""
Shape = tuple[Dim, ...]

FORWARD, BACKWARD, UPDATE = "Forward", "Backward", "Update"
BATCH = "N"
"""The symbol of the batch size, one for all of one tree."""
UNKNOWN_DIM = "?"
"""Start of the name of a size that only the run will know."""

_unknown = itertools.count()


def unknown_dim() -> str:
    """Return a symbol for a size that only the run will know; no two are the same."""
    return f"{UNKNOWN_DIM}{next(_unknown)}"


class Value:
    """One output of a node: element type, shape, and the nodes that read it."""

    __slots__ = ("__weakref__", "_followers", "dtype", "index", "name", "node", "shape")

    def __init__(
        self, node: Node, index: int, dtype: np.dtype[Any], shape: Shape | None, name: str | None = None
    ) -> None:
        self.node = node
        self.index = index
        self.dtype = dtype
        self.shape = shape
        self.name = name
        self._followers: list[weakref.ref[Node]] = []

    @property
    def rank(self) -> int | None:
        """Number of axes, or None where only the run will know."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether gradients of this value are of its own type (float16, bfloat16, float32, float64)."""
        return is_float(self.dtype)

    @property
    def followers(self) -> list[Node]:
        """The living nodes that read this value, oldest first."""
        return [node for ref in self._followers if (node := ref()) is not None]

    def add_follower(self, node: Node) -> None:
        """Remember a reader, weakly."""
        count = len(self._followers)
        if count >= 8 and count & (count - 1) == 0:
            self._followers = [ref for ref in self._followers if ref() is not None]
        self._followers.append(weakref.ref(node))

    def remove_follower(self, node: Node) -> None:
        """Forget a reader that reads something else now."""
        self._followers = [ref for ref in self._followers if ref() is not node]

    def forget_followers(self) -> None:
        """Cut this value off from everything that was built on it."""
        self._followers = []

    def __str__(self) -> str:
        return type_text(self.dtype, self.shape)


class Node:
    """One ONNX node: an operator of the standard, or the call of a function."""

    __slots__ = (
        "__weakref__",
        "attributes",
        "backward_pass",
        "casts",
        "checkpoint",
        "depth",
        "domain",
        "forward",
        "function",
        "gradient_limits",
        "inputs",
        "is_cut",
        "layers",
        "loss",
        "note",
        "op_type",
        "opset",
        "origin",
        "outputs",
        "reduction",
        "site",
        "stops_gradient",
        "tag",
        "training_copies",
        "training_form",
        "updates",
    )

    connects = True
    """Whether using this node joins its tree with the user's."""
    label = ""
    """What `print_tree` calls a node that is called otherwise than its operator."""

    def __init__(
        self,
        op_type: str,
        inputs: Sequence[Value | None] = (),
        types: Iterable[tuple[np.dtype[Any], Shape | None]] = (),
        *,
        opset: int,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        casts: Sequence[np.dtype[Any] | None] | None = None,
        function: Function | None = None,
        tag: str = FORWARD,
        site: Site | None = None,
        layers: tuple[Any, ...] = (),
        forward: Node | None = None,
        origin: Node | None = None,
        is_cut: bool = False,
        note: Note | None = None,
    ) -> None:
        self.op_type = op_type
        self.domain = domain
        self.attributes: Mapping[str, Any] = attributes or {}
        self.inputs = tuple(inputs)
        self.casts = tuple(casts) if casts is not None else (None,) * len(self.inputs)
        self.function = function
        self.tag = tag
        self.opset = opset
        self.site = site if site is not None else user_site()
        self.layers = layers
        self.note = note  # of a node that was read from a file
        self.forward = forward  # of a gradient node: the node that it differentiates
        self.origin = origin  # of a node that stands for another one in training: that one
        self.checkpoint: Any = None  # the call of a layer that keeps nothing for the gradient
        self.training_copies: list[weakref.ref[Node]] = []
        self.training_form: Any = None  # builds what the node is in training, where that differs
        if origin is not None:
            origin.training_copies.append(weakref.ref(self))
        self.is_cut = is_cut  # starts a tree of its own: the walk and the gradient end here, evaluation goes on
        self.stops_gradient = is_cut
        self.loss: tuple[Value, ...] | None = None  # of a loss: the predictions that it compares
        self.gradient_limits: Any = None  # of a loss: between which its gradients are clipped in training
        self.reduction = "sum"  # of a loss: "mean" weighs a batch by its rows in an epoch's loss
        self.backward_pass: Any = None
        self.updates: dict[Any, Any] = {}
        self.outputs = tuple(Value(self, i, dtype, shape) for i, (dtype, shape) in enumerate(types))
        read = [] if is_cut else [value for value in self.inputs if value is not None]
        self.depth: int = 1 + max((value.node.depth for value in read), default=-1)
        if origin is not None:
            self.depth = origin.depth  # in the tree it takes the place of the other
        for value in dict.fromkeys(read):
            if value.node.connects:
                value.add_follower(self)

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def copy(self, inputs: Sequence[Value | None], *, origin: Node | None = None) -> Node:
        """Return the same operator over other inputs of the same types.

        Args:
            inputs: as many as the node has.
            origin: the node that the copy stands for in training.
        """
        copy = Node(
            self.op_type,
            inputs,
            [(v.dtype, v.shape) for v in self.outputs],
            opset=self.opset,
            domain=self.domain,
            attributes=self.attributes,
            casts=self.casts,
            function=self.function,
            tag=self.tag,
            site=self.site,
            layers=() if origin is None else self.layers,
            origin=origin,
        )
        copy.stops_gradient = self.stops_gradient
        copy.loss, copy.reduction, copy.gradient_limits = self.loss, self.reduction, self.gradient_limits
        return copy

    def stand_for(self, origin: Node) -> None:
        """Take the place of another node in training; this one is no element of its own."""
        self.origin = origin
        self.depth = origin.depth
        origin.training_copies.append(weakref.ref(self))

    @property
    def is_leaf(self) -> bool:
        """Whether the value comes from outside the graph: an array, a parameter, a feed."""
        return isinstance(self, Leaf)

    def operand_types(self) -> Iterator[tuple[np.dtype[Any], Shape | None] | None]:
        """Yield element type, after the operand's conversion, and shape of every input; None for an absent one."""
        for value, cast in zip(self.inputs, self.casts, strict=True):
            yield None if value is None else (cast if cast is not None else value.dtype, value.shape)


class Leaf(Node):
    """A node without inputs; `label` is what `print_tree` calls it."""

    __slots__ = ("name",)
    label = "Leaf"

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: Shape | None,
        *,
        opset: int = 0,
        name: str | None = None,
        site: Site | None = None,
    ) -> None:
        super().__init__("", (), [(np.dtype(dtype), shape)], opset=opset, site=site)
        self.name = name
        self.output.name = name

    def fresh(self) -> Leaf:
        """Return a leaf of the same data that is part of no tree yet."""
        return self


class Constant(Leaf):
    """An array that belongs to the graph's structure: axes, shapes, the numbers in a formula. Not printed.

    One with a note is a Constant node of a file, others are initializers.
    """

    __slots__ = ("_key", "array")
    label = "Constant"
    connects = False

    def __init__(self, array: np.ndarray[Any, Any], *, site: Site | None = None, note: Note | None = None) -> None:
        super().__init__(array.dtype, array.shape, site=site)
        self.note = note
        self.array = array
        self._key: bytes | None = None

    @property
    def key(self) -> bytes:
        """The bytes of the array, for comparing structures."""
        if self._key is None:
            self._key = self.array.tobytes()
        return self._key


class Static(Leaf):
    """An array of the user's; the symbol N stands for its rows when it is data for a layer."""

    __slots__ = ("array", "is_batch")
    label = "Static Variable"

    def __init__(self, array: np.ndarray[Any, Any], *, is_batch: bool = False) -> None:
        shape: Shape = array.shape
        super().__init__(array.dtype, (BATCH, *shape[1:]) if is_batch and shape else shape)
        self.array = array
        self.is_batch = is_batch

    def fresh(self) -> Static:
        """Return a static variable of the same array."""
        return Static(self.array, is_batch=self.is_batch)


class Fixed(Static):
    """An array of a file that no training changes and that is no constant of the structure, such as an integer table.

    Like a parameter it is a leaf of every tree that uses it and connects none.
    """

    __slots__ = ()
    connects = False


class Input(Leaf):
    """A value that is fed: a placeholder, or the formal input of a function or model.

    `known` is the constant that a specialised function will be called with, for rules and shape inference.
    """

    __slots__ = ("known",)
    label = "Placeholder"

    def __init__(
        self, dtype: np.dtype[Any], shape: Shape | None, *, name: str, known: np.ndarray[Any, Any] | None = None
    ) -> None:
        super().__init__(dtype, shape, name=name)
        self.known = known


class Mutable(Leaf):
    """A value that training changes: a parameter, an optimizer's state, its learning rate."""

    __slots__ = ("_array", "source")
    connects = False

    def __init__(self, array: np.ndarray[Any, Any], *, name: str | None = None) -> None:
        super().__init__(array.dtype, array.shape, name=name)
        self._array = array
        self.source: Any = None  # whoever holds a newer value than _array; called for it when somebody looks

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """Today's value."""
        if self.source is not None:
            self._array = self.source()
            self.source = None
        return self._array

    @array.setter
    def array(self, array: np.ndarray[Any, Any]) -> None:
        self.source = None
        self._array = array


class State(Mutable):
    """A state of an optimizer or layer (momentum, step count).

    Attributes:
        suffix: completes its name: ``dense1.w.momentum``.
        initial: what it starts from.
    """

    __slots__ = ("_owner", "initial", "suffix")
    label = "State"

    def __init__(self, array: np.ndarray[Any, Any], suffix: str, owner: Any) -> None:
        super().__init__(array)
        self.initial = array
        self.suffix = suffix
        self._owner = None if owner is None else weakref.ref(owner)  # an optimizer may outlive the models it trained

    @property
    def owner(self) -> Any:
        """The parameter or layer whose it is, None for the optimizer's own."""
        return None if self._owner is None else self._owner()


@functools.lru_cache(maxsize=256)
def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether gradients can be of this type. NumPy's kind does not tell: "V" for bfloat16, "f" for an 8-bit float."""
    return dtype.name in {"float16", "bfloat16", "float32", "float64"}


def type_text(dtype: np.dtype[Any], shape: Shape | None) -> str:
    """Return ``float32[N, 3]``; sizes that only the run will know are ``?``."""
    if shape is None:
        return f"{dtype.name}[...]"
    return f"{dtype.name}[{', '.join(UNKNOWN_DIM if str(d).startswith(UNKNOWN_DIM) else str(d) for d in shape)}]"


def known_array(value: Value | None) -> np.ndarray[Any, Any] | None:
    """Return the array behind a value if the graph fixes it, else None."""
    if value is None:
        return None
    if isinstance(value.node, Constant):
        return value.node.array
    return value.node.known if isinstance(value.node, Input) else None


def ancestors(values: Iterable[Value], stop: Iterable[Node] = ()) -> list[Node]:
    """Return every node that the values need, inputs before readers, in connection order; without recursion."""
    order: list[Node] = []
    seen: set[Node] = set(stop)
    for root in values:
        if root.node in seen:
            continue
        seen.add(root.node)
        stack: list[tuple[Node, Iterator[Value | None]]] = [(root.node, iter(root.node.inputs))]
        while stack:
            node, inputs = stack[-1]
            for value in inputs:
                if value is not None and value.node not in seen:
                    seen.add(value.node)
                    stack.append((value.node, iter(value.node.inputs)))
                    break
            else:
                order.append(node)
                stack.pop()
    return order
