"""A two-layer bidirectional LSTM that labels every step of a sequence: Graves & Schmidhuber 2005."""

from __future__ import annotations

from typing import Any

from torch import nn

import renom_onnx as rm

g = rm.graph


class Network(g.Model):
    def __init__(self, units: int = 12, vocabulary: int = 11, classes: int = 4) -> None:
        super().__init__()
        self.embedding = g.Embedding(6, vocabulary)
        self.stack = [g.Lstm(units, return_sequences=True, bidirectional=True) for _ in range(2)]
        self.head = g.Dense(classes)

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        y = self.embedding(x)
        for layer in self.stack:
            y = layer(y)
        return g.transpose(self.head(y), (0, 2, 1))


class TorchNetwork(nn.Module):
    def __init__(self, units: int = 12, vocabulary: int = 11, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 6)
        self.lstm = nn.LSTM(6, units, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * units, classes)

    def forward(self, x: Any) -> Any:
        y, _ = self.lstm(self.embedding(x))
        return self.head(y).transpose(1, 2)
