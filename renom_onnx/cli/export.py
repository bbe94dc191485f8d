"""``renom-onnx export``: another form of a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from renom_onnx.cli.arguments import add_model, file_text, positive, print_json
from renom_onnx.cli.command import DONE, Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    parser.add_argument("--strip", action="store_true", help="the inference model alone, without training steps")
    parser.add_argument("--inline", action="store_true", help="write functions out, for runtimes that do not know them")
    parser.add_argument("--opset", type=positive, metavar="N", help="convert to this opset; 18 to 21 run everywhere")
    parser.add_argument("--external", action="store_true", help="put large tensors into a second file beside OUTPUT")


def run(options: argparse.Namespace) -> int:
    """Convert and write."""
    from renom_onnx.converters import convert_opset, externalize, inline, strip
    from renom_onnx.converters.export import write_file
    from renom_onnx.converters.importer import default_opset, read_model

    model = read_model(options.model)
    if options.strip:
        model = strip(model)
    if options.opset is not None:
        model = convert_opset(model, options.opset)
    if options.inline:
        model = inline(model)
    if options.external:
        model = externalize(model, options.output)
    else:
        write_file(model, options.output)
    n_nodes, n_steps = len(model.graph.node), len(model.training_info)
    if options.json:
        facts = {"nodes": n_nodes, "functions": len(model.functions), "training_steps": n_steps}
        print_json({"file": str(options.output), "opset": default_opset(model), **facts})
    else:
        steps = f", {n_steps} training step{'s' if n_steps > 1 else ''}" if n_steps else ""
        print(f"Wrote {file_text(options.output)}: opset {default_opset(model)}, {n_nodes} nodes{steps}.")
    return DONE


COMMAND = Command(
    "export",
    "write another form of a file: stripped, inlined, at another opset, with external data",
    "Write a model in another form, training steps included, which onnx's own tools drop or break: stripped to the "
    "inference model, with its functions written out, at another opset, or with large tensors in a second file.",
    (
        ("renom-onnx export demo/shapes.train.onnx demo/plain.onnx --strip", "the inference model alone"),
        ("renom-onnx export demo/shapes.train.onnx demo/inlined.onnx --inline", "no functions: any runtime trains it"),
        ("renom-onnx export demo/shapes.onnx demo/opset21.onnx --opset 21", "the same at opset 21"),
        ("renom-onnx export demo/shapes.train.onnx demo/large.onnx --external", "weights in a file beside the model"),
    ),
    add_arguments,
    run,
)
