"""Gradient clipping of what is built in a block, against PyTorch's clamped gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import renom_onnx as rm
from tests.layers.oracle import normal
from tests.messages import Cases, message_of

g = rm.graph
X, Y = normal(6, 3, seed=1), normal(6, 2, seed=2)
LIMITS = {"both": (-0.05, 0.1), "floor": (-0.05, None), "ceil": (None, 0.02), "alike": (-1e-5, 1e-5)}


def by_torch(dense: Any, limits: tuple[float | None, float | None], steps: int) -> list[np.ndarray[Any, Any]]:
    dense(X)
    w, b = (torch.tensor(dense.params[k].as_ndarray(), requires_grad=True) for k in "wb")
    optimizer = torch.optim.SGD([w, b], 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (((torch.tensor(X) @ w + b - torch.tensor(Y)) ** 2).sum() / 2 / len(X)).backward()
        for tensor in (w, b):
            assert tensor.grad is not None
            tensor.grad.clamp_(*limits)
        optimizer.step()
    return [w.detach().numpy(), b.detach().numpy()]


def assert_parameters(dense: Any, expected: list[Any]) -> None:
    for k, value in zip("wb", expected, strict=True):
        np.testing.assert_allclose(dense.params[k].as_ndarray(), value, rtol=1e-5, atol=1e-7, err_msg=k)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("inside", ["loss", "backward", "sum of losses", "update", "executor"])
def test_gradients_are_those_of_pytorch_clamped(inside: str, limits: Any):
    dense, optimizer = g.Dense(2), g.Sgd(0.1, momentum=0.9)
    expected = by_torch(dense, limits, 3)
    with g.with_gradient_clipping(*limits):
        if inside in ("loss", "sum of losses"):
            loss = g.MeanSquared()(dense(X), Y)
            if inside == "sum of losses":
                loss = loss * 0.25 + g.MeanSquared()(dense(X), Y) * 0.75
    if inside not in ("loss", "sum of losses"):
        loss = g.MeanSquared()(dense(X), Y)
        with g.with_gradient_clipping(*limits):
            if inside == "backward":
                loss.backward()
            elif inside == "update":
                loss.update(g.Sgd(0.0))
            else:
                executor = loss.get_training_executor(optimizer, ["cpu"])
    if inside == "executor":
        executor.execute(3, progress=False)
    else:
        for _ in range(3):
            loss.backward().update(optimizer)
    assert_parameters(dense, expected)


def test_outside_of_the_block_nothing_is_clipped():
    dense = g.Dense(2)
    expected = by_torch(dense, (-1e9, 1e9), 3)
    with g.with_gradient_clipping(-1e-5, 1e-5):
        g.MeanSquared()(dense(X), Y).backward()
    loss, optimizer = g.MeanSquared()(dense(X), Y), g.Sgd(0.1, momentum=0.9)
    for _ in range(3):
        loss.backward().update(optimizer)
    assert_parameters(dense, expected)


def test_blocks_nest_and_end_after_an_error():
    dense = g.Dense(2)
    expected = by_torch(dense, (-0.05, 0.05), 1)
    with g.with_gradient_clipping(-0.05, 0.05):
        with pytest.raises(KeyError), g.with_gradient_clipping(-1e-5, 1e-5):
            raise KeyError
        loss = g.MeanSquared()(dense(X), Y)
    loss.update(g.Sgd(0.1, momentum=0.9))
    assert_parameters(dense, expected)


def test_the_gradient_that_is_looked_at_is_the_whole_one():
    dense = g.Dense(2)
    with g.with_gradient_clipping(-1e-5, 1e-5):
        loss = g.MeanSquared()(dense(X), Y).backward()
    assert abs(loss.get_gradient(dense.params["w"]).as_ndarray()).max() > 0.01


def test_a_file_clips_too():
    dense = g.Dense(2)
    expected = by_torch(dense, (-1e-5, 1e-5), 2)
    with g.with_gradient_clipping(-1e-5, 1e-5):
        loss = g.MeanSquared()(dense(X), Y)
    session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, g.Sgd(0.1, momentum=0.9)), "cpu")
    for _ in range(2):
        session.step({"x": X, "y": Y})
    for name, value in zip(("dense1.w", "dense1.b"), expected, strict=True):
        np.testing.assert_allclose(session.read(name), value, rtol=1e-5, atol=1e-7)


ERRORS: Cases = {
    "neither": (
        lambda: g.with_gradient_clipping(None, None),
        rm.ConversionError,
        "with_gradient_clipping: floor or ceil must be given, got neither. {created}",
    ),
    "turned": (
        lambda: g.with_gradient_clipping(1, -1),
        rm.ConversionError,
        "with_gradient_clipping: floor must be at most ceil, got floor 1 and ceil -1. {created}",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    assert message_of(call, kind) == message
