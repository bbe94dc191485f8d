"""The gradient of pooling by comparisons: the numbers of the portable body, equal elements included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu.compared_pooling import with_compared_pools
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from tests.converters.test_blocked import run

N = 3
KEPT: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "odd height": ((7, 6), dict(kernel=2, stride=2)),
    "odd width": ((6, 7), dict(kernel=2, stride=2)),
    "overlapping": ((6, 6), dict(kernel=2, stride=1)),
    "apart": ((6, 6), dict(kernel=2, stride=3)),
    "three taps": ((60, 60), dict(kernel=3, stride=2)),
    "three taps of few pixels": ((6, 6), dict(kernel=3, stride=2, padding=1)),
    "three taps of odd height": ((61, 60), dict(kernel=3, stride=2, padding=1)),
    "three taps apart": ((60, 60), dict(kernel=3, stride=3, padding=1)),
    "dilated": ((60, 60), dict(kernel=3, stride=2, padding=1, dilation=2)),
    "padded": ((6, 6), dict(kernel=2, stride=2, padding=1)),
}


def step_of(size: tuple[int, int], arguments: dict[str, Any], x: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return a step whose first layer's gradient tells what the pooling gives back."""
    rng, g = np.random.default_rng(0), rm.graph
    x = rng.standard_normal((N, 2, *size)).astype(np.float32) if x is None else x
    model = g.Sequential([g.Conv(4, kernel=1), g.MaxPool(**arguments), g.Flatten(), g.Dense(1)])
    t = rng.standard_normal((N, 1)).astype(np.float32)
    step = training_step(rm.converters.to_training_onnx(g.MeanSquared()(model(x), t), g.Sgd(1.0)))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    return step, {**step.state, **step.optional, **dict(zip(names, (x, t), strict=True))}


def asks_for_positions(model: Any) -> bool:
    return any(node.op_type == "MaxPoolGrad" for node in model.graph.node)


PAIRS, THREES = dict(kernel=2, stride=2), dict(kernel=3, stride=2, padding=1)


@pytest.mark.parametrize(
    ("size", "windows"),
    [((6, 8), PAIRS), ((2, 2), PAIRS), ((4, 2), PAIRS), ((60, 58), THREES), ((2, 1500), THREES), ((1500, 2), THREES)],
    ids=str,
)
@pytest.mark.parametrize("values", ["distinct", "few", "equal"])
def test_a_step_has_the_numbers_of_the_portable_one(size: tuple[int, int], windows: dict[str, Any], values: str):
    rng, shape = np.random.default_rng(1), (N, 2, *size)
    x = {
        "distinct": lambda: rng.standard_normal(shape),
        "few": lambda: rng.integers(0, 2, shape),
        "equal": lambda: np.zeros(shape),
    }[values]().astype(np.float32)
    step, given = step_of(size, windows, x)
    changed = with_compared_pools(step.model, KnownShapes(step.model, {"N": N}))
    assert asks_for_positions(step.model) and not asks_for_positions(changed)
    for portable, compared in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(compared, portable, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", KEPT)
def test_other_windows_keep_the_portable_body(case: str):
    step, _ = step_of(*KEPT[case])
    assert asks_for_positions(with_compared_pools(step.model, KnownShapes(step.model, {"N": N})))


def test_a_batch_of_unknown_size_keeps_the_portable_body():
    step, _ = step_of((6, 8), dict(kernel=2, stride=2))
    assert asks_for_positions(with_compared_pools(step.model, KnownShapes(step.model, {})))


def test_a_model_without_pooling_is_kept():
    g = rm.graph
    loss = g.MeanSquared()(g.Dense(1)(np.ones((1, 2), np.float32)), np.ones((1, 1), np.float32))
    model = training_step(rm.converters.to_training_onnx(loss, g.Sgd())).model
    assert with_compared_pools(model, KnownShapes(model, {"N": N})) is model
