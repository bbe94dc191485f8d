"""A U-Net that comes back up by a deconvolution and by a resize: Ronneberger et al. 2015, arXiv:1505.04597."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import renom_onnx as rm

g = rm.graph


def double(channels: int) -> g.Sequential:
    half = [(g.Conv(channels, 3, 1, bias=False), g.InstanceNormalize(), g.Relu()) for _ in range(2)]
    return g.Sequential([*half[0], *half[1]])


class Network(g.Model):
    def __init__(self, width: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.down = [double(width), double(2 * width)]
        self.bottom = double(4 * width)
        self.deconv = g.Deconv(2 * width, 2, 0, 2)
        self.resized = g.Sequential([g.Resize(2, mode="linear"), g.Conv(width, 3, 1)])
        self.up = [double(2 * width), double(width)]
        self.head = g.Conv(classes, 1)

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        first = self.down[0](x)
        second = self.down[1](g.MaxPool(2, 0, 2)(first))
        y = self.bottom(g.MaxPool(2, 0, 2)(second))
        y = self.up[0](g.concatenate([second, self.deconv(y)], axis=1))
        y = self.up[1](g.concatenate([first, self.resized(y)], axis=1))
        return self.head(y)


def torch_double(c: int, channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for size in (c, channels):
        convolution = nn.Conv2d(size, channels, 3, 1, 1, bias=False)
        layers += [convolution, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]
    return nn.Sequential(*layers)


class TorchNetwork(nn.Module):
    def __init__(self, width: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList([torch_double(1, width), torch_double(width, 2 * width)])
        self.bottom = torch_double(2 * width, 4 * width)
        self.deconv = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        resize = nn.Upsample(scale_factor=2, mode="bilinear")
        self.resized = nn.Sequential(resize, nn.Conv2d(2 * width, width, 3, 1, 1))
        self.up = nn.ModuleList([torch_double(4 * width, 2 * width), torch_double(2 * width, width)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Any) -> Any:
        first = self.down[0](x)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        y = self.bottom(nn.functional.max_pool2d(second, 2))
        y = self.up[0](torch.cat([second, self.deconv(y)], 1))
        y = self.up[1](torch.cat([first, self.resized(y)], 1))
        return self.head(y)
