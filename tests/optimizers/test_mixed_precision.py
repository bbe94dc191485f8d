"""Training in float16 with master weights in float32, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import renom_onnx as rm

G = rm.graph


def cnn() -> Any:
    return G.Sequential(
        [
            G.Conv(8, padding=1),
            G.Relu(),
            G.MaxPool(2, 0, 2),
            G.Conv(8),
            G.Relu(),
            G.MaxPool(2),
            G.Flatten(),
            G.Dense(10),
        ]
    )


def mlp() -> Any:
    return G.Sequential([G.Flatten(), G.Dense(32), G.Tanh(), G.Dense(10)])


def train(make: Any, dtype: str | None, scale: Any) -> tuple[list[float], Any, Any]:
    digits = load_digits()
    images = (digits.images[:512, None] / 16).astype(np.float32)
    rm.set_seed(0)
    x, y = G.DistributorElement(images, digits.target[:512], batch_size=64, shuffle=False).get_output_graphs()
    model = make()
    with G.autocast(dtype):
        loss = G.SoftmaxCrossEntropy()(model(x), y)
    optimizer = G.Sgd(0.1, momentum=0.9, loss_scale=scale)
    executor = loss.get_training_executor(optimizer, devices=["cpu"])
    assert rm.converters.lint(executor.session.to_model()) == []
    return executor.execute(epochs=4, progress=False).losses, model, optimizer


@pytest.mark.parametrize("make", [cnn, mlp])
def test_float16_training_follows_float32(make: Any):
    expected, _, _ = train(make, None, None)
    losses, model, optimizer = train(make, "float16", G.LossScale(1024))
    np.testing.assert_allclose(losses, expected, rtol=0.03)
    assert losses[-1] < losses[0]
    assert optimizer.loss_scale.good_steps.array == 32
    assert all(p.array.dtype == np.float32 for p in model.parameters())


def test_matrix_products_are_float16_and_the_loss_is_float32():
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int64)
    with G.autocast("float16"):
        hidden = G.Relu()(G.Dense(5)(x))
        loss = G.SoftmaxCrossEntropy()(G.Dense(2)(hidden), y)
    assert hidden.dtype == np.float16
    assert loss.dtype == np.float32
    assert G.Dense(2)(x).dtype == np.float32


def test_another_type_is_refused():
    with pytest.raises(rm.DTypeError) as raised, G.autocast("int8"):
        pass
    assert str(raised.value).startswith(
        'autocast: dtype must be "float16", "bfloat16" or None, got \'int8\'. Created at'
    )


def test_bfloat16_is_refused_where_the_operator_has_none():
    with pytest.raises(rm.DTypeError, match=r"^Conv: .* unsupported type: tensor\(bfloat16\)"), G.autocast("bfloat16"):
        G.Conv(2)(np.ones((1, 1, 5, 5), np.float32))
