"""Train a small network on handwritten digits, write it as ONNX, and check the files in a stock onnxruntime.

    python -m examples.digits

The images come with scikit-learn, so nothing is downloaded. Exit code 0 means that every check passed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

import renom_onnx as rm

Array = np.ndarray[Any, Any]

BATCH_SIZE = 32
LEARNING_RATE = 0.004
N_TEST = 360
ACCURACY = 0.97
"""What the network must reach on images that it was not trained on."""
TOLERANCE = 1e-5
"""By how much probabilities may differ between the program and the files."""


class Digits(NamedTuple):
    """Images float32 (N, 1, 8, 8) from 0 to 1 and the digits int64 (N,) that they show."""

    images: Array
    labels: Array


def load() -> tuple[Digits, Digits]:
    """Return 1437 digits to train on and 360 to test on, the same ones every time."""
    bunch = load_digits()
    images, labels = (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:-N_TEST], order[-N_TEST:]
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


def network() -> rm.graph.Sequential:
    """Return an untrained network: scores (N, 10) for images (N, 1, 8, 8)."""
    return rm.graph.Sequential(
        [
            rm.graph.Conv(16, kernel=3, padding=1),
            rm.graph.Relu(),
            rm.graph.Conv(32, kernel=3, padding=1, stride=2),
            rm.graph.Relu(),
            rm.graph.Flatten(),
            rm.graph.Dense(10),
        ]
    )


def train_and_write(train: Digits, test: Digits, epochs: int, folder: Path) -> Array:
    """Train, write digits.onnx, digits.train.onnx and digits.png, and return the scores of the test images."""
    rm.set_seed(0)
    x, y = rm.graph.DistributorElement(*train, batch_size=BATCH_SIZE, shuffle=True).get_output_graphs()
    model = network()
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    optimizer = rm.graph.Adam(LEARNING_RATE)
    executor = loss.get_training_executor(optimizer)

    n_steps = epochs * -(-len(train.labels) // BATCH_SIZE)
    accuracies: list[float] = []

    def note_accuracy(epoch: rm.runtime.Epoch) -> None:
        accuracies.append(accuracy(executor.session.evaluate({"x": test.images})["output"], test.labels))

    history = executor.execute(
        epochs,
        validation=test,
        callbacks=[note_accuracy],
        learning_rate=lambda step: LEARNING_RATE * (1 - step / n_steps),
    )
    rm.export(model, folder / "digits.onnx")
    rm.export_training(loss, optimizer, folder / "digits.train.onnx")
    history.plot(folder / "digits.png", accuracy=accuracies)
    scores: Array = model(test.images).as_ndarray()
    return scores


def run_in_stock_onnxruntime(path: Path, images: Array) -> Array:
    """Return the scores that a file gives; nothing of renom_onnx takes part."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores: Array = session.run(["output"], {"x": images})[0]
    return scores


def train_from_file(path: Path, train: Digits) -> tuple[float, float]:
    """Train one epoch with nothing but the file, and return the loss on the training images before and after."""
    session = rm.runtime.TrainingSession(path)
    session.learning_rate = LEARNING_RATE / 10
    everything = {"x": train.images, "y": train.labels}
    before = float(session.evaluate(everything)[session.loss_name])
    for start in range(0, len(train.labels), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        session.step({"x": train.images[rows], "y": train.labels[rows]})
    return before, float(session.evaluate(everything)[session.loss_name])


def accuracy(scores: Array, labels: Array) -> float:
    """Return the share of rows whose largest score is that of the label."""
    return float((scores.argmax(axis=1) == labels).mean())


def probabilities(scores: Array) -> Array:
    """Return softmax of the scores."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def say(text: str = "") -> None:
    """Print at once, so that the lines keep their places among the progress bars."""
    print(text, flush=True)


def short(path: Path) -> Path:
    """Return the path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def report(is_right: bool, text: str) -> bool:
    """Say how a check went, and return it."""
    say(f"  {'ok     ' if is_right else 'FAILED '} {text}")
    return is_right


def check(folder: Path, scores: Array, train: Digits, test: Digits) -> bool:
    """Check the accuracy, and the files against the program; return whether everything is right."""
    share, n_right = accuracy(scores, test.labels), int((scores.argmax(axis=1) == test.labels).sum())
    results = [
        report(
            share >= ACCURACY,
            f"{share:.1%} of the test images are recognised ({n_right} of {len(test.labels)}; wanted: {ACCURACY:.0%})",
        )
    ]
    for name in ("digits.onnx", "digits.train.onnx"):
        found = run_in_stock_onnxruntime(folder / name, test.images)
        difference = float(np.abs(probabilities(found) - probabilities(scores)).max())
        results.append(
            report(
                difference <= TOLERANCE,
                f"{name} in onnxruntime {onnxruntime.__version__}, without renom_onnx: "
                f"probabilities differ by {difference:.0e} at most (allowed: {TOLERANCE:.0e})",
            )
        )
    before, after = train_from_file(folder / "digits.train.onnx", train)
    results.append(
        report(
            after < before,
            f"digits.train.onnx trained for one more epoch, without the program that made it: "
            f"training loss {before:.4f} -> {after:.4f}",
        )
    )
    return all(results)


FILES = {
    "digits.onnx": "the model; any ONNX runtime runs it",
    "digits.train.onnx": "the same model, which also carries its training step",
    "digits.png": "loss and accuracy of every epoch",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and return the exit code: 0 if every check passed."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=16, help="passes over the training images (default: 16)")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the files (default: demo-output)"
    )
    options = parser.parse_args(arguments)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)

    train, test = load()
    say(f"Handwritten digits, 8 x 8 pixels: {len(train.labels)} to train on, {len(test.labels)} to test with.\n")
    start = time.perf_counter()
    scores = train_and_write(train, test, options.epochs, folder)
    say(f"\nTrained and wrote the files in {time.perf_counter() - start:.1f} s.\n\nChecks")
    passed = check(folder, scores, train, test)
    say("\nWritten")
    for name, what in FILES.items():
        say(f"  {folder / name!s:<30} {(folder / name).stat().st_size / 1000:5.0f} kB  {what}")
    if not passed:
        say("\nA check FAILED; see above.")
        return 1
    say(NEXT.format(folder=folder, python=short(Path(sys.executable))))
    return 0


NEXT = """
Try next
  - look at {folder}/digits.png, and open {folder}/digits.onnx at https://netron.app
  - {python} -m examples.stock_training {folder}/digits.train.onnx
    trains the file further with onnxruntime alone; nothing of renom_onnx is imported
  - {python} -m examples.draw_graph {folder}/digits.train.onnx --output {folder}/graph.png
    draws the file's training step
  - {python} -m examples.resnet, or examples.lstm, or examples.transformer
    a residual network, a bidirectional LSTM, a decoder of the GPT kind: twenty lines each
  - read README.md; examples/seed_tour.ipynb shows the interface, docs/how-it-works.md what happens inside"""


if __name__ == "__main__":
    sys.exit(main())
