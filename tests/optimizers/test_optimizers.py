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

CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "sgd": (lambda: G.Sgd(0.1), lambda p: O.SGD(p, 0.1)),
    "momentum": (lambda: G.Sgd(0.05, momentum=0.9), lambda p: O.SGD(p, 0.05, 0.9)),
    "nesterov": (lambda: G.Sgd(0.05, 0.9, nesterov=True), lambda p: O.SGD(p, 0.05, 0.9, nesterov=True)),
    "adam": (lambda: G.Adam(0.01), lambda p: O.Adam(p, 0.01)),
    "adam-betas": (lambda: G.Adam(0.01, 0.8, 0.9, 1e-3), lambda p: O.Adam(p, 0.01, (0.8, 0.9), 1e-3)),
    "adamw": (lambda: G.AdamW(0.01, weight_decay=0.1), lambda p: O.AdamW(p, 0.01, weight_decay=0.1)),
    "adamax": (lambda: G.Adamax(0.01), lambda p: O.Adamax(p, 0.01)),
    "adagrad": (lambda: G.Adagrad(0.05, 1e-10), lambda p: O.Adagrad(p, 0.05)),
    "adadelta": (lambda: G.Adadelta(0.9, 1e-6), lambda p: O.Adadelta(p, 1.0, 0.9, 1e-6)),
    "rmsprop": (lambda: G.Rmsprop(0.01, 0.99), lambda p: O.RMSprop(p, 0.01, 0.99)),
}
STATES = {
    "momentum": {"momentum": "momentum_buffer"},
    "adam": {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"},
    "adamw": {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"},
    "adamax": {"adamax_m": "exp_avg", "adamax_u": "exp_inf"},
    "adagrad": {"adagrad_r": "sum"},
    "adadelta": {"adadelta_e": "square_avg", "adadelta_x": "acc_delta"},
    "rmsprop": {"rmsprop_r": "square_avg"},
}


class Regression:
    """A dense network on random data, and the same in PyTorch."""

    def __init__(self, n_steps: int = 20, rows: int = 8, size: float = 1.0) -> None:
        rng = np.random.default_rng(3)
        self.x = size * rng.normal(size=(n_steps * rows, 6)).astype(np.float32)
        self.t = rng.normal(size=(n_steps * rows, 2)).astype(np.float32)
        self.rows = rows
        data = G.DistributorElement(self.x, self.t, batch_size=rows, shuffle=False)
        x, t = data.get_output_graphs()
        rm.set_seed(1)
        self.model = G.Sequential([G.Dense(5), G.Tanh(), G.Dense(2)])
        self.loss = G.MeanSquared()(self.model(x), t)
        self.torch = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        with torch.no_grad():
            for ours, theirs in zip(self.parameters(), self.torch.parameters(), strict=True):
                theirs.copy_(torch.tensor(as_torch(ours.array)))

    def parameters(self) -> list[Any]:
        return list(self.model.parameters())

    def train(self, optimizer: Any) -> list[float]:
        losses: list[float] = []
        executor = self.loss.get_training_executor(optimizer, devices=["cpu"])
        step = executor.session.step
        executor.session.step = lambda feeds: losses.append(float(step(feeds))) or losses[-1]  # type: ignore[method-assign]
        executor.execute(progress=False)
        return losses

    def train_torch(
        self, optimizer: Any, after_backward: Callable[[Any], None] = lambda p: None, every: int = 1
    ) -> list[float]:
        losses = []
        for i in range(len(self.x) // self.rows):
            batch = slice(i * self.rows, (i + 1) * self.rows)
            d = self.torch(torch.tensor(self.x[batch])) - torch.tensor(self.t[batch])
            loss = (d * d).sum() / 2 / self.rows
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


def as_torch(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """PyTorch's dense weights are transposed and its biases are vectors."""
    return array.reshape(-1) if array.shape[0] == 1 else array.T


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_and_the_state_after_them_follow_pytorch(name: str):
    ours, theirs = CASES[name][0](), Regression()
    torch_optimizer = CASES[name][1](theirs.torch.parameters())
    theirs.assert_equal(theirs.train(ours), theirs.train_torch(torch_optimizer))
    for parameter, p in zip(theirs.parameters(), theirs.torch.parameters(), strict=True):
        state = {s.suffix: s.array for s in ours.states(parameter)}
        for suffix, key in STATES.get(name, {}).items():
            expected = torch_optimizer.state[p][key].detach().numpy()
            np.testing.assert_allclose(as_torch(state[suffix]), expected, rtol=1e-4, atol=1e-7)


def test_lion_is_its_formula():
    problem, optimizer = Regression(n_steps=1), G.Lion(0.01, 0.9, 0.99, weight_decay=0.1)
    before = [p.array.copy() for p in problem.parameters()]
    gradients = [
        problem.loss.backward().get_gradient(p.output).as_ndarray() for p in problem.parameters() if not reset(problem)
    ]
    problem.train(optimizer)
    for p, old, g in zip(problem.parameters(), before, gradients, strict=True):
        np.testing.assert_allclose(p.array, old * (1 - 0.01 * 0.1) - 0.01 * np.sign(g), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(optimizer.states(p)[0].array, 0.01 * g, rtol=1e-4, atol=1e-8)


def test_lamb_is_its_formula():
    problem, optimizer = Regression(n_steps=1), G.Lamb(0.01, weight_decay=0.1)
    before = [p.array.copy() for p in problem.parameters()]
    gradients = [
        problem.loss.backward().get_gradient(p.output).as_ndarray() for p in problem.parameters() if not reset(problem)
    ]
    problem.train(optimizer)
    for p, old, g in zip(problem.parameters(), before, gradients, strict=True):
        r = g / (np.abs(g) + 1e-6) + 0.1 * old  # at the first step m^ = g and v^ = g^2
        norms = np.linalg.norm(old), np.linalg.norm(r)
        trust = norms[0] / norms[1] if norms[0] > 0 else 1.0
        np.testing.assert_allclose(p.array, old - 0.01 * trust * r, rtol=1e-4, atol=1e-6)


def reset(problem: Regression) -> None:
    problem.loss.output.node.inputs[0].node  # noqa: B018  (the tree is kept alive)
    for leaf in {s.distributor for s in streams(problem)}:
        leaf.reset()


def streams(problem: Regression) -> list[Any]:
    from renom_onnx.graph.distributor import Stream
    from renom_onnx.graph.node import ancestors

    return [node for node in ancestors([problem.loss.output]) if isinstance(node, Stream)]


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
