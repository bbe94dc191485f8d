"""Dense networks on vectors: the sizes of handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.workload import Array, Workload


def vectors(rng: np.random.Generator, rows: int) -> tuple[Array, Array]:
    return rng.normal(size=(rows, 784)).astype(np.float32), rng.integers(0, 10, rows)


def model(units: tuple[int, ...]) -> Any:
    import renom_onnx as rm

    layers: list[Any] = []
    for size in units:
        layers += [rm.graph.Dense(size), rm.graph.Relu()]
    return rm.graph.Sequential(layers[:-1])


def torch(t: Any, units: tuple[int, ...]) -> Any:
    layers: list[Any] = []
    for n_in, n_out in zip((784, *units[:-1]), units, strict=True):
        layers += [t.nn.Linear(n_in, n_out), t.nn.ReLU()]
    return t.nn.Sequential(*layers[:-1])


def jax(p: Any, x: Any, depth: int) -> Any:
    from benchmarks.contenders.jax_layers import dense, relu

    for i in range(1, depth):
        x = relu(dense(p, f"dense{i}", x))
    return dense(p, f"dense{depth}", x)


def workload(name: str, units: tuple[int, ...], batch_size: int, optimizer: str, steps: int) -> Workload:
    return Workload(
        name,
        batch_size,
        optimizer,
        vectors,
        lambda: model(units),
        lambda t: torch(t, units),
        lambda p, x: jax(p, x, len(units)),
        n_batches=16,
        steps=steps,
    )


WORKLOADS = [
    workload("mlp-small-sgd", (128, 10), 32, "sgd", 400),
    workload("mlp-small-adam", (128, 10), 32, "adam", 400),
    workload("mlp-large-sgd", (512, 512, 10), 128, "sgd", 100),
    workload("mlp-large-adam", (512, 512, 10), 128, "adam", 100),
]
