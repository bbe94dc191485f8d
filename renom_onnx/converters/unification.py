"""Shapes that a file declares met with those of operands: its symbols stand for the operands' sizes."""

from __future__ import annotations

from renom_onnx.graph import schema
from renom_onnx.graph.body import Type
from renom_onnx.graph.node import UNKNOWN_DIM, Dim, Shape, unknown_dim


class Symbols:
    """What the symbols of a file stand for in one call of its model."""

    def __init__(self) -> None:
        self._found: dict[str, Dim] = {}

    def meet(self, declared: Dim, actual: Dim) -> str:
        """Let a declared size be an actual one; return what must hold if it cannot, else ""."""
        if isinstance(declared, int):
            is_fit = declared == actual or is_unknown(actual)
            return "" if is_fit else "with the sizes that the file fixes"
        if is_unknown(declared):
            return ""
        found = self._found.setdefault(declared, actual)
        if isinstance(found, str):
            self._found[declared] = actual if isinstance(actual, int) else found
            return ""
        return "" if found == actual or isinstance(actual, str) else f"with {declared} = {found} as in another input"

    def replaced(self, shape: Shape | None) -> Shape | None:
        """Return a shape of the file in the sizes of the call; sizes that only the run will know are the call's own."""
        if shape is None:
            return None
        return tuple(d if isinstance(d, int) else self._found.setdefault(d, unknown_dim()) for d in shape)


def is_unknown(dim: Dim) -> bool:
    """Whether only the run will know the size."""
    return isinstance(dim, str) and dim.startswith(UNKNOWN_DIM)


def fit(symbols: Symbols, declared: Shape | None, actual: Shape | None) -> str:
    """Let a declared shape be an actual one; return what must hold if it cannot, else ""."""
    if declared is None or actual is None:
        return ""
    if len(declared) != len(actual):
        return f"with {len(declared)} axes"
    for pair in zip(declared, actual, strict=True):
        if problem := symbols.meet(*pair):
            return problem
    return ""


def merged(inferred: Type, declared: Type) -> Type:
    """Return what was inferred of a value, and what the file declares of it where that is more."""
    dtype = declared[0] if schema.encoded_type(inferred[0]) == b"" else inferred[0]
    a, b = inferred[1], declared[1]
    if a is None or b is None or len(a) != len(b):
        return dtype, b if a is None else a
    return dtype, tuple(n if is_unknown(m) else m for m, n in zip(a, b, strict=True))
