"""``renom-onnx lint``: what is wrong with a file and its training steps."""

from __future__ import annotations

import argparse

from renom_onnx.cli.arguments import add_model, print_json
from renom_onnx.cli.command import DONE, PROBLEM, Command


def run(options: argparse.Namespace) -> int:
    """Print the problems."""
    from renom_onnx.converters import lint

    problems = lint(options.model)
    if options.json:
        print_json({"model": str(options.model), "problems": problems})
    else:
        print("\n".join(problems) if problems else f"{options.model}: no problems.")
    return PROBLEM if problems else DONE


COMMAND = Command(
    "lint",
    "check a file and its training steps, which onnx.checker does not look at",
    "Check the inference graph by onnx.checker, and the training steps by the rules of the ONNX specification: "
    "bindings, names, types, operators that nobody defines. Exit code 1 means that a problem was found.",
    (
        ("renom-onnx lint demo/shapes.train.onnx", "a line for each problem"),
        ("renom-onnx lint demo/shapes.train.onnx --json", "the problems as JSON"),
    ),
    add_model,
    run,
)
