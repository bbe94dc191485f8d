"""An LSTM reads handwritten digits row by row: 8 steps of 8 pixels.

python -m examples.lstm
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

import renom_onnx as rm


def train(epochs: int) -> float:
    """Train and return the accuracy on images that were not trained on."""
    digits = load_digits()
    rows, labels = (digits.images / 16).astype(np.float32), digits.target
    x, y = rm.graph.DistributorElement(rows[:1500], labels[:1500], batch_size=50).get_output_graphs()

    model = rm.graph.Sequential([rm.graph.Lstm(64), rm.graph.Dense(10)])
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    history = loss.get_training_executor(rm.graph.Adam(0.005)).execute(
        epochs=epochs,
        validation=(rows[1500:], labels[1500:]),
        metrics={"accuracy": rm.runtime.metric.Accuracy()},
    )
    return history.metrics["accuracy"][-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    print(f"accuracy {train(parser.parse_args().epochs):.3f}")
