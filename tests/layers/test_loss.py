"""Losses against their formulas in PyTorch."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from renom_onnx.converters import lint, to_training_onnx
from renom_onnx.graph.element import static
from tests.layers.oracle import assert_close, normal

g = rm.graph
X = normal(4, 3) * 2
REAL = normal(4, 3, seed=5)
SHARE = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
CLASSES = np.array([2, 0, 1, 1])
PROBABILITY = np.random.default_rng(1).dirichlet(np.ones(3), 4).astype(np.float32)

huber = functools.partial(functional.huber_loss, reduction="none")
binary = functools.partial(functional.binary_cross_entropy_with_logits, reduction="none")
CASES = {
    "mean_squared": (g.MeanSquared, {}, X, REAL, lambda x, t: (x - t) ** 2 / 2),
    "smooth_l1": (g.SmoothL1, {}, X, REAL, huber),
    "smooth_l1-delta": (g.SmoothL1, {"delta": 0.4}, X, REAL, lambda x, t: huber(x, t, delta=0.4)),
    "cross_entropy": (g.CrossEntropy, {}, PROBABILITY, SHARE, lambda x, t: -t * torch.log(x + 1e-8)),
    "sigmoid_cross_entropy": (
        g.SigmoidCrossEntropy, {}, X, SHARE, binary,
    ),
    "softmax_cross_entropy": (
        g.SoftmaxCrossEntropy, {}, X, CLASSES, lambda x, t: functional.cross_entropy(x, t, reduction="none"),
    ),
    "softmax_cross_entropy-shares": (
        g.SoftmaxCrossEntropy, {}, X, SHARE, lambda x, t: -t * functional.log_softmax(x, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_loss_is_its_formula(name, reduction):
    kind, options, x, t, formula = CASES[name]
    leaf = torch.tensor(x, requires_grad=True)
    each = formula(leaf, torch.tensor(t))
    wanted = {"mean": each.sum() / 4, "sum": each.sum(), None: each}[reduction]
    source = static(x, is_batch=True)
    loss = kind(reduction=reduction, **options)(source, t)
    assert_close(loss.as_ndarray(), wanted.detach(), "value")
    wanted.sum().backward()
    assert_close(loss.backward().get_gradient(source).as_ndarray(), leaf.grad, "gradient")
    function = getattr(g, name.split("-")[0])
    assert_close(function(source, t, reduction=reduction, **options).as_ndarray(), wanted.detach(), "function")


MAP = normal(2, 3, 4, 5) * 2
MAP_CLASSES = np.random.default_rng(2).integers(0, 3, (2, 4, 5))
MAP_SHARE = np.random.default_rng(3).dirichlet(np.ones(3), (2, 4, 5)).transpose(0, 3, 1, 2).astype(np.float32)
WEIGHT = [0.5, 2.0, 1.25]
SOFTMAX_CASES = {
    "rows-weight": (X, CLASSES, dict(weight=WEIGHT)),
    "rows-ignore": (X, CLASSES, dict(ignore_index=1)),
    "map": (MAP, MAP_CLASSES, {}),
    "map-int32": (MAP, MAP_CLASSES.astype(np.int32), {}),
    "map-column": (MAP, MAP_CLASSES[:, None], {}),
    "map-weight": (MAP, MAP_CLASSES, dict(weight=WEIGHT)),
    "map-ignore": (MAP, np.where(MAP_CLASSES == 2, -100, MAP_CLASSES), dict(ignore_index=-100)),
    "map-both": (MAP, MAP_CLASSES, dict(weight=WEIGHT, ignore_index=0)),
    "map-shares": (MAP, MAP_SHARE, {}),
    "sequence": (MAP[:, :, 0], MAP_CLASSES[:, 0], {}),
}


@pytest.mark.parametrize("name", SOFTMAX_CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_softmax_cross_entropy_is_torchs(name, reduction):
    x, t, options = SOFTMAX_CASES[name]
    leaf, target = torch.tensor(x, requires_grad=True), torch.tensor(t)
    if t.dtype.kind == "f" and reduction is None:
        wanted = -target * functional.log_softmax(leaf, 1)  # every class has its own
    else:
        target = target if t.dtype.kind == "f" else target.long().reshape(x[:, 0].shape)
        arguments = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
        wanted = functional.cross_entropy(leaf, target, reduction=reduction or "none", **arguments)
    source = static(x, is_batch=True)
    loss = g.SoftmaxCrossEntropy(reduction, **options)(source, t)
    assert_close(loss.as_ndarray(), wanted.detach(), "value")
    wanted.sum().backward()
    assert_close(loss.backward().get_gradient(source).as_ndarray(), leaf.grad, "gradient")
    assert_close(g.softmax_cross_entropy(source, t, reduction, **options).as_ndarray(), wanted.detach(), "function")


@pytest.mark.parametrize("name", ["map", "map-both", "map-shares"])
def test_softmax_cross_entropy_of_a_map_trains_from_a_file(name):
    x, t, options = SOFTMAX_CASES[name]
    file = to_training_onnx(g.SoftmaxCrossEntropy(**options)(g.Conv(3)(x), t[..., 1:-1, 1:-1]), g.Sgd(0.1))
    assert lint(file) == []
    session = rm.runtime.TrainingSession(file, device="cpu")
    losses = [float(session.step({"x": x, "y": t[..., 1:-1, 1:-1]})) for _ in range(10)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_constant_loss(reduction):
    source = static(X, is_batch=True)
    loss = g.ConstantLoss(reduction)(source)
    wanted = {"mean": X.sum() / 4, "sum": X.sum(), None: X}[reduction]
    assert_close(loss.as_ndarray(), wanted, "value")
    gradient = loss.backward().get_gradient(source).as_ndarray()
    assert_close(gradient, np.ones_like(X) / (4 if reduction == "mean" else 1), "gradient")
    assert g.ConstantLossElement is g.ConstantLoss


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_clipped_mean_squared_clips_the_gradient_only(reduction):
    """Its value is that of torch's mse_loss, halved; its gradient that of huber_loss."""
    leaf, target = torch.tensor(X, requires_grad=True), torch.tensor(REAL)
    value = functional.mse_loss(leaf, target, reduction="none") / 2
    clipped = functional.huber_loss(leaf, target, delta=0.5, reduction="none").sum() / (4 if reduction == "mean" else 1)
    clipped.backward()
    wanted = {"mean": value.sum() / 4, "sum": value.sum(), None: value}[reduction]
    source = static(X, is_batch=True)
    loss = g.ClippedMeanSquared(0.5, reduction)(source, REAL)
    assert_close(loss.as_ndarray(), wanted.detach(), "value")
    assert_close(loss.backward().get_gradient(source).as_ndarray(), leaf.grad, "gradient")
    function = g.clipped_mean_squared(source, REAL, 0.5, reduction)
    assert_close(function.as_ndarray(), wanted.detach(), "function")


def test_every_loss_is_compared():
    kinds = {getattr(g, name) for name in g.__all__}
    losses = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, g.Loss)}
    assert losses - {g.Loss} == {kind for kind, *_ in CASES.values()} | {g.ConstantLoss, g.ClippedMeanSquared}


def test_sigmoid_cross_entropy_of_large_scores_is_exact():
    scores = np.array([[1000.0], [-1000.0]], np.float32)
    source = static(scores, is_batch=True)
    loss = g.SigmoidCrossEntropy("sum")(source, np.array([[0.0], [0.0]]))
    assert loss.as_ndarray() == 1000
    np.testing.assert_array_equal(loss.backward().get_gradient(source).as_ndarray(), [[1], [0]])


def test_operations_after_a_loss_scale_its_gradient():
    source = static(X, is_batch=True)
    loss = g.MeanSquared()(source, REAL) * 2.0
    assert_close(loss.backward().get_gradient(source).as_ndarray(), 2 * (X - REAL) / 4, "gradient")


def test_elementwise_loss_trains_its_sum_and_exports_its_prediction():
    dense = g.Dense(3)
    prediction = dense(X)
    loss = g.SoftmaxCrossEntropy(None)(prediction, CLASSES)
    file = to_training_onnx(loss)
    assert lint(file) == []
    assert [o.name for o in file.graph.output] == ["output"]
    assert [d.dim_param or d.dim_value for d in file.graph.output[0].type.tensor_type.shape.dim] == ["N", 3]
    before = loss.as_ndarray().sum()
    loss.update(g.Sgd(0.01))
    assert loss.as_ndarray().sum() < before


@pytest.mark.parametrize("name", CASES)
def test_loss_trains_from_a_file(name):
    kind, options, _, t, _ = CASES[name]
    prediction = g.Dense(3)(X)
    if kind is g.CrossEntropy:
        prediction = g.softmax(prediction)
    file = to_training_onnx(kind(**options)(prediction, t), g.Sgd(0.1))
    assert lint(file) == []
    session = rm.runtime.TrainingSession(file, device="cpu")
    target = t if t.dtype.kind == "i" else t.astype(np.float32)
    losses = [float(session.step({"x": X, "y": target})) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_errors_of_losses(message):
    with message(rm.ShapeError, "SmoothL1: delta must be positive, got 0. Created at test_loss.py:{line}."):
        g.SmoothL1(delta=0)
    with message(rm.ShapeError, "ClippedMeanSquared: clip must be positive, got -1. Created at test_loss.py:{line}."):
        g.ClippedMeanSquared(clip=-1)
    for kind in (g.MeanSquared, g.SmoothL1, g.ClippedMeanSquared, g.CrossEntropy, g.SigmoidCrossEntropy):
        text = (
            f"{kind.__name__}: x and t must have the same shape, got x is float32[N, 3], t is float32[N]. "
            "Created at test_loss.py:{line}."
        )
        with message(rm.ShapeError, text):
            kind()(X, REAL[:, 0])
    text = (
        "SoftmaxCrossEntropy: t must be class indices (N, *S) or (N, 1, *S), or probabilities of x's shape (N, K, *S), "
        "got x is float32[N, 3, 4, 5], t is int64[N, 5, 4]. Created at test_loss.py:{line}."
    )
    with message(rm.ShapeError, text):
        g.SoftmaxCrossEntropy()(MAP, MAP_CLASSES.transpose(0, 2, 1))
    text = (
        "SoftmaxCrossEntropy: weight must be K numbers, got x is float32[N, 3], weight of shape [2]. "
        "Created at test_loss.py:{line}."
    )
    with message(rm.ShapeError, text):
        g.SoftmaxCrossEntropy(weight=[1, 2])(X, CLASSES)
    text = (
        "SoftmaxCrossEntropy: with weight or ignore_index, t must be class indices, got x is float32[N, 3], t is "
        "float32[N, 3]. Give the classes, or weigh the probabilities. Created at test_loss.py:{line}."
    )
    with message(rm.DTypeError, text):
        g.SoftmaxCrossEntropy(ignore_index=0)(X, SHARE)
    text = "MeanSquared: reduction must be 'mean', 'sum' or None, got 'avg'. Created at test_loss.py:{line}."
    with message(rm.ConversionError, text):
        g.MeanSquared("avg")
