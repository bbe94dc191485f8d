"""Names of values and nodes, in a graph and in what is written inside it: calls that are written out, and bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from renom_onnx.graph.node import Value


class Names:
    """Names of the values and nodes of one graph; every name is given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._inner: set[str] = set()
        self._values: dict[Value, str] = {}
        self._nodes: set[str] = set()
        self._numbers: dict[tuple[bool, str], int] = {}

    def fresh(self, name: str) -> str:
        """Return the name, with a number if it is taken, and take it."""
        unique = self._number(name, lambda name: name in self._inner or self.is_seen(name), of_node=False)
        self._taken.add(unique)
        return unique

    def fresh_node(self, name: str) -> str:
        """Return a node name likewise; nodes and values do not share names."""
        unique = self._number(name, self._nodes.__contains__, of_node=True)
        self._nodes.add(unique)
        return unique

    def take_nodes(self, names: Iterable[str]) -> None:
        """Give these node names to nobody from now on."""
        self._nodes.update(names)

    def _number(self, name: str, is_taken: Callable[[str], bool], *, of_node: bool) -> str:
        """Return the name with the smallest number that is free; the last one is kept, so that this is no search."""
        unique = name
        if is_taken(name):
            number = self._numbers.get((of_node, name), 2)
            while is_taken(unique := f"{name}_{number}"):
                number += 1
            self._numbers[of_node, name] = number + 1
        return unique

    def is_seen(self, name: str) -> bool:
        """Whether a node of the graph, or of a body in it, may read a value of this name."""
        return name in self._taken

    def keep_for_body(self, name: str) -> None:
        """Give the name to nobody from now on, because a body in the graph has it; other bodies may have it too."""
        self._inner.add(name)

    def give(self, value: Value, name: str) -> str:
        """Name a value, or return the name that it has."""
        if value not in self._values:
            self._values[value] = self.fresh(name)
        return self._values[value]

    def fix(self, value: Value, name: str) -> None:
        """Give a value exactly this name."""
        self._taken.add(name)
        self._values[value] = name

    def of(self, value: Value) -> str:
        """Return the name of a value that has one."""
        return self._values[value]

    def __contains__(self, value: Value) -> bool:
        return value in self._values


class CallNames(Names):
    """Names inside a call that is written out: values are the call's own, names are the graph's."""

    def __init__(self, outer: Names, prefix: str) -> None:
        super().__init__()
        self._outer = outer
        self._prefix = prefix

    def fresh(self, name: str) -> str:
        return self._outer.fresh(name if name.startswith(self._prefix) else f"{self._prefix}/{name}")

    def fresh_node(self, name: str) -> str:
        return self._outer.fresh_node(name)

    def is_seen(self, name: str) -> bool:
        return self._outer.is_seen(name)

    def keep_for_body(self, name: str) -> None:
        self._outer.keep_for_body(name)


class BodyNames(Names):
    """Names in a body: they differ from each other and from those around it, which the body sees."""

    def __init__(self, outer: Names) -> None:
        super().__init__()
        self._outer = outer

    def see(self, value: Value, name: str) -> None:
        """Call a value by the name that it has outside."""
        self._values[value] = name

    def fresh(self, name: str) -> str:
        unique = super().fresh(name)
        self._outer.keep_for_body(unique)
        return unique

    def fresh_node(self, name: str) -> str:
        return self._outer.fresh_node(name)

    def is_seen(self, name: str) -> bool:
        return super().is_seen(name) or self._outer.is_seen(name)

    def keep_for_body(self, name: str) -> None:
        super().keep_for_body(name)
        self._outer.keep_for_body(name)
