"""A residual network of the shape of ResNet-18: He et al. 2016, arXiv:1512.03385.

Every block starts as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1). Started at random, a network as
narrow as this one is chaotic: after ten steps PyTorch's own losses in float64 are apart by 0.1 from weights that differ
by 1e-7.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import renom_onnx as rm

g = rm.graph


class Block(g.Model):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = g.Conv(channels, 3, 1, stride, bias=False)
        self.norm1 = g.BatchNormalize(unbiased=True)
        self.conv2 = g.Conv(channels, 3, 1, bias=False)
        self.norm2 = g.BatchNormalize(unbiased=True, initializer=rm.utility.initializer.Constant(0))
        if stride > 1:
            norm = g.BatchNormalize(unbiased=True)
            self.shortcut = g.Sequential([g.Conv(channels, 1, 0, stride, bias=False), norm])

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        y = self.norm2(self.conv2(g.relu(self.norm1(self.conv1(x)))))
        return g.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def network(width: int = 8, classes: int = 5) -> g.Sequential:
    stem = [g.Conv(width, 7, 3, 2, bias=False), g.BatchNormalize(unbiased=True), g.Relu(), g.MaxPool(3, 1, 2)]
    stages = [Block(width * 2**i, stride) for i in range(4) for stride in (2 if i else 1, 1)]
    return g.Sequential([*stem, *stages, g.GlobalAvgPool(), g.Flatten(), g.Dense(classes)])


class TorchBlock(nn.Module):
    def __init__(self, c: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(c, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + (self.shortcut(x) if hasattr(self, "shortcut") else x)).relu()


def torch_network(width: int = 8, classes: int = 5) -> nn.Module:
    stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages: list[nn.Module] = []
    c = width
    for i in range(4):
        for stride in (2 if i else 1, 1):
            stages.append(TorchBlock(c, width * 2**i, stride))
            c = width * 2**i
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))
