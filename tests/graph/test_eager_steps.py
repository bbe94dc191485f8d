"""Eager training: a loop that rebuilds its graph takes PyTorch's steps, keeps its state, and opens one session."""

import cProfile

import numpy as np
import pytest
import torch

import renom_onnx as rm
from renom_onnx.runtime.evaluation import sessions

g = rm.graph

OPTIMIZERS = {
    "sgd": (lambda: g.Sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (lambda: g.Sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda: g.Sgd(0.05, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True),
    ),
    "seed": (g.sgd_update, lambda p: torch.optim.SGD(p, 0.01, momentum=0.4)),
    "adam": (lambda: g.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam-options": (
        lambda: g.Adam(0.02, beta1=0.7, beta2=0.9, epsilon=1e-4),
        lambda p: torch.optim.Adam(p, 0.02, betas=(0.7, 0.9), eps=1e-4),
    ),
}
N_STEPS = 20


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_STEPS, 8, 5)).astype(np.float32), rng.normal(size=(N_STEPS, 8, 2)).astype(np.float32)


def model():
    return g.Sequential([g.Dense(6), g.Tanh(), g.Dense(2)])


def parameters(network):
    return [layer.params[k] for layer in network if layer.params for k in "wb"]


def pytorchs_steps(start, make_optimizer, schedule=None):
    w1, b1, w2, b2 = variables = [torch.tensor(array, requires_grad=True) for array in start]
    optimizer = make_optimizer(variables)
    for step, (x, y) in enumerate(zip(*map(torch.tensor, data()), strict=True)):
        optimizer.zero_grad()
        prediction = torch.tanh(x @ w1 + b1) @ w2 + b2
        loss = ((prediction - y) ** 2).sum() / 2 / len(x)
        loss.backward()
        if schedule:
            optimizer.param_groups[0]["lr"] = schedule(step)
        optimizer.step()
    return [variable.detach().numpy() for variable in variables]


def assert_equals_pytorch(network, expected):
    for parameter, wanted in zip(parameters(network), expected, strict=True):
        np.testing.assert_allclose(parameter.as_ndarray(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_rebuilt", [True, False], ids=["rebuilt", "one-graph"])
@pytest.mark.parametrize(("ours", "pytorchs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_eager_steps_are_pytorchs(ours, pytorchs, is_rebuilt):
    x, y = data()
    network, optimizer = model(), ours()
    network(x[0])
    start = [p.as_ndarray() for p in parameters(network)]
    if is_rebuilt:
        for features, targets in zip(x, y, strict=True):
            g.MeanSquared()(network(features), targets).backward().update(optimizer)
    else:
        flat = [a.reshape(-1, a.shape[-1]) for a in (x, y)]
        features, targets = g.DistributorElement(*flat, batch_size=8, shuffle=False).get_output_graphs()
        loss = g.MeanSquared()(network(features), targets).backward()
        for _ in range(N_STEPS):
            loss.update(optimizer)
    assert_equals_pytorch(network, pytorchs_steps(start, pytorchs))


def test_the_learning_rate_may_be_assigned_between_steps():
    x, y = data()
    network, optimizer = model(), g.Sgd(0.1, momentum=0.9)
    network(x[0])
    start = [p.as_ndarray() for p in parameters(network)]
    for step, (features, targets) in enumerate(zip(x, y, strict=True)):
        optimizer.learning_rate = 0.1 / (step + 1)
        g.MeanSquared()(network(features), targets).update(optimizer)
    expected = pytorchs_steps(start, OPTIMIZERS["momentum"][1], lambda step: 0.1 / (step + 1))
    assert_equals_pytorch(network, expected)


def test_state_is_kept_per_parameter_however_often_the_graph_is_built():
    optimizer, dense = g.Sgd(0.1, momentum=0.9), g.Dense(2)
    for rows in (1, 4, 2):
        dense(np.ones((rows, 3))).update(optimizer)
    w = dense.params["w"].output.node
    (velocity,) = optimizer.states(w)
    gradients = [rows * np.ones((3, 2)) for rows in (1, 4, 2)]
    np.testing.assert_allclose(velocity.array, (gradients[0] * 0.9 + gradients[1]) * 0.9 + gradients[2], rtol=1e-6)


def test_two_optimizers_of_one_parameter_have_states_of_their_own():
    first, second, dense = g.Sgd(0.1, momentum=0.9), g.Sgd(0.1, momentum=0.9), g.Dense(1)
    root = dense(np.ones((1, 2)))
    root.update(first)
    root.update(first)
    root.update(second)
    w = dense.params["w"].output.node
    np.testing.assert_allclose(first.states(w)[0].array, 1.9)
    np.testing.assert_allclose(second.states(w)[0].array, 1.0)


def test_a_parameter_may_be_assigned_between_steps():
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(0))
    root = g.MeanSquared()(dense(np.ones((1, 1), np.float32)), np.zeros((1, 1), np.float32))
    dense.params["w"].output.node.array = np.full((1, 1), 8, np.float32)
    root.update(g.Sgd(0.5))
    assert [dense.params[k].as_ndarray().item() for k in "wb"] == [4, -4]


# The cache of sessions


def opened(run) -> int:
    before = sessions.opened
    run()
    return sessions.opened - before


def step(network, optimizer, rows=4):
    g.MeanSquared()(network(np.ones((rows, 3), np.float32)), np.ones((rows, 2), np.float32)).backward().update(
        optimizer
    )


def test_a_hundred_rebuilt_steps_open_one_session():
    network, optimizer = g.Sequential([g.Dense(7), g.Relu(), g.Dense(2)]), g.Adam()

    def loop():
        for _ in range(100):
            step(network, optimizer)

    assert opened(loop) == 1


def test_a_short_last_batch_opens_no_session():
    network, optimizer = g.Sequential([g.Dense(9), g.Dense(2)]), g.Sgd(0.1)
    step(network, optimizer)
    assert opened(lambda: [step(network, optimizer, rows) for rows in (3, 1, 64)]) == 0
    x, _ = g.DistributorElement(np.ones((7, 3)), np.ones(7), batch_size=3).get_output_graphs()
    y = network(x)
    assert opened(lambda: [y.as_ndarray() for _ in range(3)]) == 1


def test_a_rebuilt_step_costs_the_same_however_many_were_before():
    """In calls of functions: nothing piles up on the parameters, and no rule, schema or inference is run again."""

    def n_calls(n_steps: int) -> int:
        profile = cProfile.Profile(builtins=True)
        profile.enable()
        for _ in range(n_steps):
            step(network, optimizer)
        profile.disable()
        return sum(entry.callcount for entry in profile.getstats())

    network, optimizer = g.Sequential([g.Dense(7), g.Relu(), g.Dense(2)]), g.Adam()
    first = n_calls(3) and n_calls(3)
    n_calls(100)
    assert n_calls(3) == pytest.approx(first, rel=0.02)
    assert first < 3 * 8000


def test_another_model_of_the_same_structure_opens_no_session():
    optimizer = g.Sgd(0.1)
    step(g.Sequential([g.Dense(11), g.Dense(2)]), optimizer)
    assert opened(lambda: step(g.Sequential([g.Dense(11), g.Dense(2)]), g.Sgd(0.5))) == 0


ANOTHER = {
    "operator": (lambda a, b: a * b, np.float32, (2,)),
    "element-type": (lambda a, b: a - b, np.float64, (2,)),
    "shape": (lambda a, b: a - b, np.float32, (3,)),
    "diamond": (lambda a, b: a - a, np.float32, (2,)),
}


@pytest.mark.parametrize(("connect", "dtype", "shape"), ANOTHER.values(), ids=ANOTHER)
def test_another_structure_is_another_session(connect, dtype, shape):
    def made(connect, dtype, shape):
        a, b = (g.StaticVariable(np.full(shape, value, dtype)) for value in (5, 3))
        return connect(a, b).as_ndarray()

    made(lambda a, b: a - b, np.float32, (2,))
    sessions._found.clear()
    assert opened(lambda: made(lambda a, b: a - b, np.float32, (2,))) == 1
    assert opened(lambda: made(connect, dtype, shape)) == 1
    np.testing.assert_array_equal(made(connect, dtype, shape), connect(*(np.full(shape, v, dtype) for v in (5, 3))))
    assert opened(lambda: made(connect, dtype, shape)) == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_constants_of_the_graph_are_part_of_its_structure(axis):
    array = np.arange(6.0).reshape(2, 3)
    for other in (0, 1):
        g.StaticVariable(array).sum(other).as_ndarray()
    np.testing.assert_array_equal(g.StaticVariable(array).sum(axis).as_ndarray(), array.sum(axis))


def test_the_cache_closes_the_sessions_that_were_used_longest_ago(monkeypatch):
    monkeypatch.setattr(sessions, "_size", 2)
    sessions._found.clear()

    def evaluate(n):
        g.StaticVariable(np.ones(n)).sum().as_ndarray()

    assert opened(lambda: [evaluate(n) for n in (11, 12, 11, 13, 11)]) == 3
    assert len(sessions._found) == 2
    assert opened(lambda: evaluate(12)) == 1


def test_looking_at_leaves_opens_no_session():
    dense = g.Dense(2)
    dense(np.ones((1, 3)))
    x, _ = g.DistributorElement(np.ones(2), np.ones(2)).get_output_graphs()
    assert opened(lambda: (str(dense.params["w"]), str(x), str(g.StaticVariable(np.ones(2))))) == 0


def test_a_rebuilt_loop_without_an_optimizer_keeps_the_momentum_of_the_default():
    dense, x, seen = rm.graph.Dense(1, initializer=rm.utility.initializer.Constant(1)), np.ones((1, 1), np.float32), []
    for _ in range(3):
        rm.graph.ConstantLoss()(dense(x)).backward().update()
        seen.append(dense["w"].as_ndarray().item())
    np.testing.assert_allclose(seen, [1 - 0.01, 1 - 0.01 * 2.4, 1 - 0.01 * 3.96], rtol=1e-6)
