"""Optimizers, clipping, accumulation, regularizers and loss scaling against PyTorch, over 20 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import renom_onnx as rm

G = rm.graph
O = torch.optim  # noqa: E741  (O.Adam beside G.Adam)


class Lion(O.Optimizer):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2; PyTorch has none."""

    def __init__(self, p: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(p, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (b1, b2), rate = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p -= rate * (torch.sign(b1 * m + (1 - b1) * p.grad) + group["weight_decay"] * p)
                m.copy_(b2 * m + (1 - b2) * p.grad)


class Lamb(O.Optimizer):
    """You et al. 2020, arXiv:1904.00962, algorithm 2 with phi(z) = z; PyTorch has none."""

    def __init__(self, p: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(p, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (b1, b2), rate = group["betas"], group["lr"]
            for p in group["params"]:
                state = self.state[p]
                m, v = (state.setdefault(k, torch.zeros_like(p)) for k in "mv")
                t = state["t"] = state.get("t", 0) + 1
                m.copy_(b1 * m + (1 - b1) * p.grad)
                v.copy_(b2 * v + (1 - b2) * p.grad**2)
                r = m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + group["eps"]) + group["weight_decay"] * p
                both = p.norm() > 0 and r.norm() > 0
                p -= rate * (p.norm() / r.norm() if both else 1.0) * r


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], dict[str, str]]] = {
    "sgd": (lambda: G.Sgd(0.1), lambda p: O.SGD(p, 0.1), {}),
    "momentum": (lambda: G.Sgd(0.05, momentum=0.9), lambda p: O.SGD(p, 0.05, 0.9), {"momentum": "momentum_buffer"}),
    "nesterov": (
        lambda: G.Sgd(0.05, 0.9, nesterov=True),
        lambda p: O.SGD(p, 0.05, 0.9, nesterov=True),
        {"momentum": "momentum_buffer"},
    ),
    "adam": (lambda: G.Adam(0.01), lambda p: O.Adam(p, 0.01), {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}),
    "adam-betas": (
        lambda: G.Adam(0.01, 0.8, 0.9, 1e-3),
        lambda p: O.Adam(p, 0.01, (0.8, 0.9), 1e-3),
        {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"},
    ),
    "adamw": (
        lambda: G.AdamW(0.01, weight_decay=0.1),
        lambda p: O.AdamW(p, 0.01, weight_decay=0.1),
        {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"},
    ),
    "adamax": (lambda: G.Adamax(0.01), lambda p: O.Adamax(p, 0.01), {"adamax_m": "exp_avg", "adamax_u": "exp_inf"}),
    "adagrad": (lambda: G.Adagrad(0.05, 1e-10), lambda p: O.Adagrad(p, 0.05), {"adagrad_r": "sum"}),
    "adadelta": (
        lambda: G.Adadelta(0.9, 1e-6),
        lambda p: O.Adadelta(p, 1.0, 0.9, 1e-6),
        {"adadelta_e": "square_avg", "adadelta_x": "acc_delta"},
    ),
    "rmsprop": (lambda: G.Rmsprop(0.01, 0.99), lambda p: O.RMSprop(p, 0.01, 0.99), {"rmsprop_r": "square_avg"}),
    "lion": (
        lambda: G.Lion(0.002, 0.9, 0.98, weight_decay=0.1),
        lambda p: Lion(p, 0.002, (0.9, 0.98), 0.1),
        {"lion_m": "m"},
    ),
    "lamb": (
        lambda: G.Lamb(0.01, 0.9, 0.99, 1e-6, weight_decay=0.1),
        lambda p: Lamb(p, 0.01, (0.9, 0.99), 1e-6, 0.1),
        {"lamb_m": "m", "lamb_v": "v"},
    ),
}
"""Ours, PyTorch's, and which state of ours is which of PyTorch's."""


class Problem:
    """Twenty batches for a network, and the same network in PyTorch with the same weights."""

    def __init__(self, model: Any, loss: Any, module: Any, torch_loss: Any, x: Any, t: Any, rows: int = 8) -> None:
        self.x, self.t, self.rows = x, t, rows
        data = G.DistributorElement(self.x, self.t, batch_size=rows, shuffle=False)
        x, t = data.get_output_graphs()
        self.model, self.torch, self._torch_loss = model, module, torch_loss
        rm.set_seed(1)
        self.loss = loss(model(x), t)
        with torch.no_grad():
            for ours, theirs in zip(self.parameters(), self.torch.parameters(), strict=True):
                theirs.copy_(torch.tensor(as_torch(ours.array)))

    def parameters(self) -> list[Any]:
        return list(self.model.parameters())

    def train(self, optimizer: Any) -> list[float]:
        losses: list[float] = []
        executor = self.loss.get_training_executor(optimizer, devices=["cpu"])
        executor.register_event("Step-Finish", lambda event: losses.append(event.loss))
        executor.execute(progress=False)
        return losses

    def train_torch(
        self, optimizer: Any, after_backward: Callable[[Any], None] = lambda p: None, every: int = 1
    ) -> list[float]:
        losses = []
        for i in range(len(self.x) // self.rows):
            batch = slice(i * self.rows, (i + 1) * self.rows)
            loss = self._torch_loss(self.torch(torch.tensor(self.x[batch])), torch.tensor(self.t[batch]))
            losses.append(float(loss.detach()))
            (loss / every).backward()
            if (i + 1) % every == 0:
                after_backward(self.torch.parameters())
                optimizer.step()
                optimizer.zero_grad()
        return losses

    def assert_equal(self, losses: list[float], expected: list[float]) -> None:
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(self.parameters(), self.torch.parameters(), strict=True):
            np.testing.assert_allclose(as_torch(ours.array), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


class Regression(Problem):
    """A dense network on random numbers."""

    def __init__(self, n_steps: int = 20, rows: int = 8, size: float = 1.0) -> None:
        rng = np.random.default_rng(3)
        x = size * rng.normal(size=(n_steps * rows, 6)).astype(np.float32)
        t = rng.normal(size=(n_steps * rows, 2)).astype(np.float32)
        model = G.Sequential([G.Dense(5), G.Tanh(), G.Dense(2)])
        module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        super().__init__(model, G.MeanSquared(), module, lambda y, t: ((y - t) ** 2).sum() / 2 / len(t), x, t, rows)


class Classification(Problem):
    """A convolutional network on random images of three classes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        x, t = rng.normal(size=(160, 2, 6, 6)).astype(np.float32), rng.integers(0, 3, 160)
        layers = [G.Conv(4, 3, 1, groups=2), G.Gelu(), G.AvgPool(2, 0, 2), G.Conv(5, 2), G.Tanh()]
        model = G.Sequential([*layers, G.Flatten(), G.Dense(3)])
        theirs = [torch.nn.Conv2d(2, 4, 3, 1, 1, groups=2), torch.nn.GELU(), torch.nn.AvgPool2d(2)]
        theirs += [torch.nn.Conv2d(4, 5, 2), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(20, 3)]
        cross_entropy = torch.nn.functional.cross_entropy
        super().__init__(model, G.SoftmaxCrossEntropy(), torch.nn.Sequential(*theirs), cross_entropy, x, t)


def as_torch(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """PyTorch's dense weights are transposed and its biases are vectors."""
    if array.ndim != 2:
        return array
    return array.reshape(-1) if array.shape[0] == 1 else array.T


@pytest.mark.parametrize("make", [Regression, Classification], ids=["regression", "classification"])
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_and_the_state_after_them_follow_pytorch(name: str, make: Callable[[], Problem]):
    problem, (optimizer, torch_make, names) = make(), CASES[name]
    ours, theirs = optimizer(), torch_make(problem.torch.parameters())
    problem.assert_equal(problem.train(ours), problem.train_torch(theirs))
    for parameter, p in zip(problem.parameters(), problem.torch.parameters(), strict=True):
        state = {s.suffix: s.array for s in ours.states(parameter)}
        assert state.keys() == names.keys()
        for suffix, key in names.items():
            expected = theirs.state[p][key].detach().numpy()
            np.testing.assert_allclose(as_torch(state[suffix]), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_every_optimizer_is_compared():
    kinds = {name for name in G.__all__ if isinstance(kind := getattr(G, name), type) and issubclass(kind, G.Optimizer)}
    compared = {type(make()) for make, _, _ in CASES.values()}
    assert {getattr(G, name) for name in kinds} - {G.Optimizer} == compared


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"clip_norm": 0.3}, lambda p: torch.nn.utils.clip_grad_norm_(p, 0.3)),
        ({"clip_norm": 100.0}, lambda p: torch.nn.utils.clip_grad_norm_(p, 100.0)),
        ({"clip_value": 0.05}, lambda p: torch.nn.utils.clip_grad_value_(p, 0.05)),
    ],
    ids=["norm-active", "norm-idle", "value"],
)
def test_clipping_follows_pytorch(options: dict[str, Any], clip: Callable[[Any], None]):
    problem = Regression()
    losses = problem.train(G.Adam(0.01, **options))
    problem.assert_equal(losses, problem.train_torch(O.Adam(problem.torch.parameters(), 0.01), clip))


@pytest.mark.parametrize("every", [2, 5])
def test_accumulation_is_one_update_with_the_mean_gradient(every: int):
    problem = Regression()
    losses = problem.train(G.Adam(0.01, accumulate=every))
    problem.assert_equal(losses, problem.train_torch(O.Adam(problem.torch.parameters(), 0.01), every=every))


def test_l2_is_pytorch_weight_decay():
    problem = Regression()
    for parameter in problem.parameters():
        parameter.regularizer = G.L2(0.1)
    losses = problem.train(G.Sgd(0.1, momentum=0.9))
    problem.assert_equal(losses, problem.train_torch(O.SGD(problem.torch.parameters(), 0.1, 0.9, weight_decay=0.1)))


def test_l1_adds_the_sign():
    problem = Regression()
    problem.parameters()[0].regularizer = G.L1(0.1)

    def add_sign(parameters: Any) -> None:
        first = next(iter(parameters))
        first.grad += 0.1 * torch.sign(first.detach())

    losses = problem.train(G.Sgd(0.1))
    problem.assert_equal(losses, problem.train_torch(O.SGD(problem.torch.parameters(), 0.1), add_sign))


def test_a_parameter_may_have_an_optimizer_of_its_own():
    problem = Regression()
    own = G.Adam(0.02)
    for parameter in problem.parameters()[:2]:
        parameter.optimizer = own
    losses = problem.train(G.Sgd(0.1))
    first, second = list(problem.torch.parameters())[:2], list(problem.torch.parameters())[2:]
    adam, sgd = O.Adam(first, 0.02), O.SGD(second, 0.1)

    class Both:
        def step(self) -> None:
            adam.step()
            sgd.step()

        def zero_grad(self) -> None:
            adam.zero_grad()
            sgd.zero_grad()

    problem.assert_equal(losses, problem.train_torch(Both()))


def test_loss_scaling_changes_nothing_while_gradients_are_finite():
    problem, optimizer = Regression(), G.Adam(0.01, loss_scale=G.LossScale(1024, growth_interval_steps=4))
    losses = problem.train(optimizer)
    problem.assert_equal(losses, problem.train_torch(O.Adam(problem.torch.parameters(), 0.01)))
    assert optimizer.loss_scale.scale.array == 1024 * 2**5
    assert optimizer.loss_scale.good_steps.array == 0


def test_an_overflowed_step_keeps_the_old_values_and_halves_the_scale():
    problem, optimizer = Regression(n_steps=1, size=1e3), G.Adam(0.01, loss_scale=G.LossScale(3e38))
    before = [p.array.copy() for p in problem.parameters()]
    problem.train(optimizer)
    for p, old in zip(problem.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.array, old)
        assert all(np.isfinite(s.array).all() for s in optimizer.states(p))
    np.testing.assert_allclose(optimizer.loss_scale.scale.array, 1.5e38, rtol=1e-6)
    assert optimizer.counters(problem.parameters()[0])[0].array == 0


def test_an_optimizer_counts_the_steps_of_each_model():
    first, second, optimizer = Regression(), Regression(), G.Adam(0.01)
    first.train(optimizer)
    losses = second.train(optimizer)
    second.assert_equal(losses, second.train_torch(O.Adam(second.torch.parameters(), 0.01)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: G.Sgd(-1.0), "Sgd: learning_rate must be 0 or more, got -1.0."),
        (lambda: G.Adam(accumulate=0), "Adam: accumulate must be 1 or more, got 0."),
        (lambda: G.Adam(loss_scale="big"), "Adam: loss_scale must be a LossScale or 'dynamic', got 'big'."),
    ],
)
def test_a_bad_argument_is_said(make: Callable[[], Any], message: str):
    with pytest.raises(rm.ConversionError) as raised:
        make()
    assert str(raised.value) == message
