"""``renom-onnx make-trainable``: a model from wherever becomes a file that can be trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from renom_onnx.cli.arguments import add_model, file_text, positive, print_json
from renom_onnx.cli.command import DONE, Command, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the trainable file to write")
    parser.add_argument(
        "--loss",
        default="softmax_cross_entropy",
        metavar="NAME",
        help="softmax_cross_entropy (default), sigmoid_cross_entropy, cross_entropy, mean_squared, smooth_l1, or an "
        "output of the model that is a loss already",
    )
    parser.add_argument("--optimizer", default="adam", metavar="NAME", help="sgd, adam, adamw, lion, … (default: adam)")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="step size (default: the optimizer's)")
    parser.add_argument(
        "--train", action="append", metavar="PATTERN", help='"all" (default), "last", or names such as fc.*; repeatable'
    )
    parser.add_argument("--freeze", action="append", default=[], metavar="PATTERN", help="names that stay; repeatable")
    parser.add_argument("--classes", type=positive, metavar="N", help="give the model a new head of N units")
    parser.add_argument(
        "--output-name", metavar="NAME", help="the output that the loss compares, where there are several"
    )
    parser.add_argument("--labels", default="labels", metavar="NAME", help="name of the new input (default: labels)")
    parser.add_argument("--train-statistics", action="store_true", help="move the statistics of BatchNormalization")
    parser.add_argument("--dropout", type=float, metavar="R", help="add a Dropout of this ratio before the head")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="HOW",
        help='compute activations again in the backward pass, for less memory: "auto", a number of segments, or the '
        "names of nodes whose values are kept; repeatable",
    )
    parser.add_argument("--lora", type=positive, metavar="RANK", help="train adapters of this rank and nothing else")
    parser.add_argument("--batch-size", metavar="N", help="a number, or a name that frees a batch size the file fixes")


def run(options: argparse.Namespace) -> int:
    """Make it trainable and write it."""
    import renom_onnx as rm
    from renom_onnx.converters.export import write_file
    from renom_onnx.graph.optimizers import OPTIMIZERS

    model: Any = rm.load(options.model)
    if options.batch_size:
        size = int(options.batch_size) if options.batch_size.isdigit() else options.batch_size
        shapes = {n: (size, *e.shape[1:]) for n, e in model.inputs.items() if e.shape}
        model = rm.load(options.model, inputs=shapes)
        for name, e in model.outputs.items():
            if isinstance(size, str) and e.shape and isinstance(e.shape[0], int):
                raise UsageError(
                    f"--batch-size {size} must reach the outputs, got {name!r} with {e.shape[0]} rows: a node of the "
                    f"model fixes them. Export it again with an open first axis (PyTorch: dynamic_shapes)."
                )
    if options.classes is not None:
        model = rm.converters.replace_head(model, options.classes, output=options.output_name)
    if options.lora is not None:
        model = rm.lora(model, rank=options.lora, alpha=2 * options.lora)
    if options.optimizer.lower() not in OPTIMIZERS:
        raise UsageError(f"--optimizer must be one of {', '.join(OPTIMIZERS)}, got {options.optimizer!r}.")
    make: Any = OPTIMIZERS[options.optimizer.lower()]
    chosen = options.train or ["all"]
    plan = rm.converters.FineTuning(
        model,
        loss=options.loss,
        optimizer=make() if options.learning_rate is None else make(options.learning_rate),
        output=options.output_name,
        labels=options.labels,
        trainable=chosen[0] if len(chosen) == 1 else chosen,
        freeze=options.freeze,
        train_statistics=options.train_statistics,
        dropout=options.dropout,
        checkpoint=_checkpoint(options.checkpoint),
    )
    write_file(plan.to_model(), options.output)
    counts = {"trained": plan.trained, "frozen": plan.frozen}
    if options.json:
        print_json({"file": str(options.output), "notes": plan.notes} | {key: list(v) for key, v in counts.items()})
        return DONE
    for note in plan.notes:
        print(note, file=sys.stderr)
    print(f"Wrote {file_text(options.output)}: {', '.join(_counted(key, v) for key, v in counts.items())}.")
    return DONE


def _checkpoint(given: list[str] | None) -> Any:
    if given is None:
        return False
    return int(given[0]) if len(given) == 1 and given[0].isdigit() else given[0] if len(given) == 1 else given


def _counted(word: str, parameters: Any) -> str:
    numbers = sum(parameter.array.size for parameter in parameters.values())
    return f"{len(parameters)} parameters {word} ({numbers:,} numbers)"


COMMAND = Command(
    "make-trainable",
    "turn any ONNX model into a file that infers as before and also trains",
    "Add a training step to a model from wherever: loss, gradients and optimizer as ONNX nodes. The inference reading "
    "stays as it is. What was noticed on the way is said.",
    (
        (
            "renom-onnx make-trainable demo/shapes.onnx demo/tuned.train.onnx --train last",
            "train the last layer alone",
        ),
        (
            "renom-onnx make-trainable demo/shapes.onnx demo/two.train.onnx --classes 2 --learning-rate 0.002",
            "a new head for two classes",
        ),
        ("renom-onnx make-trainable demo/shapes.onnx demo/lora.train.onnx --lora 4 --json", "adapters of rank 4"),
    ),
    add_arguments,
    run,
)
