"""The losses of the seed against PyTorch, the forms that targets may have, and sums of losses."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm

g = rm.graph

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
INDICES = np.array([0, 2, 1, 2])
P = np.random.default_rng(1).dirichlet(np.ones(3), 4).astype(np.float32)

TARGETS = {
    "int64": INDICES,
    "int32": INDICES.astype(np.int32),
    "int8": INDICES.astype(np.int8),
    "uint8": INDICES.astype(np.uint8),
    "column": INDICES.reshape(-1, 1),
    "int32-column": INDICES.astype(np.int32).reshape(-1, 1),
    "probabilities": P,
    "float64-probabilities": P.astype(np.float64),
    "one-hot": np.eye(3, dtype=np.int64)[INDICES],
    "one-hot-bool": np.eye(3, dtype=bool)[INDICES],
}


def gradient_of(loss, leaf):
    return loss.backward().get_gradient(leaf.output).as_ndarray()


@pytest.mark.parametrize("is_data", [True, False], ids=["distributor", "array"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_softmax_cross_entropy_is_pytorchs_for_every_form_of_target(target, reduction, is_data):
    x, t = X, target
    if is_data:
        x, t = g.DistributorElement(X, target, batch_size=4, shuffle=False).get_output_graphs()
    leaf = x if is_data else g.StaticVariable(x)
    loss = g.SoftmaxCrossEntropy(reduction)(leaf, t)
    torch_x = torch.tensor(X, requires_grad=True)
    is_rows = target.shape == X.shape
    torch_t = torch.tensor(target.astype(np.float32) if is_rows else target.astype(np.int64).reshape(-1))
    expected = functional.cross_entropy(torch_x, torch_t, reduction=reduction)
    expected.backward()
    np.testing.assert_allclose(loss.as_ndarray(), expected.item(), rtol=1e-5)
    if is_data:
        x.output.node.distributor.reset()
    np.testing.assert_allclose(gradient_of(loss, leaf), torch_x.grad, rtol=1e-4, atol=1e-6)


def test_a_single_class_is_an_index_if_it_is_an_integer_and_a_probability_if_it_is_not():
    x = np.ones((2, 1), np.float32)
    for t in (np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32)):
        assert g.SoftmaxCrossEntropy()(x, t).as_ndarray() == 0


@pytest.mark.parametrize("shape", [(5, 2), (5,), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mean_squared_is_half_the_squares_over_the_rows(reduction, shape):
    rng = np.random.default_rng(0)
    x, t = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    leaf = g.StaticVariable(x)
    loss = g.MeanSquared(reduction)(leaf, t)
    rows = shape[0] if reduction == "mean" else 1
    np.testing.assert_allclose(loss.as_ndarray(), ((x - t) ** 2).sum() / 2 / rows, rtol=1e-5)
    np.testing.assert_allclose(gradient_of(loss, leaf), (x - t) / rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 10.0), ("mean", 5.0)])
def test_constant_loss_is_the_sum_or_the_sum_over_the_rows(reduction, expected):
    leaf = g.StaticVariable(np.array([[1.0, 2.0], [3.0, 4.0]]))
    loss = g.ConstantLoss(reduction)(leaf)
    assert loss.as_ndarray() == expected
    np.testing.assert_allclose(gradient_of(loss, leaf), np.full((2, 2), expected / 10))


def test_integers_are_lost_in_the_type_of_parameters():
    data = np.array([[1, 2]])
    for loss in (g.ConstantLoss()(data), g.MeanSquared()(data, data + 1), g.SoftmaxCrossEntropy()(data, np.array([1]))):
        assert (loss.dtype, loss.shape) == (rm.precision, ())


def test_a_loss_is_a_number_without_axes():
    loss = g.MeanSquared()(np.ones((3, 2)), np.zeros((3, 2)))
    assert (loss.shape, str(loss)) == ((), "1.0")


def test_the_targets_gradient_is_there_for_who_asks():
    t = g.StaticVariable(np.array([[1.0], [5.0]], np.float32))
    assert gradient_of(g.MeanSquared()(np.array([[2.0], [2.0]]), t), t).tolist() == [[-0.5], [1.5]]


# Sums of losses


def two_heads():
    x = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    body, first, second = g.Dense(5), g.Dense(1), g.Dense(3)
    y = g.Relu()(body(x))
    a = g.MeanSquared()(first(y), np.ones((6, 1), np.float32))
    b = g.SoftmaxCrossEntropy()(second(y), np.arange(6) % 3)
    return x, (body, first, second), a, b


def torch_heads(x, layers):
    tensors = [torch.tensor(layer.params[k].as_ndarray(), requires_grad=True) for layer in layers for k in "wb"]
    w, b, w1, b1, w2, b2 = tensors
    y = torch.relu(torch.tensor(x) @ w + b)
    first = ((y @ w1 + b1 - 1) ** 2).sum() / 2 / len(x)
    return first, functional.cross_entropy(y @ w2 + b2, torch.arange(6) % 3), tensors


COMBINATIONS = {
    "sum": lambda a, b: a + b,
    "weighted": lambda a, b: a + 0.3 * b,
    "difference-over-a-number": lambda a, b: (a - b * 2) / 4,
    "product": lambda a, b: a * b,
}


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_a_combination_of_losses_is_a_loss(combine):
    x, layers, a, b = two_heads()
    total = combine(a, b)
    first, second, tensors = torch_heads(x, layers)
    expected = combine(first, second)
    expected.backward()
    np.testing.assert_allclose(total.as_ndarray(), expected.item(), rtol=1e-5)
    total.update(g.Sgd(0.1))
    after = [layer.params[k].as_ndarray() for layer in layers for k in "wb"]
    for value, tensor in zip(after, tensors, strict=True):
        np.testing.assert_allclose(value, (tensor - 0.1 * tensor.grad).detach(), rtol=1e-4, atol=1e-6)


def test_a_combination_of_losses_is_exported_with_the_predictions_of_each():
    _, _, a, b = two_heads()
    model = rm.converters.to_training_onnx(a + 0.3 * b, g.Sgd(0.1))
    assert [o.name for o in model.graph.output] == ["output1", "output2"]


def test_several_losses_on_arrays_are_trained_by_the_executor():
    """The arrays of each head are fed where the file wants them, whatever the order of the losses."""
    _, layers, a, b = two_heads()
    start = [layer.params[k].as_ndarray() for layer in layers for k in "wb"]
    history = (a + b).get_training_executor(g.Sgd(0.1), ["cpu"]).execute(3, progress=False)
    for layer, key, array in zip([la for la in layers for _ in "wb"], "wb" * 3, start, strict=True):
        layer.params[key].output.node.array = array
    losses = []
    for _ in range(3):
        losses.append((a + b).as_ndarray().item())
        (a + b).update(g.Sgd(0.1))
    np.testing.assert_allclose(history.losses, losses, rtol=1e-5)
