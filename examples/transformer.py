"""A transformer of the GPT kind learns to sort: it reads six digits and writes them in order, one after the other.

    python -m examples.transformer

At every position it predicts the next token of a sequence that holds question and answer. The data are generated. After
training, the file that it wrote answers new questions in a stock onnxruntime. Exit code 0 means that it sorts them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import renom_onnx as rm

Array = np.ndarray[Any, Any]

LENGTH = 6
"""Digits of a question, and of its answer."""
NOTHING = -1
"""The target of positions where there is nothing to learn: inside of the question."""


class Block(rm.graph.Model):
    """Attention to earlier positions and a small network, each normalized before and added to what it was given."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = rm.graph.LayerNormalize(), rm.graph.MultiHeadAttention(heads, causal=True)
        self.norm2, self.wide, self.narrow = rm.graph.LayerNormalize(), rm.graph.Dense(4 * size), rm.graph.Dense(size)

    def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
        """Return x (N, T, size) after the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(rm.graph.gelu(self.wide(self.norm2(x))))


class Gpt(rm.graph.Model):
    """Blocks between an embedding of tokens and positions and the scores of the ten digits."""

    def __init__(self, size: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.token, self.position = rm.graph.Embedding(size, vocabulary=10), rm.graph.PositionalEmbedding()
        self.blocks = [Block(size, heads) for _ in range(depth)]
        self.norm, self.head = rm.graph.LayerNormalize(), rm.graph.Dense(10)

    def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
        """Return scores (N, 10, T) of what follows each token of x (N, T)."""
        y = self.position(self.token(x))
        for block in self.blocks:
            y = block(y)
        return rm.graph.transpose(self.head(self.norm(y)), (0, 2, 1))


def questions(n: int, seed: int) -> Array:
    """Return n rows of random digits."""
    return np.random.default_rng(seed).integers(0, 10, (n, LENGTH))


def tokens_and_next(question: Array) -> tuple[Array, Array]:
    """Return question and answer without the last token, and at every position the token that follows."""
    tokens = np.concatenate([question, np.sort(question, axis=1)], axis=1)
    following = tokens[:, 1:].copy()
    following[:, : LENGTH - 1] = NOTHING
    return tokens[:, :-1], following


def train(path: Path, epochs: int, n_sequences: int = 6400) -> rm.runtime.History:
    """Train on random sequences, write the model and return the losses."""
    rm.set_seed(0)
    x, t = rm.graph.DistributorElement(*tokens_and_next(questions(n_sequences, 0)), batch_size=64).get_output_graphs()
    model = Gpt()
    loss = rm.graph.SoftmaxCrossEntropy(ignore_index=NOTHING)(model(x), t)
    schedule = rm.graph.schedule.WarmUp(rm.graph.schedule.Cosine(0.004, n_steps=epochs * n_sequences // 64), 50)
    executor = loss.get_training_executor(rm.graph.AdamW(clip_norm=1.0))
    history = executor.execute(epochs, learning_rate=schedule)
    tokens = rm.graph.Placeholder((None, "T"), np.int64, name="tokens")  # a file for sequences of any length up to 11
    rm.export(model(tokens), path)
    print(f"{sum(p.array.size for p in model.parameters())} parameters", flush=True)
    return history


def answer(path: Path, question: Array) -> Array:
    """Return what the file, run by onnxruntime alone, writes after each question: the likeliest token, six times."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tokens = question
    for _ in range(LENGTH):
        (scores,) = session.run(None, {"tokens": tokens})
        tokens = np.concatenate([tokens, scores[:, :, -1].argmax(1)[:, None]], axis=1)
    return tokens[:, LENGTH:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, let the file answer new questions, and return 0 if nearly all answers are right."""
    parser = argparse.ArgumentParser(prog="python -m examples.transformer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5, help="passes over 6400 sequences (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder of the file")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "sort.onnx"
    train(path, options.epochs)

    new = questions(1000, 1)
    found = answer(path, new)
    for question, row in zip(new[:5], found, strict=False):
        print(*question, " sorted: ", *row, "" if (np.sort(question) == row).all() else " wrong")
    share = float((found == np.sort(new, axis=1)).all(axis=1).mean())
    print(f"{share:.1%} of {len(new)} new questions are sorted by {path}, run by onnxruntime alone.")
    return 0 if share > 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
