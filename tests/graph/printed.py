"""What `print_tree` prints, in a short form: `Add (F) 1` for `I am a Add (F) at depth 1 with tags: ['Forward']`."""

import contextlib
import io
import re

from renom_onnx.graph import GraphElement


def printed(element: GraphElement) -> str:
    """Return all that `print_tree` writes to stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert element.print_tree() is None
    return out.getvalue()


def short(element: GraphElement) -> list[str]:
    """Return name and depth of every line; the tag must be the one that the name implies."""
    found = []
    for line in printed(element).splitlines():
        match = re.fullmatch(r"I am a (.+) at depth (\d+) with tags: \['(\w+)'\]", line)
        assert match, line
        name, depth, tag = match.groups()
        implied = "Backward" if name.endswith("(B)") else "Update" if name == "Update" else "Forward"
        assert tag == implied, line
        found.append(f"{name} {depth}")
    return found


def lines(text: str) -> list[str]:
    """Return the expected lines of an indented block, in the short form."""
    return [line.strip() for line in text.strip().splitlines()]
