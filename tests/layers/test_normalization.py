"""Normalization against PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from renom_onnx.runtime import TrainingSession
from tests.layers.oracle import assert_close, check, normal

g = rm.graph


def batch_norm(momentum=0.9, unbiased=False):
    """Return training, inference and next statistics by their definition."""

    def moments(x):
        axes = [0, *range(2, x.dim())]
        return x.mean(axes), x.var(axes, correction=0), x.var(axes, correction=int(unbiased))

    def scaled(p, x, mean, var):
        shape = [-1, *[1] * (x.dim() - 2)]
        y = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + 1e-5)
        return y * p["w"].reshape(shape) + p["b"].reshape(shape)

    return {
        "formula": lambda p, x: scaled(p, x, *moments(x)[:2]),
        "inference": lambda p, x: scaled(p, x, p["mean"], p["var"]),
        "statistics": {
            "mean": lambda old, x: old * momentum + moments(x)[0] * (1 - momentum),
            "var": lambda old, x: old * momentum + moments(x)[2] * (1 - momentum),
        },
    }


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (4, 3, 5, 6), (3, 2, 4, 3, 5)], ids=str)
@pytest.mark.parametrize("unbiased", [False, True], ids=["onnx", "torch"])
def test_batch_normalize_per_channel(shape, unbiased):
    layer = g.BatchNormalize(momentum=0.8, unbiased=unbiased)
    check(layer, [normal(*shape) * 2 + 1], **batch_norm(0.8, unbiased))


def test_batch_normalize_moves_statistics_as_torch_does():
    layer, oracle = g.BatchNormalize(unbiased=True), torch.nn.BatchNorm2d(3, momentum=0.1)
    oracle.train()
    x = normal(5, 3, 4, 4) + 2
    for _ in range(2):
        rm.graph.ConstantLoss()(layer(x)).backward().update(g.Sgd(0.0, momentum=0.0))
        oracle(torch.tensor(x))
    assert_close(layer["mean"].as_ndarray(), oracle.running_mean, "mean")
    assert_close(layer["var"].as_ndarray(), oracle.running_var, "var")
    oracle.eval()
    assert_close(layer(x).as_ndarray(), oracle(torch.tensor(x)).detach(), "inference")


@pytest.mark.parametrize("options", [dict(axis=None), dict(mode="activation")], ids=str)
def test_batch_normalize_per_element(options):
    flat = batch_norm()
    layer = g.BatchNormalize(**options)
    check(
        layer,
        [normal(6, 2, 3, 4)],
        formula=lambda p, x: flat["formula"](p, x.flatten(1)).reshape(x.shape),
        inference=lambda p, x: flat["inference"](p, x.flatten(1)).reshape(x.shape),
        statistics={k: (lambda old, x, f=f: f(old, x.flatten(1))) for k, f in flat["statistics"].items()},
    )
    assert layer["w"].shape == (24,)


def test_batch_normalize_used_twice_moves_its_statistics_twice():
    layer = g.BatchNormalize(momentum=0.5)
    x, z = normal(6, 2) + 1, normal(6, 2, seed=1) - 1
    loss = g.ConstantLoss()(layer(x) + layer(z))
    loss.backward().update(g.Sgd(0.0, momentum=0.0))
    assert_close(layer["mean"].as_ndarray(), (0.5 * x.mean(0)) * 0.5 + z.mean(0) * 0.5, "mean")


def test_frozen_batch_normalize_still_moves_its_statistics():
    model = g.Sequential([g.Dense(3), g.BatchNormalize()])
    model.set_updatable(False, "batch_normalize1.*")
    loss = g.ConstantLoss()(model(normal(4, 2)))
    before = model[1]["mean"].as_ndarray()
    loss.backward().update(g.Sgd(0.1))
    assert model[1]["w"].as_ndarray().tolist() == [1, 1, 1]
    assert np.abs(model[1]["mean"].as_ndarray() - before).max() > 0


def test_statistics_are_weights_of_the_file_and_reach_inference():
    model = g.Sequential([g.Dense(3), g.BatchNormalize(momentum=0.0)])
    x = normal(8, 2)
    file = rm.converters.to_training_onnx(g.ConstantLoss()(model(x)), g.Sgd(0.0))
    assert {"batch_normalize1.mean", "batch_normalize1.var"} <= {t.name for t in file.graph.initializer}
    session = TrainingSession(file, device="cpu")
    session.step({"x": x})
    h = x @ session.read("dense1.w")
    assert_close(session.read("batch_normalize1.mean"), h.mean(0), "mean")
    wanted = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    assert_close(session.evaluate({"x": x})["output"], wanted, "inference after a step")


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalize(axis):
    n = 1 if axis == -1 else 2
    check(
        g.LayerNormalize(axis=axis, epsilon=1e-3),
        [normal(4, 3, 5)],
        lambda p, x: functional.layer_norm(x, x.shape[-n:], p["g"], p["b"], 1e-3),
    )


def test_layer_normalize_of_a_matrix():
    check(g.LayerNormalize(gain=0.1), [normal(4, 6)], lambda p, x: functional.layer_norm(x, (6,), p["g"], p["b"]))


@pytest.mark.parametrize("shape", [(4, 6, 5), (2, 6, 3, 4)], ids=str)
def test_group_and_instance_normalize(shape):
    x = normal(*shape) + 1
    check(g.GroupNormalize(3), [x], lambda p, x: functional.group_norm(x, 3, p["g"], p["b"]))
    check(g.InstanceNormalize(), [x], lambda p, x: functional.instance_norm(x, weight=p["g"], bias=p["b"]))


def test_rms_normalize():
    check(g.RmsNormalize(), [normal(4, 3, 6)], lambda p, x: functional.rms_norm(x, (6,), p["g"], 1e-5))


@pytest.mark.parametrize("bias", [False, True])
def test_weight_normalize(bias):
    def formula(p, x):
        y = x @ (p["w"] * p["g"] / p["w"].norm(dim=0, keepdim=True))
        return y + p["b"] if bias else y

    check(g.WeightNormalize(3, bias=bias), [normal(4, 6)], formula)


def test_l2_norm():
    check(
        g.L2Norm(scale=3),
        [normal(2, 4, 3, 3)],
        lambda p, x: p["w"] * x / (x.square().sum(1, keepdim=True).sqrt() + 1e-7),
    )


@pytest.mark.parametrize("n", [3, 4, 5])
def test_lrn_does_not_divide_alpha(n):
    size = n // 2 * 2 + 1
    check(
        g.Lrn(n=n, k=1.5, a=0.1, b=0.6),
        [normal(2, 6, 3, 3)],
        lambda p, x: functional.local_response_norm(x, size, alpha=0.1 * size, beta=0.6, k=1.5),
    )
