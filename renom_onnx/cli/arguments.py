"""Arguments that several commands share, and how their values are read and printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from renom_onnx.cli.command import UsageError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model, which is the first argument of most commands."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="an .onnx file")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of symbols in shapes."""
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="size of the first axis of inputs, where the file leaves it open",
    )
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help="size of another open axis; can be repeated"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device to run on."""
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: the best there is)")


def positive(text: str) -> int:
    """Return a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number of 1 or more, got {text!r}")
    return number


def sizes(options: argparse.Namespace) -> dict[str, int]:
    """Return the sizes given by --size.

    Raises:
        UsageError: one is not of the form NAME=N.
    """
    found = {}
    for text in options.size:
        name, _, number = text.partition("=")
        if not name or not number.isdigit():
            raise UsageError(f"--size must be NAME=N with a whole number, got {text!r}.")
        found[name] = int(number)
    return found


def print_json(value: Any) -> None:
    """Print a value for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def file_text(path: Path) -> str:
    """Return a file's name and size for people."""
    from renom_onnx.converters.doctor.wording import size_text

    return f"{path} ({size_text(path.stat().st_size)})"
