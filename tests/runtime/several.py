"""One program on any number of devices: what it is trained on, and how two trainings are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import renom_onnx as rm
from renom_onnx.runtime import ParallelTrainingSession

g = rm.graph
Array = np.ndarray[Any, Any]
Build = Callable[[g.GraphElement, g.GraphElement], g.GraphElement]

N_STEPS = 50
BATCH = 8
ROWS = 3 * BATCH + 2
"""Three whole batches that no three devices share evenly, and a last one with fewer rows than three devices."""


@dataclass
class Run:
    """A training: its losses by step, and what it ended with."""

    losses: list[float]
    values: dict[str, Array]
    executor: Any


def images(rows: int = ROWS) -> Array:
    return np.random.default_rng(0).standard_normal((rows, 2, 6, 6)).astype(np.float32)


def labels(rows: int = ROWS) -> Array:
    return (np.arange(rows) * 7 % 3).astype(np.int64)


def train(
    build: Build, optimizer: Callable[[], g.Optimizer], n_devices: int, n_steps: int = N_STEPS, **placement: Any
) -> Run:
    """Train a program from the start, with shuffling, on some CPU devices."""
    rm.set_seed(0)
    data = g.DistributorElement(images(), labels(), batch_size=BATCH, shuffle=True)
    loss = build(*data.get_output_graphs())
    executor = loss.get_training_executor(optimizer(), ["cpu"] * n_devices, **placement)
    losses: list[float] = []
    executor.register_event("Step-Finish", lambda event: losses.append(event.loss))
    executor.execute(-(-n_steps // data.n_batches), progress=False)
    return Run(losses, executor.session.parameters, executor)


def assert_same(one: Run, several: Run, rtol: float = 1e-6) -> None:
    """Two trainings have the same losses and weights, but for the order of sums; small losses are differences too."""
    np.testing.assert_allclose(several.losses, one.losses, rtol=rtol, atol=rtol * float(np.mean(np.abs(one.losses))))
    for name, value in one.values.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(several.values[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)


def assert_replicas_are_equal(session: Any) -> None:
    """The devices of a session have the same weights and state, bit for bit."""
    assert isinstance(session, ParallelTrainingSession)
    for name, tensors in session._held().items():
        if name != "first_sample":
            first, *others = (tensor.read().tobytes() for tensor in tensors)
            assert others == [first] * len(others), name
