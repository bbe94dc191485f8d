"""Convolutional networks on images: LeNet, a residual network, a MobileNet stack, a U-Net block."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.workload import Array, Workload


def images(channels: int, size: int) -> Any:
    def data(rng: np.random.Generator, rows: int) -> tuple[Array, Array]:
        return rng.normal(size=(rows, channels, size, size)).astype(np.float32), rng.integers(0, 10, rows)

    return data


def no_jax(p: Any, x: Any) -> Any:
    raise NotImplementedError("it is measured on GPUs, where JAX takes no part")


# LeNet: two convolutions, two dense layers


def lenet() -> Any:
    from renom_onnx import graph as g

    return g.Sequential(
        [
            g.Conv(20, kernel=5), g.Relu(), g.MaxPool(kernel=2, stride=2),
            g.Conv(50, kernel=5), g.Relu(), g.MaxPool(kernel=2, stride=2),
            g.Flatten(), g.Dense(500), g.Relu(), g.Dense(10),
        ]
    )  # fmt: skip


def torch_lenet(t: Any) -> Any:
    n = t.nn
    return n.Sequential(
        n.Conv2d(1, 20, 5), n.ReLU(), n.MaxPool2d(2),
        n.Conv2d(20, 50, 5), n.ReLU(), n.MaxPool2d(2),
        n.Flatten(), n.Linear(800, 500), n.ReLU(), n.Linear(500, 10),
    )  # fmt: skip


def jax_lenet(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import conv, dense, max_pool, relu

    x = max_pool(relu(conv(p, "conv1", x)), 2)
    x = max_pool(relu(conv(p, "conv2", x)), 2)
    return dense(p, "dense2", relu(dense(p, "dense1", x.reshape(x.shape[0], -1))))


# ResNet: a stem and three stages of one block each; 32, 64 and 128 channels

STAGES = ((32, 1), (64, 2), (128, 2))


def norm_conv(channels: int, kernel: int, stride: int) -> list[Any]:
    from renom_onnx import graph as g

    conv = g.Conv(channels, kernel=kernel, padding=kernel // 2, stride=stride, bias=False)
    return [conv, g.BatchNormalize(unbiased=True)]


def torch_norm_conv(n: Any, n_in: int, channels: int, kernel: int, stride: int) -> list[Any]:
    return [n.Conv2d(n_in, channels, kernel, stride, kernel // 2, bias=False), n.BatchNorm2d(channels)]


def resnet() -> Any:
    from renom_onnx import graph as g

    class Block(g.Model):
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.main = g.Sequential([*norm_conv(channels, 3, stride), g.Relu(), *norm_conv(channels, 3, 1)])
            is_same = stride == 1 and n_in == channels
            self.short = None if is_same else g.Sequential(norm_conv(channels, 1, stride))

        def forward(self, x: Any) -> Any:
            return g.relu(self.main(x) + (x if self.short is None else self.short(x)))

    layers: list[Any] = [*norm_conv(32, 3, 1), g.Relu()]
    n_in = 32
    for channels, stride in STAGES:
        layers.append(Block(n_in, channels, stride))
        n_in = channels
    return g.Sequential([*layers, g.GlobalAvgPool(), g.Flatten(), g.Dense(10)])


def torch_resnet(t: Any) -> Any:
    n = t.nn

    class Block(n.Module):  # type: ignore[misc]
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            first, second = torch_norm_conv(n, n_in, channels, 3, stride), torch_norm_conv(n, channels, channels, 3, 1)
            self.main = n.Sequential(*first, n.ReLU(), *second)
            is_same = stride == 1 and n_in == channels
            self.short = n.Identity() if is_same else n.Sequential(*torch_norm_conv(n, n_in, channels, 1, stride))

        def forward(self, x: Any) -> Any:
            return t.relu(self.main(x) + self.short(x))

    blocks, n_in = [], 32
    for channels, stride in STAGES:
        blocks.append(Block(n_in, channels, stride))
        n_in = channels
    head = [n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(128, 10)]
    return n.Sequential(*torch_norm_conv(n, 3, 32, 3, 1), n.ReLU(), *blocks, *head)


def jax_resnet(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import batch_norm, conv, dense, global_average, relu

    def norm_conv(prefix: str, i: int, x: Any, padding: int, stride: int) -> Any:
        y = conv(p, f"{prefix}conv{i}", x, padding, stride)
        return batch_norm(p, f"{prefix}batch_normalize{i}", y)

    x = relu(norm_conv("", 1, x, 1, 1))
    n_in = 32
    for i, (channels, stride) in enumerate(STAGES, 1):
        y = norm_conv(f"block{i}.main.", 2, relu(norm_conv(f"block{i}.main.", 1, x, 1, stride)), 1, 1)
        is_same = stride == 1 and n_in == channels
        x = relu(y + (x if is_same else norm_conv(f"block{i}.short.", 1, x, 0, stride)))
        n_in = channels
    return dense(p, "dense1", global_average(x))


# ResNet-50 at 224 x 224: four stages of 3, 4, 6 and 3 bottlenecks

DEPTHS = (3, 4, 6, 3)
WIDEN = 4
"""Channels that a bottleneck returns, for each that it works with."""


def resnet50() -> Any:
    from renom_onnx import graph as g

    class Bottleneck(g.Model):
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            narrow, middle = norm_conv(channels, 1, 1), norm_conv(channels, 3, stride)
            self.main = g.Sequential([*narrow, g.Relu(), *middle, g.Relu(), *norm_conv(WIDEN * channels, 1, 1)])
            is_same = stride == 1 and n_in == WIDEN * channels
            self.short = None if is_same else g.Sequential(norm_conv(WIDEN * channels, 1, stride))

        def forward(self, x: Any) -> Any:
            return g.relu(self.main(x) + (x if self.short is None else self.short(x)))

    layers: list[Any] = [*norm_conv(64, 7, 2), g.Relu(), g.MaxPool(kernel=3, stride=2, padding=1)]
    n_in = 64
    for i, depth in enumerate(DEPTHS):
        for j in range(depth):
            layers.append(Bottleneck(n_in, 64 << i, 2 if i and not j else 1))
            n_in = WIDEN * (64 << i)
    return g.Sequential([*layers, g.GlobalAvgPool(), g.Flatten(), g.Dense(1000)])


def torch_resnet50(t: Any) -> Any:
    n = t.nn

    class Bottleneck(n.Module):  # type: ignore[misc]
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            narrow, middle = torch_norm_conv(n, n_in, channels, 1, 1), torch_norm_conv(n, channels, channels, 3, stride)
            self.main = n.Sequential(
                *narrow, n.ReLU(), *middle, n.ReLU(), *torch_norm_conv(n, channels, WIDEN * channels, 1, 1)
            )
            is_same = stride == 1 and n_in == WIDEN * channels
            self.short = (
                n.Identity() if is_same else n.Sequential(*torch_norm_conv(n, n_in, WIDEN * channels, 1, stride))
            )

        def forward(self, x: Any) -> Any:
            return t.relu(self.main(x) + self.short(x))

    layers, n_in = [*torch_norm_conv(n, 3, 64, 7, 2), n.ReLU(), n.MaxPool2d(3, 2, 1)], 64
    for i, depth in enumerate(DEPTHS):
        for j in range(depth):
            layers.append(Bottleneck(n_in, 64 << i, 2 if i and not j else 1))
            n_in = WIDEN * (64 << i)
    return n.Sequential(*layers, n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(n_in, 1000))


# MobileNet v2: inverted residual blocks with depthwise convolutions

BLOCKS = ((24, 1), (24, 1), (48, 2), (48, 1))
EXPANSION = 4


def mobilenet() -> Any:
    from renom_onnx import graph as g

    def unit(channels: int, kernel: int, stride: int = 1, groups: int = 1, is_linear: bool = False) -> list[Any]:
        conv = g.Conv(channels, kernel=kernel, padding=kernel // 2, stride=stride, groups=groups, bias=False)
        return [conv, g.BatchNormalize(unbiased=True), *([] if is_linear else [g.Relu6()])]

    class Block(g.Model):
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            wide = EXPANSION * n_in
            self.main = g.Sequential([*unit(wide, 1), *unit(wide, 3, stride, wide), *unit(channels, 1, is_linear=True)])
            self.is_residual = stride == 1 and n_in == channels

        def forward(self, x: Any) -> Any:
            y = self.main(x)
            return x + y if self.is_residual else y

    layers, n_in = unit(16, 3), 16
    for channels, stride in BLOCKS:
        layers.append(Block(n_in, channels, stride))
        n_in = channels
    return g.Sequential([*layers, g.GlobalAvgPool(), g.Flatten(), g.Dense(10)])


def torch_mobilenet(t: Any) -> Any:
    n = t.nn

    def unit(n_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, is_linear: bool = False) -> Any:
        conv = n.Conv2d(n_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, n.BatchNorm2d(channels), *([] if is_linear else [n.ReLU6()])]

    class Block(n.Module):  # type: ignore[misc]
        def __init__(self, n_in: int, channels: int, stride: int) -> None:
            super().__init__()
            wide = EXPANSION * n_in
            self.main = n.Sequential(
                *unit(n_in, wide, 1), *unit(wide, wide, 3, stride, wide), *unit(wide, channels, 1, is_linear=True)
            )
            self.is_residual = stride == 1 and n_in == channels

        def forward(self, x: Any) -> Any:
            y = self.main(x)
            return x + y if self.is_residual else y

    blocks, n_in = [], 16
    for channels, stride in BLOCKS:
        blocks.append(Block(n_in, channels, stride))
        n_in = channels
    return n.Sequential(*unit(3, 16, 3), *blocks, n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(48, 10))


def jax_mobilenet(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import batch_norm, clip, conv, dense, global_average

    def unit(prefix: str, i: int, x: Any, padding: int = 0, stride: int = 1, groups: int = 1) -> Any:
        y = conv(p, f"{prefix}conv{i}", x, padding, stride, groups)
        return batch_norm(p, f"{prefix}batch_normalize{i}", y)

    x = clip(unit("", 1, x, 1), 6)
    n_in = 16
    for i, (channels, stride) in enumerate(BLOCKS, 1):
        prefix, wide = f"block{i}.main.", EXPANSION * n_in
        y = clip(unit(prefix, 1, x), 6)
        y = clip(unit(prefix, 2, y, 1, stride, wide), 6)
        y = unit(prefix, 3, y)
        x = x + y if stride == 1 and n_in == channels else y
        n_in = channels
    return dense(p, "dense1", global_average(x))


# U-Net: down, up by a deconvolution, and a shortcut


def unet() -> Any:
    from renom_onnx import graph as g

    def pair(channels: int) -> list[Any]:
        convs = [g.Conv(channels, kernel=3, padding=1) for _ in range(2)]
        return [convs[0], g.Relu(), convs[1], g.Relu()]

    class UNet(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.pool, self.bottom = g.Sequential(pair(32)), g.MaxPool(2, stride=2), g.Sequential(pair(64))
            self.up, self.join = g.Deconv(32, kernel=2, stride=2), g.Sequential(pair(32))
            self.average, self.flatten, self.head = g.GlobalAvgPool(), g.Flatten(), g.Dense(10)

        def forward(self, x: Any) -> Any:
            down = self.down(x)
            up = self.up(self.bottom(self.pool(down)))
            return self.head(self.flatten(self.average(self.join(g.concatenate([down, up], axis=1)))))

    return UNet()


def torch_unet(t: Any) -> Any:
    n = t.nn

    def pair(n_in: int, channels: int) -> Any:
        first, second = n.Conv2d(n_in, channels, 3, padding=1), n.Conv2d(channels, channels, 3, padding=1)
        return n.Sequential(first, n.ReLU(), second, n.ReLU())

    class UNet(n.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.down, self.pool, self.bottom = pair(3, 32), n.MaxPool2d(2), pair(32, 64)
            self.up, self.join, self.head = n.ConvTranspose2d(64, 32, 2, 2), pair(64, 32), n.Linear(32, 10)

        def forward(self, x: Any) -> Any:
            down = self.down(x)
            up = self.up(self.bottom(self.pool(down)))
            return self.head(self.join(t.cat([down, up], 1)).mean((2, 3)))

    return UNet()


def jax_unet(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import conv, conv_transpose, dense, global_average, max_pool, relu

    def pair(name: str, x: Any) -> Any:
        return relu(conv(p, f"{name}.conv2", relu(conv(p, f"{name}.conv1", x, 1)), 1))

    import jax.numpy as jnp

    down = pair("down", x)
    up = conv_transpose(p, "up", pair("bottom", max_pool(down, 2)), 2)
    return dense(p, "head", global_average(pair("join", jnp.concatenate([down, up], 1))))


WORKLOADS = [
    Workload("lenet", 64, "sgd", images(1, 28), lenet, torch_lenet, jax_lenet, is_image=True, steps=30),
    Workload(
        "resnet", 64, "sgd", images(3, 32), resnet, torch_resnet, jax_resnet, is_image=True, n_batches=2, steps=3,
    ),
    Workload(
        "resnet50", 64, "sgd", images(3, 224), resnet50, torch_resnet50, no_jax, is_image=True, n_batches=2, steps=4,
        needs_gpu=True,
    ),
    Workload(
        "mobilenet", 32, "sgd", images(3, 32), mobilenet, torch_mobilenet, jax_mobilenet, is_image=True, n_batches=2,
        steps=6,
    ),
    Workload(
        "unet", 8, "sgd", images(3, 64), unet, torch_unet, jax_unet, is_image=True, n_batches=2, steps=6,
        unsupported={"ort-training": "it has no gradient of ConvTranspose on the CPU"},
    ),
]  # fmt: skip
