"""``renom-onnx show``: a table, a tree, or an interactive picture of a model."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from renom_onnx.cli.arguments import add_model, add_sizes, file_text, print_json, sizes
from renom_onnx.cli.command import DONE, Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    add_sizes(parser)
    parser.add_argument(
        "--training", action="store_true", help="of a trainable file, the nodes of its training step too"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--layers", action="store_true", help="one row for each layer: nodes whose names begin alike")
    form.add_argument("--tree", action="store_true", help="a line for each node, with depth and tag")
    form.add_argument("--html", type=Path, metavar="PAGE", help="write a page that shows the graph in a browser")
    parser.add_argument("--open", action="store_true", help="open the page of --html in the browser")


def run(options: argparse.Namespace) -> int:
    """Print a table or tree, or write a page."""
    from renom_onnx.converters import summarize, write_page

    batch_size = options.batch_size or 1
    if options.html is not None:
        write_page(options.model, options.html, batch_size=batch_size, sizes=sizes(options))
        if options.json:
            print_json({"page": str(options.html)})
        else:
            print(f"Wrote {file_text(options.html)}.")
        if options.open:
            webbrowser.open(options.html.absolute().as_uri())
        return DONE
    summary = summarize(options.model, batch_size=batch_size, sizes=sizes(options), training=options.training)
    if options.layers:
        summary = summary.by_layer()
    if options.json:
        print_json(summary.to_dict())
    else:
        print(summary.tree() if options.tree else summary)
    return DONE


COMMAND = Command(
    "show",
    "show a model: a table of nodes or layers, a tree, or a picture in the browser",
    "Print a table of a model's nodes with output types, parameters and work, or write a page with an interactive "
    "picture: one HTML file that needs no network, in which forward, gradient and update nodes have three colours and "
    "functions open.",
    (
        ("renom-onnx show demo/shapes.onnx", "a row for each node, and the totals"),
        ("renom-onnx show demo/shapes.onnx --layers --batch-size 64", "a row for each layer, work for batches of 64"),
        ("renom-onnx show demo/shapes.train.onnx --tree --training", "a line for each node of the training step"),
        ("renom-onnx show demo/shapes.train.onnx --html demo/shapes.html", "the picture of graph and training step"),
    ),
    add_arguments,
    run,
)
