"""``renom-onnx train``: train a trainable file on data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from renom_onnx.cli.arguments import add_model, file_text, positive, print_json
from renom_onnx.cli.command import DONE, Command, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="an .npz with an array for each input, NAME=FILE.npy for each, a .csv with --columns, or a folder of "
        "images with a folder for each class",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write checkpoints (default: MODEL itself)"
    )
    parser.add_argument("--epochs", type=positive, default=10, metavar="N", help="passes over the data (default: 10)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="rows of a step (default: 32)")
    parser.add_argument(
        "--validation", type=float, metavar="SHARE", help="share of the rows to validate on, such as 0.2"
    )
    parser.add_argument("--learning-rate", type=float, metavar="R", help="step size (default: the file's)")
    parser.add_argument(
        "--columns", action="append", default=[], metavar="INPUT=A,B", help="columns of a .csv for an input; repeatable"
    )
    parser.add_argument("--mean", type=_numbers, default=(0.0,), metavar="M", help="of image channels from 0 to 1")
    parser.add_argument("--std", type=_numbers, default=(1.0,), metavar="S", help="of image channels from 0 to 1")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint at --output, if there is one, until --epochs are done",
    )
    parser.add_argument(
        "--checkpoint-every", type=positive, metavar="N", help="steps after which to write the checkpoint too"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses as a PNG (needs matplotlib)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the inference model too")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffling and the split (default: 0)")
    parser.add_argument(
        "--device", action="append", metavar="DEVICE", help="cpu, cuda or cuda:1; repeated, they train as one"
    )
    job = parser.add_argument_group(
        "several processes", "mpiexec -n 8 renom-onnx train ... trains as one process does."
    )
    job.add_argument("--elastic", action="store_true", help="go on when a process is lost (mpiexec --with-ft ulfm)")
    job.add_argument("--wire-dtype", choices=["float16"], help="send gradients as float16")
    job.add_argument(
        "--average-every", type=positive, default=1, metavar="N", help="train apart for N steps, then average weights"
    )


def run(options: argparse.Namespace) -> int:
    """Train, write a checkpoint after every epoch, and report; of the processes of a job, rank 0 does the last two."""
    import renom_onnx as rm
    from renom_onnx.cli.training_data import read, split
    from renom_onnx.graph.distributor import Distributor

    output: Path = options.output or options.model
    rm.set_seed(options.seed)
    model = rm.load(options.model)
    if model.optimizer is None:
        raise UsageError(f"{options.model}: it must hold a training step. Give it one: renom-onnx make-trainable")
    wanted = _wanted(model)
    for w in wanted:
        if w.shape and isinstance(w.shape[0], int):
            raise UsageError(
                f"{options.model}: the batch size must be open, got {w.shape[0]} for {w.name}. Free it: renom-onnx "
                f"make-trainable MODEL OUTPUT --batch-size N"
            )
    names = [w.name for w in wanted]
    sources = read(options.data, wanted, columns=options.columns, mean=options.mean, std=options.std)
    held = None
    if options.validation is not None:
        sources, rows = split(sources, options.validation, options.seed)
        held = Distributor("train", [rows[name] for name in names], names, options.batch_size, shuffle=False)
    data = Distributor("train", [sources[name] for name in names], names, options.batch_size, shuffle=True)
    data.epoch = _epoch(options.model)
    loss = model.connect_loss(*data.get_output_graphs())
    if options.learning_rate is not None:
        model.optimizer.learning_rate = options.learning_rate
    executor = loss.get_training_executor(
        model.optimizer,
        devices=options.device,
        elastic=options.elastic,
        wire_dtype=options.wire_dtype,
        average_every=options.average_every,
    )
    is_classifier = any(w.is_target and w.dtype.kind in "iu" for w in wanted)
    judged = {"accuracy": rm.runtime.metric.Accuracy()} if is_classifier and held is not None else None
    taken: list[Any] = []
    history = executor.execute(
        options.epochs,
        callbacks=[taken.append],
        validation=held,
        metrics=judged,
        checkpoint=output,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
    )
    if options.export is not None:
        executor.session.export_inference(options.export)
    if rm.runtime.rank():
        return DONE
    if options.plot is not None:
        history.plot(options.plot)
    if not taken and not options.json:
        print("Nothing was left to train.")
    _report(options, output, history, len(data))
    return DONE


def _report(options: argparse.Namespace, output: Path, history: Any, n_rows: int) -> None:
    facts = {"losses": history.losses, "validation_losses": history.validation_losses, **history.metrics}
    if options.json:
        print_json({"file": str(output), "rows": n_rows, **facts})
        return
    for name, values in facts.items():
        if values:
            title = name.replace("_", " ").removesuffix("es") if name.endswith("losses") else name
            print(f"{title:<16} {values[0]:.4f} -> {values[-1]:.4f}")
    print(f"Wrote {file_text(output)} after {len(history.losses)} epochs over {n_rows} rows.")
    for path in (options.export, options.plot):
        if path is not None:
            print(f"Wrote {file_text(path)}.")


def _wanted(model: Any) -> list[Any]:
    """Return the inputs of the training step: those of the model, and then the targets."""
    from renom_onnx.cli.training_data import Wanted
    from renom_onnx.graph.node import Input, ancestors

    leaves = [node for node in ancestors([model.loss.output]) if isinstance(node, Input)]
    by_name = {str(leaf.name): leaf.output for leaf in leaves}
    order = [*(name for name in model.inputs if name in by_name), *(n for n in by_name if n not in model.inputs)]
    return [Wanted(n, by_name[n].dtype, by_name[n].shape, is_target=n not in model.inputs) for n in order]


def _epoch(path: Path) -> int:
    """Return how many epochs a file has been trained for."""
    from renom_onnx.converters.importer import read_model

    return next((int(entry.value) for entry in read_model(path).metadata_props if entry.key == "epoch"), 0)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be numbers with commas between them, got {text!r}") from None


COMMAND = Command(
    "train",
    "train a trainable file on arrays, a table, or a folder of images by class",
    "Train a file that make-trainable or rm.export_training wrote, and write it back after every epoch: a checkpoint "
    "from which training goes on. The optimizer and its state are in the file.",
    (
        (
            "renom-onnx train demo/shapes.train.onnx demo/shapes.npz --epochs 2 --output demo/on.onnx",
            "two more passes, over other images",
        ),
        (
            "renom-onnx train demo/shapes.train.onnx demo/images --validation 0.2 --output demo/new.onnx",
            "on a folder of images, a fifth of them held back to validate on",
        ),
        (
            "renom-onnx train demo/shapes.train.onnx demo/shapes.npz --epochs 3 --output demo/on.onnx --resume",
            "go on from the checkpoint until three passes are done",
        ),
        (
            "renom-onnx train demo/on.onnx demo/images --epochs 1 --export demo/plain.onnx --json",
            "and write the trained model for any runtime",
        ),
    ),
    add_arguments,
    run,
)
