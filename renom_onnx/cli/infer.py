"""``renom-onnx infer``: run a model on data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from renom_onnx.cli.arguments import add_device, add_model, file_text, positive, print_json, sizes
from renom_onnx.cli.command import DONE, Command, UsageError

if TYPE_CHECKING:
    from renom_onnx.runtime.feed import FeedSpec

Array = np.ndarray[Any, Any]
MOST_LISTED = 1000
"""Numbers of an output that --json prints."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model(parser)
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="arrays: an .npz with one for each input, NAME=FILE.npy, or a .npy for the only input",
    )
    parser.add_argument("--random", action="store_true", help="feed random numbers instead")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="rows at a time (default: all; of --random: 1)"
    )
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help="of --random: size of an open axis"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as .npz, or one as .npy")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the model and print or write the results."""
    from renom_onnx.runtime import InferenceSession

    session = InferenceSession(options.model, options.device)
    if options.random == bool(options.data):
        raise UsageError("give data or --random, and not both.")
    if options.random:
        feeds = random_feeds(session.inputs, sizes(options), options.batch_size or 1)
    else:
        feeds = fitted(session.inputs, read_arrays(options.data, [spec.name for spec in session.inputs]))
    results = run_in_batches(session, feeds, None if options.random else options.batch_size)
    if options.output is not None:
        write_arrays(options.output, results)
    if options.json:
        print_json({"outputs": {name: _plain(array) for name, array in results.items()}, "device": str(session.device)})
        return DONE
    for name, array in results.items():
        print(f"{name} {array.dtype.name}{list(array.shape)}")
        if options.output is None:
            print(np.array2string(array, threshold=60, edgeitems=3, precision=6, max_line_width=100))
    if options.output is not None:
        print(f"Wrote {file_text(options.output)}.")
    return DONE


def _plain(array: Array) -> dict[str, Any]:
    facts: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return {**facts, "values": array.tolist()} if array.size <= MOST_LISTED else facts


def read_arrays(data: Sequence[str], inputs: Sequence[str]) -> dict[str, Array]:
    """Return the arrays of files, by the name of the input.

    Raises:
        UsageError: a file is no array, or it is not said for which input.
    """
    found: dict[str, Array] = {}
    for text in data:
        name, _, path = text.rpartition("=")
        loaded = _load(Path(path))
        if isinstance(loaded, dict):
            if name:
                raise UsageError(f"{path} holds arrays by name: give it without {name}=.")
            known = {key: array for key, array in loaded.items() if key in inputs}
            if left := sorted(loaded.keys() - known.keys()):
                print(f"not fed, because the model has no such input: {', '.join(left)}", file=sys.stderr)
            found.update(known)
        elif name or len(inputs) == 1:
            found[name or inputs[0]] = loaded
        else:
            raise UsageError(f"{path}: say for which input it is, as in {inputs[0] if inputs else 'x'}={path}.")
    return found


def _load(path: Path) -> Array | dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path}: it must be an .npy or .npz file of plain arrays, got: {error}") from error


def fitted(specs: Sequence[FeedSpec], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays in the element types that the model wants, where none of their kind is lost."""
    types = {spec.name: spec.dtype for spec in specs}
    found = {}
    for name, array in arrays.items():
        wanted = types.get(name) or array.dtype
        if array.dtype != wanted and np.can_cast(array.dtype, wanted, "same_kind"):
            print(f"{name}: converted from {array.dtype.name} to {wanted.name}", file=sys.stderr)
            array = array.astype(wanted)
        found[name] = array
    return found


def random_feeds(specs: Sequence[FeedSpec], given: Mapping[str, int], batch_size: int) -> dict[str, Array]:
    """Return random arrays for every input; integers are 0 or 1.

    Raises:
        UsageError: the size of an axis is not known.
    """
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in specs:
        shape = []
        for axis, dim in enumerate(spec.shape or ()):
            size = dim if isinstance(dim, int) else given.get(dim, batch_size if axis == 0 else None)
            if size is None:
                raise UsageError(f"--random: the size of {dim} must be given, as in --size {dim}=8.")
            shape.append(size)
        if spec.dtype.kind in "iub":
            feeds[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
    return feeds


def run_in_batches(session: Any, feeds: Mapping[str, Array], batch_size: int | None) -> dict[str, Array]:
    """Return the outputs, joined along their first axis."""
    n_rows = {array.shape[0] for array in feeds.values() if array.ndim}
    if batch_size is None or len(n_rows) != 1 or next(iter(n_rows)) <= batch_size:
        outputs: dict[str, Array] = session.run(feeds)
        return outputs
    parts = [session.run(batch) for batch in _batches(feeds, next(iter(n_rows)), batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batches(feeds: Mapping[str, Array], n_rows: int, batch_size: int) -> Iterator[dict[str, Array]]:
    for start in tqdm(range(0, n_rows, batch_size), unit="batch", file=sys.stderr, disable=None):
        yield {name: array[start : start + batch_size] for name, array in feeds.items()}


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as .npz, or one as .npy.

    Raises:
        UsageError: the name ends in neither, or one .npy cannot hold them all.
    """
    from renom_onnx.graph.whole_file import write_whole

    save: Any = np.savez
    if path.suffix == ".npz":
        write_whole(path, lambda file: save(file, **arrays))
    elif path.suffix == ".npy" and len(arrays) == 1:
        write_whole(path, lambda file: np.save(file, next(iter(arrays.values()))))
    else:
        raise UsageError(f"--output must end in .npz, or in .npy where there is one output, got {path}.")


COMMAND = Command(
    "infer",
    "run a model on arrays from files, or on random numbers",
    "Run a model, of a trainable file its inference reading, on arrays from .npz or .npy files, and print the results "
    "or write them. Numbers are converted where their kind stays: float64 to float32, but never floats to integers.",
    (
        ("renom-onnx infer demo/shapes.onnx demo/shapes.npz --batch-size 64", "the outputs for the arrays of a file"),
        ("renom-onnx infer demo/shapes.onnx demo/one.npy --output demo/scores.npy", "one array in, one array out"),
        ("renom-onnx infer demo/shapes.onnx x=demo/one.npy --json --device cpu", "on the CPU, printed as JSON"),
        ("renom-onnx infer demo/shapes.onnx --random --batch-size 8", "to see whether it runs, without data"),
    ),
    add_arguments,
    run,
)
