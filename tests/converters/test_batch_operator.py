"""Batch normalization by the operator's kernel: the numbers of the portable body, statistics included."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu.batch_operator import with_batch_operators
from renom_onnx.converters.cpu.blocked_layout import BLOCKED
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime.specialization import block_size
from tests.converters.test_blocked import run

SHAPES = {
    "matrix": (6, 4),
    "series": (6, 4, 5),
    "image": (6, 4, 5, 3),
    "volume": (3, 4, 2, 3, 2),
    "whole blocks": (3, 4, 8, 4),
    "one row": (1, 4, 5),
}


def step_of(shape: tuple[int, ...], *, unbiased: bool = False, layers: int = 2) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 3 + 5).astype(np.float32)
    t = rng.standard_normal((shape[0], 1)).astype(np.float32)
    g = rm.graph
    norms = [g.BatchNormalize(unbiased=unbiased, epsilon=1e-3, momentum=0.7) for _ in range(layers)]
    spread = [g.Conv(4, kernel=1)] if len(shape) == 4 else []
    model = g.Sequential([*spread, *norms, g.Tanh(), g.Flatten(), g.Dense(1)])
    step = training_step(rm.converters.to_training_onnx(g.MeanSquared()(model(x), t), g.Sgd(1.0)))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    feeds = dict(zip(names, (x, t), strict=True))
    state = {name: (a + rng.random(a.shape)).astype(a.dtype) for name, a in step.state.items()}
    return step, {**state, **step.optional, **feeds}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type.startswith("BatchNormalization")]


def forward(model: onnx.ModelProto) -> int:
    """Return how many normalizations use the operator for the forward pass."""
    assert set(operators(model)) == {"BatchNormalization"}
    return sum(len(node.output) == 3 for node in model.graph.node if node.op_type == "BatchNormalization")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unbiased", [False, True])
def test_a_step_has_the_numbers_of_the_portable_one(shape: str, unbiased: bool):
    step, given = step_of(SHAPES[shape], unbiased=unbiased)
    changed = with_batch_operators(step.model, KnownShapes(step.model, {"N": SHAPES[shape][0]}), block_size())
    blocked = [node for node in changed.graph.node if node.domain == BLOCKED]
    assert len(blocked) == (2 if shape == "whole blocks" and block_size() else 0)
    assert forward(changed) == 2
    for name, portable, other in zip(
        [o.name for o in step.model.graph.output], run(step.model, given), run(changed, given), strict=True
    ):
        np.testing.assert_allclose(other, portable, rtol=2e-4, atol=2e-5, err_msg=name)


def test_steps_do_not_disturb_the_statistics_of_one_another():
    step, given = step_of((6, 4, 5, 3))
    changed = with_batch_operators(step.model, KnownShapes(step.model, {"N": 6}))
    first, second = run(changed, given), run(changed, given)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("same", ["layer", "x"])
def test_normalizations_that_share_operands_do_not_share_statistics(same: str):
    rng, g = np.random.default_rng(0), rm.graph
    x = rng.standard_normal((6, 4)).astype(np.float32)
    first, second = g.BatchNormalize(), g.BatchNormalize()
    parts = {
        "layer": lambda v: [first(v[:3]), first(v[3:])],
        "x": lambda v: [first(v), second(v)],
    }[same]
    loss = g.MeanSquared()(g.Dense(1)(g.concatenate(parts(g.Dense(4)(x)))), np.ones((1, 1), np.float32))
    step = training_step(rm.converters.to_training_onnx(loss, g.Sgd(1.0)))
    values = {"x": x, "t": np.ones((1, 1), np.float32)}
    inputs = [i for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    feeds = {i.name: values["x" if i.type.tensor_type.shape.dim[1].dim_value == 4 else "t"] for i in inputs}
    state = {name: (a + rng.random(a.shape)).astype(a.dtype) for name, a in step.state.items()}
    given = {**state, **step.optional, **feeds}
    changed = with_batch_operators(step.model, KnownShapes(step.model, {"N": 6}))
    assert forward(changed) == 2
    for portable, other in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(other, portable, rtol=2e-4, atol=2e-5)


def test_a_batch_of_unknown_size_keeps_the_portable_body():
    step, _ = step_of((6, 4, 5))
    kept = operators(with_batch_operators(step.model, KnownShapes(step.model, {})))
    assert kept == operators(step.model) and set(kept) == {"BatchNormalizationTrain", "BatchNormalizationTrainGrad"}


def test_a_model_without_batch_normalization_is_kept():
    step, _ = step_of((6, 4, 5), layers=0)
    assert with_batch_operators(step.model, KnownShapes(step.model, {"N": 6})) is step.model
