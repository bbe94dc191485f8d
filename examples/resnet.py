"""A residual network recognises handwritten digits: convolutions, batch normalization, shortcuts.

    python -m examples.resnet

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


class Block(rm.graph.Model):
    """Two normalized convolutions, added to a shortcut; a stride of 2 halves the image."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = rm.graph.Conv(channels, 3, 1, stride, bias=False), rm.graph.BatchNormalize()
        self.conv2, self.norm2 = rm.graph.Conv(channels, 3, 1, bias=False), rm.graph.BatchNormalize()
        self.shortcut = rm.graph.Conv(channels, 1, 0, stride, bias=False) if stride > 1 else None

    def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
        """Return (N, channels, H / stride, W / stride)."""
        y = self.norm2(self.conv2(rm.graph.relu(self.norm1(self.conv1(x)))))
        return rm.graph.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def network() -> rm.graph.Sequential:
    """Return an untrained network: scores (N, 10) for images (N, 1, 8, 8)."""
    stem = [rm.graph.Conv(16, 3, 1, bias=False), rm.graph.BatchNormalize(), rm.graph.Relu()]
    blocks = [Block(16), Block(32, stride=2), Block(64, stride=2)]
    return rm.graph.Sequential([*stem, *blocks, rm.graph.GlobalAvgPool(), rm.graph.Flatten(), rm.graph.Dense(10)])


def train(path: Path, epochs: int, digits: Digits, test: Digits) -> rm.runtime.History:
    """Train, write the model and return losses and accuracies."""
    rm.set_seed(0)
    x, y = rm.graph.DistributorElement(*digits, batch_size=64).get_output_graphs()
    model = network()
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    model.set_regularizer(rm.graph.L2(5e-4), "*w")  # the filters; shifts need no penalty
    executor = loss.get_training_executor(rm.graph.Sgd(0.1, momentum=0.9, nesterov=True))
    n_steps = epochs * -(-len(digits.labels) // 64)
    history = executor.execute(
        epochs,
        validation=test,
        metrics={"accuracy": rm.runtime.metric.Accuracy()},
        learning_rate=rm.graph.schedule.OneCycle(0.1, n_steps),
    )
    rm.export(model, path)
    print(f"{sum(p.array.size for p in model.parameters())} parameters and running statistics", flush=True)
    return history


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, let the file recognise the test images, and return 0 if it is good at it."""
    parser = argparse.ArgumentParser(prog="python -m examples.resnet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training images (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder of the file")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "resnet.onnx"
    images, test = load()
    train(path, options.epochs, images, test)

    scores = run_in_stock_onnxruntime(path, test.images)
    wrong = scores.argmax(axis=1) != test.labels
    for found, label in list(zip(scores[wrong].argmax(axis=1), test.labels[wrong], strict=True))[:5]:
        print(f"{label} was taken for {found}")
    share = accuracy(scores, test.labels)
    print(f"{share:.1%} of the {len(test.labels)} test images are recognised by {path}, run by onnxruntime alone.")
    return 0 if share > 0.97 else 1


if __name__ == "__main__":
    sys.exit(main())
