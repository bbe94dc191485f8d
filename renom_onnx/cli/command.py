"""What a command is: a name, words for its help, its arguments, and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

PROGRAM = "renom-onnx"
DONE, PROBLEM, ERROR = 0, 1, 2
"""Exit codes: it worked; it worked and found a problem; wrong usage, or an error."""


class UsageError(Exception):
    """Arguments that do not fit together."""


@dataclass(frozen=True)
class Command:
    """One command of the program. A module of `renom_onnx.cli` holds one, as ``COMMAND``.

    Attributes:
        name: as it is typed.
        summary: one line for the list of commands.
        description: a paragraph for its own help.
        examples: command lines and what they do; the files in them are those that ``renom-onnx demo`` writes.
        add_arguments: adds the command's own arguments to a parser.
        run: does it and returns the exit code. It imports what it needs itself, so that help is quick and a command
            that needs no onnxruntime runs without.
    """

    name: str
    summary: str
    description: str
    examples: tuple[tuple[str, str], ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    @property
    def epilog(self) -> str:
        """The examples as help prints them."""
        lines = ["examples (`renom-onnx demo` writes their files):"]
        for line, meaning in self.examples:
            lines += [f"  {line}", f"      {meaning}"]
        return "\n".join(lines)
