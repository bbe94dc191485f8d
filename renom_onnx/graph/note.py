"""What a file says of a node beside what it computes: names, documentation, the encoding of its attributes.

Nothing but the writing of files looks at it, and nobody but `renom_onnx.converters` reads the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Note:
    """Belongs to a node that was read from a file, so that an export writes the node as it was.

    Attributes:
        name: the node's name there; "" for none.
        rest: fields of the node that have no meaning for the graph (documentation, metadata), encoded.
        attributes: encoded attributes, by name, whose encoding says more than their value (documentation, the name of a
            tensor, the type of an empty list).
        version: of the node's domain; 0 for the default domain.
        overload: of the function that the node calls.
        n_outputs: how many outputs the node has there, unnamed ones included.
    """

    name: str = ""
    rest: bytes = b""
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    version: int = 0
    overload: str = ""
    n_outputs: int = 0


@dataclass(frozen=True)
class Opaque:
    """An attribute that no part of the program looks into (a type, a sparse tensor): carried as the file encodes it."""

    data: bytes
