"""A transformer reads handwritten digits: each row of 8 pixels is a token.

python -m examples.transformer
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

import renom_onnx as rm


class Block(rm.graph.Model):
    """Attention and a small network, each normalised before and added to what it was given."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = rm.graph.LayerNormalize(), rm.graph.LayerNormalize()
        self.attention = rm.graph.MultiHeadAttention(heads)
        self.wide, self.narrow = rm.graph.Dense(4 * size), rm.graph.Dense(size)

    def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
        """Return x after the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(rm.graph.relu(self.wide(self.norm2(x))))


class Transformer(rm.graph.Model):
    """Two blocks over embedded rows, and a vote of all rows."""

    def __init__(self, size: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.position = rm.graph.Dense(size), rm.graph.PositionalEmbedding()
        self.blocks = [Block(size, heads), Block(size, heads)]
        self.norm, self.head = rm.graph.LayerNormalize(), rm.graph.Dense(10)

    def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
        """Return the scores of the ten digits."""
        x = self.position(self.embed(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


def train(epochs: int) -> float:
    """Train and return the accuracy on images that were not trained on."""
    digits = load_digits()
    rows, labels = (digits.images / 16).astype(np.float32), digits.target
    x, y = rm.graph.DistributorElement(rows[:1500], labels[:1500], batch_size=50).get_output_graphs()
    loss = rm.graph.SoftmaxCrossEntropy()(Transformer()(x), y)
    steps = 30 * epochs
    history = loss.get_training_executor(rm.graph.AdamW(clip_norm=1.0)).execute(
        epochs=epochs,
        validation=(rows[1500:], labels[1500:]),
        learning_rate=rm.graph.schedule.WarmUp(rm.graph.schedule.Cosine(0.003, n_steps=steps), warmup_steps=30),
        metrics={"accuracy": rm.runtime.metric.Accuracy()},
    )
    return history.metrics["accuracy"][-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    print(f"accuracy {train(parser.parse_args().epochs):.3f}")
