"""The v2.0 API: a Node is an ndarray, `train` records, `grad` is PyTorch's."""

import numpy as np
import pytest
import torch

import renom_onnx as rm
from tests.messages import Cases, message_of

X = np.random.default_rng(0).uniform(0.5, 2, (4, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def seed_0():
    rm.set_seed(0)


def recorded(units=2, x=X, **options):
    """Return a dense layer and what it computed while it was recording."""
    dense = rm.Dense(units, **options)
    with dense.train():
        return dense, dense(x)


def tensors(*models):
    return [torch.tensor(p.as_ndarray(), requires_grad=True) for m in models for p in m.params.values()]


# A node is an array


def test_a_node_is_an_array_with_numpys_functions():
    node = rm.Dense(3, initializer=rm.utility.initializer.Constant(1))(np.arange(4).reshape(2, 2))
    assert isinstance(node, np.ndarray)
    assert str(node) == "[[1. 1. 1.]\n [5. 5. 5.]]"
    np.testing.assert_array_equal(np.sum(node, axis=0), [6, 6, 6])
    assert node.dtype == np.float32
    assert type(node.as_ndarray()) is np.ndarray


def test_a_node_is_input_of_both_apis():
    node = rm.Dense(3)(X)
    other = rm.Dense(2)
    value = other(node)
    w, b = (p.as_ndarray() for p in other.params.values())
    np.testing.assert_allclose(value, np.asarray(node) @ w + b, rtol=1e-5)
    element = rm.graph.Relu()(node)
    np.testing.assert_array_equal(element.as_ndarray(), np.maximum(node, 0))
    np.testing.assert_array_equal((node + element).as_ndarray(), (element + node).as_ndarray())


def test_dense_without_bias_has_no_b():
    dense = rm.Dense(2, ignore_bias=True)
    np.testing.assert_allclose(dense(X), X @ dense.params["w"].as_ndarray(), rtol=1e-5)
    assert list(dense.params) == ["w"]


def test_dense_with_an_input_size_has_weights_before_the_first_call():
    dense = rm.Dense(2, input_size=3)
    assert dense.params["w"].shape == (3, 2)
    assert dense(X).shape == (4, 2)


@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (0, False), (1, True), ((0, 1), False)], ids=str)
def test_sum_is_numpys(axis, keepdims):
    found = rm.sum(X, axis, keepdims)
    assert isinstance(found, rm.Node)
    np.testing.assert_allclose(found, X.sum(axis, keepdims=keepdims), rtol=1e-6)


def test_what_was_not_recorded_computes_like_any_array():
    node = rm.Dense(2)(X)
    node += 1
    node[0] = 0
    assert node[0].tolist() == [0, 0]
    assert (node > 100).sum() == 0
    assert np.exp(node).shape == node.shape


# Recording


def test_nothing_is_recorded_outside_train():
    dense = rm.Dense(2)
    assert dense(X).element is None
    with dense.train():
        assert dense(X).element is not None
    assert dense(X).element is None


def test_recording_ends_with_an_exception():
    dense = rm.Dense(2)
    with pytest.raises(KeyError), dense.train():
        raise KeyError
    assert dense(X).element is None


def test_train_may_be_nested():
    dense = rm.Dense(2)
    with dense.train():
        with dense.train():
            pass
        assert dense(X).element is not None


def test_what_is_computed_from_a_recorded_node_is_recorded():
    _, node = recorded()
    other = rm.Dense(2)
    assert other(node).element is not None
    assert (node + 1).element is not None
    assert rm.sum(node).element is not None


def test_parts_and_views_of_a_recorded_node_are_not_recorded():
    _, node = recorded()
    for part in (node[0], node.T, node.reshape(-1), node.copy()):
        assert isinstance(part, rm.Node)
        assert part.element is None


def test_a_recorded_node_cannot_be_written_to():
    """The record would go on with the old values."""
    _, node = recorded()
    with pytest.raises(ValueError, match="read-only"):
        node += 1
    with pytest.raises(ValueError, match="read-only"):
        node[0] = 1


OPERATIONS = {
    "add": (lambda n: n + 2, lambda t: t + 2),
    "add-array": (lambda n: X[:, :1] + n, lambda t: torch.tensor(X[:, :1]) + t),
    "add-itself": (lambda n: n + n, lambda t: t + t),
    "subtract-from": (lambda n: 1 - n, lambda t: 1 - t),
    "multiply-row": (lambda n: n * X[0, :2], lambda t: t * torch.tensor(X[0, :2])),
    "divide": (lambda n: n / 4, lambda t: t / 4),
    "divide-by": (lambda n: 3 / (n * n + 1), lambda t: 3 / (t * t + 1)),
    "square": (lambda n: n**2, lambda t: t**2),
    "cube": (lambda n: n**3, lambda t: t**3),
    "first-power": (lambda n: n**1, lambda t: t**1),
    "root": (lambda n: (n * n + 1) ** 0.5, lambda t: (t * t + 1) ** 0.5),
    "inverse": (lambda n: (n * n + 1) ** -1, lambda t: 1 / (t * t + 1)),
    "exponent": (lambda n: 2**n, lambda t: 2**t),
    "matmul": (lambda n: n @ X[:2], lambda t: t @ torch.tensor(X[:2])),
    "matmul-left": (lambda n: X.T @ n, lambda t: torch.tensor(X.T) @ t),
    "negative": (lambda n: -n, lambda t: -t),
    "positive": (lambda n: +n, lambda t: +t),
    "absolute": (abs, torch.abs),
    "exp": (np.exp, torch.exp),
    "tanh": (np.tanh, torch.tanh),
    "log": (lambda n: np.log(n * n + 1), lambda t: torch.log(t * t + 1)),
    "sqrt": (lambda n: np.sqrt(n * n + 1), lambda t: torch.sqrt(t * t + 1)),
    "sum": (lambda n: rm.sum(n, axis=0) * 2, lambda t: t.sum(0) * 2),
}


@pytest.mark.parametrize(("ours", "pytorchs"), OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_on_a_recorded_node_has_pytorchs_gradient(ours, pytorchs):
    _, node = recorded()
    result = ours(node)
    assert isinstance(result, rm.Node)
    leaf = torch.tensor(np.array(node), requires_grad=True)
    expected = pytorchs(leaf)
    np.testing.assert_allclose(result, expected.detach(), rtol=1e-5)
    expected.sum().backward()
    np.testing.assert_allclose(rm.sum(result).grad().get(node), leaf.grad, rtol=1e-4, atol=1e-6)


# Gradients and updates


def test_gradients_of_several_layers_are_pytorchs():
    first, second = rm.Dense(5), rm.Dense(1)
    with first.train():
        hidden = first(X)
        loss = rm.sum(second(np.tanh(hidden)) ** 2)
    w1, b1, w2, b2 = tensors(first, second)
    expected = torch.tensor(X) @ w1 + b1
    expected.retain_grad()
    ((torch.tanh(expected) @ w2 + b2) ** 2).sum().backward()
    gradient = loss.grad().get(hidden)
    assert isinstance(gradient, rm.Node)
    np.testing.assert_allclose(gradient, expected.grad, rtol=1e-4, atol=1e-6)


OPTIMIZERS = {
    "default": (rm.Sgd, dict(lr=0.1, momentum=0.4, nesterov=True)),
    "momentum": (lambda: rm.Sgd(0.02, momentum=0.9, nesterov=False), dict(lr=0.02, momentum=0.9)),
    "plain": (lambda: rm.Sgd(0.05, momentum=0, nesterov=False), dict(lr=0.05)),
    "graphs": (lambda: rm.graph.Sgd(0.05, momentum=0.5), dict(lr=0.05, momentum=0.5)),
}


@pytest.mark.parametrize(("make", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_are_pytorchs(make, options):
    first, second, optimizer = rm.Dense(5), rm.Dense(1), make()
    second(first(X))
    variables = w1, b1, w2, b2 = tensors(first, second)
    reference = torch.optim.SGD(variables, **options)
    for step in range(10):
        x = X + step / 10
        with first.train():
            loss = rm.sum((second(np.tanh(first(x))) - 1) ** 2) / 8
        loss.grad().update(optimizer)
        reference.zero_grad()
        expected = ((torch.tanh(torch.tensor(x) @ w1 + b1) @ w2 + b2 - 1) ** 2).sum() / 8
        expected.backward()
        reference.step()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
    for found, wanted in zip([*first.params.values(), *second.params.values()], variables, strict=True):
        np.testing.assert_allclose(found.as_ndarray(), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_an_update_without_an_optimizer_is_the_seeds():
    dense, node = recorded(1, ignore_bias=True)
    before = dense.params["w"].as_ndarray()
    rm.sum(node).grad().update()
    np.testing.assert_allclose(dense.params["w"].as_ndarray(), before - 0.01 * X.sum(0)[:, None], rtol=1e-5)


ERRORS: Cases = {
    "not-recorded": (
        lambda: rm.sum(rm.Dense(1)(X)).grad(),
        rm.GradientError,
        "grad: the node must have been recorded, got one that was not. Compute it inside 'with model.train():'.",
    ),
    "several-elements": (
        lambda: recorded()[1].grad(),  # noqa: PLW0108  (its line is asked for)
        rm.ShapeError,
        "grad: a node must have one element, got shape [4, 2]. Reduce it with rm.sum first.",
    ),
    "gradient-of-an-array": (
        lambda: rm.sum(recorded()[1]).grad().get(X),
        rm.GradientError,
        "Grads.get: the node must have been recorded, got one that was not.",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_the_rule_and_what_was_got_and_names_the_users_line(call, kind, message):
    assert message_of(call, kind) == f"{message} {{created}}"


def test_the_gradient_of_a_stranger_is_an_error():
    (_, first), (_, second) = recorded(), recorded()
    with pytest.raises(rm.GradientError, match="the value must be one that the root depends on, got a float32"):
        rm.sum(first).grad().get(second)


# The distributor


def test_a_distributor_gives_pairs_of_arrays_and_no_empty_batch():
    x = np.arange(10).reshape(-1, 1)
    data = rm.NdarrayDistributor(x, x * 2)
    assert len(data) == 10
    for batch_size, sizes in ((1, [1] * 10), (5, [5, 5]), (4, [4, 4, 2]), (64, [10])):
        pairs = list(data.batch(batch_size=batch_size, shuffle=False))
        assert [len(a) for a, _ in pairs] == sizes
        assert all(type(a) is type(b) is np.ndarray for a, b in pairs)
        np.testing.assert_array_equal(np.concatenate([a for a, _ in pairs]), x)
        np.testing.assert_array_equal(np.concatenate([b for _, b in pairs]), x * 2)


def test_every_shuffled_pass_has_an_order_of_its_own_that_the_seed_fixes():
    def passes():
        data = rm.NdarrayDistributor(np.arange(20), np.arange(20) * 2)
        pairs = [list(data.batch(6)) for _ in range(3)]
        assert all((a * 2 == b).all() for batches in pairs for a, b in batches)
        return [np.concatenate([a for a, _ in batches]).tolist() for batches in pairs]

    first = passes()
    assert len({tuple(order) for order in first}) == 3
    assert all(sorted(order) == list(range(20)) for order in first)
    assert passes() == first


def test_passes_may_overlap():
    data = rm.NdarrayDistributor(np.arange(4), np.arange(4))
    pairs = [(a.item(), b.item()) for a, _ in data.batch(1, shuffle=False) for b, _ in data.batch(1, shuffle=False)]
    assert pairs == [(a, b) for a in range(4) for b in range(4)]
