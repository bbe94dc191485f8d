"""Words and numbers for people, in reports and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MOST_NAMES = 4
WIDTH = 100


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return ``1 node`` or ``3 nodes``."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"


def number(n: int) -> str:
    """Return a number for people.

    Example:
        >>> number(512), number(4_089_184_256)
        ('512', '4.09 G')
    """
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size < 100 else f"{n / size:.0f} {unit}"
    return str(n)


def short_list(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def wrapped(head: str, items: Iterable[str]) -> Iterator[str]:
    """Yield items joined by commas, in lines that are not too long."""
    line, indent = head, " " * len(head)
    for i, item in enumerate(items):
        piece = item if i == 0 else f", {item}"
        if len(line) + len(piece) > WIDTH and line.strip():
            yield f"{line},"
            line, piece = indent, item
        line += piece
    yield line


def size_text(n: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_text(512), size_text(102_400), size_text(3_500_000_000)
        ('512 B', '102 kB', '3.5 GB')
    """
    text = number(n)
    return f"{text}B" if " " in text else f"{text} B"
