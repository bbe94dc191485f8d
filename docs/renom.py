"""``python -m docs.renom`` writes docs/renom-names.md: ReNom 3.0's names, from the data that the tests check."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.layers import renom

TARGET = Path(__file__).with_name("renom-names.md")
GROUPS = {
    "Layers": renom.LAYERS,
    "Activations": renom.ACTIVATIONS,
    "Losses": renom.LOSSES,
    "Optimizers and penalties": renom.OPTIMIZERS,
    "Basic operations": renom.OPERATIONS,
    "Data": renom.DATA,
}
INTRODUCTION = """# Names of ReNom 3.0

Written by `python -m docs.renom` from the data that the tests check: each name is importable from `rm.graph`, takes
ReNom's arguments by ReNom's words, and has ReNom's default unless the last column says another.
[from-renom.md](from-renom.md) shows how they are used; `help(rm.graph.Dense)` has formula, shapes and errors.

Layers with parameters also take `optimizer`, `parameter_decay`, `weight_decay` and `activation`."""


def page() -> str:
    """Return the page."""
    lines = [INTRODUCTION, ""]
    for title, rows in GROUPS.items():
        lines += [f"## {title}", "", "| name | other spellings | ReNom's arguments | where the default differs |"]
        lines += ["|---|---|---|---|", *(_row(name, row) for name, row in rows.items()), ""]
    functions = ", ".join(f"`{name}`" for name in renom.FUNCTIONS)
    initializers = ", ".join(f"`{name}`" for name in renom.INITIALIZERS)
    lines += [
        "## Functions and initializers",
        "",
        f"Functions of `rm.graph`: {functions}.",
        "",
        f"Initializers, in `rm.utility.initializer` and `rm.graph.train.initializer`: {initializers}.",
        "",
        "## What is not here",
        "",
        "| name | why |",
        "|---|---|",
        *(f"| `{name}` | {why} |" for name, why in renom.OUT.items()),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, row: renom.Row) -> str:
    arguments = {key: value for key, value in row.arguments.items() if key not in renom.WEIGHTS}
    shown = ", ".join(key if value is ... else f"{key}={value!r}" for key, value in arguments.items())
    differs = "; ".join(f"`{key}`: {why}" for key, why in row.differs.items())
    return (
        f"| `{name}` | {', '.join(f'`{other}`' for other in row.others)} | {f'`{shown}`' * bool(shown)} | {differs} |"
    )


if __name__ == "__main__":
    TARGET.write_text(page(), "utf-8")
    sys.stdout.write(f"Wrote {TARGET.name}.\n")
