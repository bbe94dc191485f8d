"""The program: parses the command line, runs a command, and tells what went wrong in one line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from renom_onnx.cli.command import DONE, ERROR, PROGRAM, Command, UsageError
from renom_onnx.errors import RenomError

MODULES = ("demo", "doctor", "show", "lint", "make_trainable", "train", "infer", "export", "devices")
"""Modules of this folder with a COMMAND each, in the order of the help."""
INTERRUPTED = 130

DESCRIPTION = "Look into ONNX models, run them, change them and train them."
EPILOG = """\
Start with `renom-onnx demo`: it trains a small network and writes the files that the examples of every command use.

exit codes: 0 it worked, 1 it worked and found a problem, 2 wrong usage or an error"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Wraps a paragraph, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


def commands() -> dict[str, Command]:
    """Return the commands by name."""
    found = [importlib.import_module(f"renom_onnx.cli.{module}").COMMAND for module in MODULES]
    return {command.name: command for command in found}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from renom_onnx import __version__

    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--json", action="store_true", help="print JSON for machines, errors too")
    everywhere.add_argument("--debug", action="store_true", help="print the traceback of an error")
    whole = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=Help)
    whole.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parts = whole.add_subparsers(dest="command", metavar="command", required=True)
    for command in commands().values():
        part = parts.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=command.epilog,
            formatter_class=Help,
            parents=[everywhere],
        )
        command.add_arguments(part)
        part.set_defaults(run=command.run)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Example:
        >>> main(["lint", "nothing.onnx", "--json"])
        {"error": "No such file or directory: nothing.onnx"}
        2
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    whole = parser()
    if not given:
        whole.print_help()
        return ERROR
    try:
        options = whole.parse_args(given)
    except SystemExit as stop:  # argparse has printed help or what is wrong
        return int(stop.code or DONE)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print(f"{PROGRAM} {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _fail(error, options)
    return code


def _fail(error: Exception, options: argparse.Namespace) -> int:
    if options.debug:
        traceback.print_exc()
    text = message(error)
    if options.json:
        print(json.dumps({"error": text}))
    elif not options.debug:
        print(f"{PROGRAM} {options.command}: {text}", file=sys.stderr)
    return ERROR


def message(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {os.fsdecode(error.filename)}"
    text = " ".join(str(error).split())
    if isinstance(error, RenomError | OSError | UsageError):
        return text
    return f"{type(error).__name__}: {text} (this should not happen: --debug tells where)"
