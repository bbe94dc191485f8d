"""Regularizers: a weight that may change while training, and what is accepted in place of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import renom_onnx as rm
from tests.messages import message_of

g = rm.graph
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)).astype(np.float32), RNG.normal(size=(8, 2)).astype(np.float32)


def torch_weights(w: np.ndarray[Any, Any], decays: list[float], batch_size: int) -> np.ndarray[Any, Any]:
    """Return the weight after as many steps of PyTorch's SGD as there are decays."""
    weight = torch.tensor(w, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.1)
    for step, decay in enumerate(decays):
        start = step * batch_size % len(X)
        x, y = torch.tensor(X[start : start + batch_size]), torch.tensor(Y[start : start + batch_size])
        optimizer.param_groups[0]["weight_decay"] = decay
        optimizer.zero_grad()
        (((x @ weight - y) ** 2).sum() / 2 / len(x)).backward()
        optimizer.step()
    return weight.detach().numpy()


def test_a_weight_assigned_in_an_event_counts_from_the_next_step():
    regularizer = g.L2(0.5)
    dense = g.Dense(2, bias=False)
    dense.set_regularizer(regularizer)
    x, y = g.DistributorElement(X, Y, batch_size=2, shuffle=False).get_output_graphs()
    executor = g.MeanSquared()(dense(x), y).get_training_executor(g.Sgd(0.1), ["cpu"])
    start = dense.params["w"].as_ndarray()

    def relax(event: Any) -> None:
        if event.n_steps == 3:
            regularizer.wd = 0.0

    executor.register_event("Step-Finish", relax)
    executor.execute(2, progress=False)
    assert regularizer.weight_decay == 0.0
    expected = torch_weights(start, [0.5] * 3 + [0.0] * 5, 2)
    np.testing.assert_allclose(dense.params["w"].as_ndarray(), expected, rtol=1e-5, atol=1e-6)


def test_a_learning_rate_assigned_in_an_event_counts_from_the_next_step():
    dense, optimizer = g.Dense(2, bias=False), g.Sgd(0.1)
    x, y = g.DistributorElement(X, Y, batch_size=4, shuffle=False).get_output_graphs()
    executor = g.MeanSquared()(dense(x), y).get_training_executor(optimizer, ["cpu"])
    seen = []

    def stop(event: Any) -> None:
        optimizer.learning_rate = 0.0
        seen.append(executor.session.parameters)

    executor.register_event("Step-Finish", stop)
    executor.execute(2, progress=False)
    start, *others = (next(iter(parameters.values())) for parameters in seen)
    for other in others:
        np.testing.assert_array_equal(start, other)


def test_a_weight_assigned_between_eager_steps_counts():
    regularizer = g.L2(0.5)
    dense = g.Dense(2, bias=False)
    dense.set_regularizer(regularizer)
    loss = g.MeanSquared()(dense(X), Y)
    start = dense.params["w"].as_ndarray()
    for decay in (0.5, 0.0, 0.25):
        regularizer.weight_decay = decay
        loss.backward().update(g.Sgd(0.1))
    expected = torch_weights(start, [0.5, 0.0, 0.25], 8)
    np.testing.assert_allclose(dense.params["w"].as_ndarray(), expected, rtol=1e-5, atol=1e-6)


def test_a_files_step_may_be_fed_another_weight():
    dense = g.Dense(2, bias=False)
    dense.set_regularizer(g.L2(0.5))
    model = rm.converters.to_training_onnx(g.MeanSquared()(dense(X), Y), g.Sgd(0.1))
    session = rm.runtime.TrainingSession(model, "cpu")
    start = dense.params["w"].as_ndarray()
    session.step({"x": X, "y": Y})
    session.step({"x": X, "y": Y, "weight_decay": 0.0})
    np.testing.assert_allclose(session.read("dense1.w"), torch_weights(start, [0.5, 0.0], 8), rtol=1e-5, atol=1e-6)


NAMED = {"l1": (g.L1, 0.05), "L2": (g.L2, 0.05), 0.3: (g.L2, 0.3), 1: (g.L2, 1.0)}


@pytest.mark.parametrize("given", NAMED)
def test_a_name_or_a_number_stands_for_a_regularizer(given: Any):
    dense = g.Dense(2)
    dense.set_regularizer(given, "w")
    dense(X)
    kind, weight = NAMED[given]
    found = dict(dense.named_parameters())
    assert type(found["w"].regularizer) is kind
    assert found["w"].regularizer.weight_decay == weight
    assert found["b"].regularizer is None


@pytest.mark.parametrize("given", [None, 0, 0.0])
def test_nothing_stands_for_no_regularizer(given: Any):
    dense = g.Dense(2)
    dense.set_regularizer(g.L2())
    dense.set_regularizer(given)
    dense(X)
    assert all(p.regularizer is None for p in dense.parameters())


@pytest.mark.parametrize("given", ["l3", [0.1]], ids=str)
def test_something_else_is_refused(given: Any):
    message = message_of(lambda: g.Dense(2).set_regularizer(given), rm.ConversionError)
    assert message == (
        f"set_regularizer: a regularizer must be a Regularizer, a number or one of l1, l2, got {given!r}. {{created}}"
    )
