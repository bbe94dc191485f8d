"""A decoder of the GPT kind: Radford et al. 2019, Language models are unsupervised multitask learners."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import renom_onnx as rm

g = rm.graph


class Block(g.Model):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = g.LayerNormalize(), g.MultiHeadAttention(heads, causal=True)
        self.norm2, self.wide, self.narrow = g.LayerNormalize(), g.Dense(4 * size), g.Dense(size)

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(g.gelu(self.wide(self.norm2(x))))


class Network(g.Model):
    def __init__(self, vocabulary: int = 17, size: int = 16, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.token, self.position = g.Embedding(size, vocabulary), g.PositionalEmbedding()
        self.blocks = [Block(size, heads) for _ in range(depth)]
        self.norm, self.head = g.LayerNormalize(), g.Dense(vocabulary, bias=False)

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        y = self.position(self.token(x))
        for block in self.blocks:
            y = block(y)
        return g.transpose(self.head(self.norm(y)), (0, 2, 1))


class TorchBlock(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(size), nn.MultiheadAttention(size, heads, batch_first=True)
        self.norm2, self.wide, self.narrow = nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Any) -> Any:
        y = self.norm1(x)
        hidden = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attention(y, y, y, attn_mask=hidden, need_weights=False)[0]
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


class TorchNetwork(nn.Module):
    def __init__(self, length: int, vocabulary: int = 17, size: int = 16, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, size), nn.Embedding(length, size)
        self.blocks = nn.ModuleList(TorchBlock(size, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, vocabulary, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.token(x) + self.position.weight
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y)).transpose(1, 2)
