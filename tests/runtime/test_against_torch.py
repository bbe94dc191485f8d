"""Twenty steps of training follow PyTorch's from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import renom_onnx as rm
from tests.converters import programs

graph = rm.graph
Array = np.ndarray[Any, Any]

N_STEPS, ROWS = 20, 8

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
}
assert OPTIMIZERS.keys() == programs.OPTIMIZERS.keys()


class Linear(torch.nn.Module):
    """torch's Linear with weights laid out as ours: (F, units) and (1, units)."""

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.empty(size, units))
        self.b = torch.nn.Parameter(torch.empty(1, units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.w.T, self.b[0])


def torch_perceptron() -> torch.nn.Module:
    return torch.nn.Sequential(Linear(6, 8), torch.nn.ReLU(), Linear(8, 3))


def torch_convolutional() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2, 2),
        torch.nn.Conv2d(4, 3, 2),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2, 1),
        torch.nn.Flatten(),
        Linear(12, 3),
    )


MODELS: dict[str, tuple[Callable[[], graph.Sequential], Callable[[], torch.nn.Module], Callable[[int], Array]]] = {
    "mlp": (programs.perceptron, torch_perceptron, programs.features),
    "cnn": (programs.convolutional, torch_convolutional, programs.images),
}

every_pair = pytest.mark.parametrize(("kind", "optimizer"), [(m, o) for m in MODELS for o in OPTIMIZERS])


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Reference:
    """The same program in PyTorch: its losses, step by step, and its weights."""

    def __init__(self, kind: str, optimizer: str, weights: list[Array]) -> None:
        self.model = MODELS[kind][1]()
        with torch.no_grad():
            for p, w in zip(self.model.parameters(), weights, strict=True):
                p.copy_(torch.from_numpy(w))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

    def step(self, x: Array, y: Array) -> float:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def weights(self) -> list[Array]:
        return [p.detach().numpy() for p in self.model.parameters()]


def data(kind: str) -> tuple[Array, Array]:
    return MODELS[kind][2](ROWS * N_STEPS), programs.classes(ROWS * N_STEPS)


def assert_close(got: list[Array], wanted: list[Array]) -> None:
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4, strict=True)


@every_pair
@pytest.mark.usefixtures("torch_threads")
def test_a_training_session_follows_pytorch(kind: str, optimizer: str):
    rm.set_seed(0)
    x, y = data(kind)
    loss = graph.SoftmaxCrossEntropy()(MODELS[kind][0]()(x), y)
    model = rm.converters.to_training_onnx(loss, programs.OPTIMIZERS[optimizer]())
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    reference = Reference(kind, optimizer, list(session.parameters.values()))
    for i in range(0, ROWS * N_STEPS, ROWS):
        batch = {"x": x[i : i + ROWS], "y": y[i : i + ROWS]}
        assert float(session.step(batch)) == pytest.approx(reference.step(**batch), abs=1e-4)
    assert_close(list(session.parameters.values()), reference.weights())


@every_pair
@pytest.mark.usefixtures("torch_threads")
def test_an_executor_follows_pytorch(kind: str, optimizer: str):
    rm.set_seed(0)
    x, y = data(kind)
    distributor = graph.DistributorElement(x, y, batch_size=ROWS, shuffle=False)
    model = MODELS[kind][0]()
    inputs, targets = distributor.get_output_graphs()
    loss = graph.SoftmaxCrossEntropy()(model(inputs), targets)
    parameters = list(model.parameters())
    reference = Reference(kind, optimizer, [p.array for p in parameters])
    history = loss.get_training_executor(programs.OPTIMIZERS[optimizer](), devices=["cpu"]).execute(
        epochs=1, progress=False
    )
    losses = [reference.step(x[i : i + ROWS], y[i : i + ROWS]) for i in range(0, ROWS * N_STEPS, ROWS)]
    assert history.losses == [pytest.approx(np.mean(losses), abs=1e-4)]
    assert_close([p.array for p in parameters], reference.weights())


@pytest.mark.usefixtures("torch_threads")
def test_the_learning_rate_changed_between_steps_is_pytorchs():
    rm.set_seed(0)
    x, y = data("mlp")
    loss = graph.SoftmaxCrossEntropy()(programs.perceptron()(x), y)
    session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, graph.Adam(0.01)), "cpu", threads=1)
    reference = Reference("mlp", "Adam", list(session.parameters.values()))
    for i in range(0, ROWS * N_STEPS, ROWS):
        rate = 0.02 / (1 + i)
        session.learning_rate = rate
        reference.optimizer.param_groups[0]["lr"] = rate
        batch = {"x": x[i : i + ROWS], "y": y[i : i + ROWS]}
        assert float(session.step(batch)) == pytest.approx(reference.step(**batch), abs=1e-4)
    assert_close(list(session.parameters.values()), reference.weights())
