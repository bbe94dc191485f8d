"""``renom-onnx doctor``: what would happen to a model, before anything runs."""

from __future__ import annotations

import argparse

from renom_onnx.cli.arguments import add_model, add_sizes, print_json, sizes
from renom_onnx.cli.command import DONE, PROBLEM, Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    add_sizes(parser)
    parser.add_argument("--no-cpu", action="store_true", help="do not ask onnxruntime which nodes the CPU can run")
    parser.add_argument("--to-train", action="store_true", help="it is a problem too if nothing in it can be trained")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from renom_onnx.converters import doctor

    report = doctor(options.model, batch_size=options.batch_size, sizes=sizes(options), ask_cpu=not options.no_cpu)
    if options.json:
        print_json(report.to_dict())
    else:
        print(report)
    is_fine = report.is_sound and (report.trained or not options.to_train)
    return DONE if is_fine else PROBLEM


COMMAND = Command(
    "doctor",
    "tell what would happen to a model: what trains, what it takes, where it runs, what is dangerous",
    "Examine a model before anything runs: which operators have gradients and which parameters would train, memory and "
    "work, which nodes the CPU and CUDA take, where it cannot be opened, and what is dangerous in the file. Nothing of "
    "the model is run, and no other file is read. Exit code 1 means that a danger or problem was found.",
    (
        ("renom-onnx doctor demo/shapes.onnx", "the whole report, for one row of data"),
        ("renom-onnx doctor demo/shapes.onnx --batch-size 64", "memory and work for batches of 64"),
        ("renom-onnx doctor demo/shapes.onnx --to-train", "for scripts: exit code 0 only if it is sound and can train"),
        ("renom-onnx doctor demo/shapes.train.onnx --json", "the report as JSON"),
    ),
    add_arguments,
    run,
)
