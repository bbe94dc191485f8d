"""A stack of the blocks of MobileNet-v2: Sandler et al. 2018, arXiv:1801.04381.

Blocks with a shortcut start as the identity; see `tests.zoo.resnet`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import renom_onnx as rm

g = rm.graph
PLAN = [(8, 1, 1), (12, 2, 6), (12, 1, 6), (16, 2, 6), (16, 1, 6)]
"""Channels, stride and expansion of each block."""


class Inverted(g.Model):
    def __init__(self, c: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c * expansion
        self.is_residual = stride == 1 and c == channels
        expand = [g.Conv(wide, 1, bias=False), g.BatchNormalize(unbiased=True), g.Relu6()] if expansion > 1 else []
        depthwise = [g.Conv(wide, 3, 1, stride, groups=wide, bias=False), g.BatchNormalize(unbiased=True), g.Relu6()]
        start = rm.utility.initializer.Constant(0 if self.is_residual else 1)
        project = [g.Conv(channels, 1, bias=False), g.BatchNormalize(unbiased=True, initializer=start)]
        self.body = g.Sequential([*expand, *depthwise, *project])

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        return x + self.body(x) if self.is_residual else self.body(x)


def network(classes: int = 5) -> g.Sequential:
    stem = [g.Conv(8, 3, 1, 2, bias=False), g.BatchNormalize(unbiased=True), g.Relu6()]
    sizes = [8, *(channels for channels, _, _ in PLAN)]
    blocks = [Inverted(c, *block) for c, block in zip(sizes, PLAN, strict=False)]
    return g.Sequential([*stem, *blocks, g.GlobalAvgPool(), g.Flatten(), g.Dense(classes)])


class TorchInverted(nn.Module):
    def __init__(self, c: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c * expansion
        self.is_residual = stride == 1 and c == channels
        expand = [nn.Conv2d(c, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
        depthwise = [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        last = nn.BatchNorm2d(channels)
        nn.init.constant_(last.weight, 0 if self.is_residual else 1)
        self.body = nn.Sequential(*expand, *depthwise, nn.Conv2d(wide, channels, 1, bias=False), last)

    def forward(self, x: Any) -> Any:
        return x + self.body(x) if self.is_residual else self.body(x)


def torch_network(classes: int = 5) -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    sizes = [8, *(channels for channels, _, _ in PLAN)]
    blocks = [TorchInverted(c, *block) for c, block in zip(sizes, PLAN, strict=False)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], classes))
