"""A bidirectional LSTM reads handwritten digits row by row: sequences of 8 steps of 8 pixels.

    python -m examples.lstm

The images come with scikit-learn. After training, the file that it wrote recognises the test images in a stock
onnxruntime. Exit code 0 means that it is good at it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import renom_onnx as rm
from examples.digits import Digits, accuracy, load, run_in_stock_onnxruntime


def network(units: int = 48) -> rm.graph.Sequential:
    """Return an untrained network: scores (N, 10) for sequences (N, 8, 8)."""
    return rm.graph.Sequential(
        [
            rm.graph.Lstm(units, return_sequences=True, bidirectional=True),
            rm.graph.Dropout(0.3),
            rm.graph.Lstm(units, bidirectional=True),  # what both directions know at their last step
            rm.graph.Dropout(0.3),
            rm.graph.Dense(10),
        ]
    )


def train(path: Path, epochs: int, digits: Digits, test: Digits) -> rm.runtime.History:
    """Train, write the model and return losses and accuracies."""
    rm.set_seed(0)
    x, y = rm.graph.DistributorElement(*digits, batch_size=32).get_output_graphs()
    model = network()
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    executor = loss.get_training_executor(rm.graph.Adam(clip_norm=1.0))
    n_steps = epochs * -(-len(digits.labels) // 32)
    history = executor.execute(
        epochs,
        validation=test,
        metrics={"accuracy": rm.runtime.metric.Accuracy()},
        learning_rate=rm.graph.schedule.Cosine(0.006, n_steps),
    )
    rm.export(model, path)
    print(f"{sum(p.array.size for p in model.parameters())} parameters", flush=True)
    return history


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, let the file recognise the test images, and return 0 if it is good at it."""
    parser = argparse.ArgumentParser(prog="python -m examples.lstm", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training images (default: 12)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder of the file")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "lstm.onnx"
    rows, test = (Digits(images[:, 0], labels) for images, labels in load())
    train(path, options.epochs, rows, test)

    share = accuracy(run_in_stock_onnxruntime(path, test.images), test.labels)
    print(f"{share:.1%} of the {len(test.labels)} test images are recognised by {path}, run by onnxruntime alone.")
    return 0 if share > 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
