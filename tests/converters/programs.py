"""The programs that these tests export: every kind of data, layer and optimizer that a training file is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx

graph = rm.graph
Array = np.ndarray[Any, Any]

OPTIMIZERS: dict[str, Callable[[], graph.Optimizer]] = {
    "Sgd": lambda: graph.Sgd(0.05),
    "momentum": lambda: graph.Sgd(0.05, momentum=0.9),
    "nesterov": lambda: graph.Sgd(0.05, momentum=0.9, nesterov=True),
    "Adam": lambda: graph.Adam(0.01),
}


def features(rows: int, dtype: Any = np.float32, size: int = 6) -> Array:
    values = np.random.default_rng(rows).standard_normal((rows, size))
    return (values * 40).clip(0, 255).astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)


def images(rows: int, dtype: Any = np.float32) -> Array:
    return features(rows, dtype, 2 * 8 * 8).reshape(rows, 2, 8, 8)


def classes(rows: int, dtype: Any = np.int64) -> Array:
    return (np.arange(rows) * 7 % 3).astype(dtype)


def perceptron(units: int = 3) -> graph.Sequential:
    return graph.Sequential([graph.Dense(8), graph.Relu(), graph.Dense(units)])


def convolutional() -> graph.Sequential:
    """Windows of the first pooling do not overlap, those of the second do."""
    return graph.Sequential(
        [
            graph.Conv(4, kernel=3, padding=1),
            graph.Relu(),
            graph.MaxPool(kernel=2, stride=2),
            graph.Conv(3, kernel=2),
            graph.Tanh(),
            graph.MaxPool(kernel=2, stride=1),
            graph.Flatten(),
            graph.Dense(3),
        ]
    )


def cross_entropy(model: Any, x: Any, y: Any) -> graph.GraphElement:
    return graph.SoftmaxCrossEntropy()(model(x), y)


def mlp() -> graph.GraphElement:
    return cross_entropy(perceptron(), features(8), classes(8))


def cnn() -> graph.GraphElement:
    return cross_entropy(convolutional(), images(8), classes(8))


def windows_apart() -> graph.GraphElement:
    layers = [graph.Conv(4, kernel=3), graph.Relu(), graph.MaxPool(kernel=2, stride=2), graph.Flatten(), graph.Dense(3)]
    return cross_entropy(graph.Sequential(layers), images(8), classes(8))


def regression() -> graph.GraphElement:
    return graph.MeanSquared()(perceptron()(features(8)), features(8, size=3))


def distributed() -> graph.GraphElement:
    data = graph.DistributorElement(features(20), classes(20), batch_size=8, names=("data", "label"))
    return cross_entropy(perceptron(), *data.get_output_graphs())


def integer_data() -> graph.GraphElement:
    data = graph.DistributorElement(images(8, np.uint8), classes(8, np.int32), batch_size=4)
    return cross_entropy(convolutional(), *data.get_output_graphs())


def double_data() -> graph.GraphElement:
    return cross_entropy(perceptron(), features(8, np.float64), classes(8, np.uint8).reshape(8, 1))


def probabilities() -> graph.GraphElement:
    return cross_entropy(perceptron(), features(8), np.eye(3)[classes(8)])


def summed() -> graph.GraphElement:
    data = graph.DistributorElement(features(8), classes(8), batch_size=4)
    x, y = data.get_output_graphs()
    hidden = graph.relu(graph.Dense(8)(x))
    return cross_entropy(graph.Dense(3), hidden, y) + 0.3 * graph.ConstantLoss()(graph.square(graph.Dense(2)(hidden)))


def shared() -> graph.GraphElement:
    layer = graph.Dense(6)
    return cross_entropy(graph.Dense(3), graph.tanh(layer(graph.tanh(layer(features(8))))), classes(8))


def frozen() -> graph.GraphElement:
    model = perceptron()
    loss = cross_entropy(model, features(8), classes(8))
    model[0].params["w"].output.node.trainable = False
    return loss


class Encoder(graph.Model):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = graph.Dense(8)
        self.heads = [graph.Dense(3), graph.Dense(3)]

    def forward(self, x: graph.GraphElement) -> graph.GraphElement:
        hidden = graph.sigmoid(self.fc1(x))
        return self.heads[0](hidden) * self.heads[1](hidden)


def named() -> graph.GraphElement:
    return cross_entropy(Encoder(), features(8), classes(8))


def dropout() -> graph.GraphElement:
    layers = [graph.Dense(8), graph.Dropout(0.5), graph.Relu(), graph.Dense(3)]
    return cross_entropy(graph.Sequential(layers), features(8), classes(8))


def normalized() -> graph.GraphElement:
    conv = graph.Conv(4, kernel=3, bias=False)  # the gradient of a bias would be 0, of which Adam keeps the sign
    layers = [conv, graph.BatchNormalize(), graph.Relu(), graph.Flatten(), graph.Dense(3)]
    return cross_entropy(graph.Sequential(layers), images(8), classes(8))


LOSSES = {
    f.__name__: f
    for f in (
        mlp, cnn, windows_apart, regression, distributed, integer_data, double_data, probabilities, summed, shared,
        frozen, named, dropout, normalized,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A loss, an optimizer and an opset."""

    loss: str
    optimizer: str
    opset: int

    def __str__(self) -> str:
        return f"{self.loss}-{self.optimizer}-opset{self.opset}"

    def model(self, **options: Any) -> onnx.ModelProto:
        """Export the program, from the same seed every time."""
        rm.set_seed(0)
        return to_training_onnx(LOSSES[self.loss](), OPTIMIZERS[self.optimizer](), opset=self.opset, **options)


PROGRAMS = [
    *(Program(loss, optimizer, opset) for loss in ("mlp", "cnn") for optimizer in OPTIMIZERS for opset in (18, 21)),
    *(Program(loss, "Adam", 18) for loss in LOSSES if loss not in ("mlp", "cnn")),
]


def feeds(model: onnx.ModelProto, rows: int, seed: int = 0) -> dict[str, Array]:
    """Return a batch for the training step of a model: small numbers, and classes below 3."""
    rng = np.random.default_rng((rows, seed))
    batch: dict[str, Array] = {}
    inputs = [*model.graph.input, *model.training_info[0].algorithm.input]
    for info in inputs:
        shape = [d.dim_value if d.HasField("dim_value") else rows for d in info.type.tensor_type.shape.dim]
        if not shape:
            continue  # the learning rate, which has a default
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        values = rng.integers(3, size=shape) if dtype.kind in "iu" else rng.standard_normal(shape)
        batch[info.name] = np.asarray(values, dtype)
    return batch


def portable_bodies(model: bytes, *_: object) -> bytes:
    """Stand for the choice of bodies by sizes, which knows gradients by their calls: an inlined file has none."""
    return model
