"""What lies between blocked convolutions stays in blocks: the numbers of the portable bodies, few changes of layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu.blocked import ELEMENTWISE, with_blocked_convolutions
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime.specialization import block_size
from tests.converters.test_blocked import C, N, blocked_convolutions, needs_blocks, run

g = rm.graph

BETWEEN: dict[str, Callable[[Any], Any]] = {
    "Add": lambda v: v + g.tanh(v),
    "Clip": lambda v: g.Relu6()(3 * v),
    "Elu": g.Elu(),
    "LeakyRelu": g.LeakyRelu(),
    "Mul": lambda v: v * g.sigmoid(v),
    "Relu": g.relu,
    "Sigmoid": g.sigmoid,
    "Sub": lambda v: v - g.tanh(v),
    "Sum": lambda v: g.tanh(v) * g.sigmoid(v) + g.relu(v),  # the sum of the gradients
    "Tanh": g.tanh,
}


def conv(kernel: int = 3) -> Any:
    """Return a convolution, without a bias: under a normalization its gradient is rounding errors."""
    return g.Conv(C, kernel=kernel, padding=kernel // 2, bias=False)


def step_of(between: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Return a step with something between two convolutions that are made in blocks."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((N, C, 5, 6)).astype(np.float32), rng.standard_normal((N, 1)).astype(np.float32)
    loss = g.MeanSquared()(g.Dense(1)(g.Flatten()(conv()(between(conv()(x))))), t)
    step = training_step(rm.converters.to_training_onnx(loss, g.Sgd(1.0)))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    state = {name: (a + 0.1 * rng.random(a.shape)).astype(a.dtype) for name, a in step.state.items()}
    return step, {**state, **step.optional, **dict(zip(names, (x, t), strict=True))}


def changed_by(step: Any, given: dict[str, Any]) -> onnx.ModelProto:
    """Return the step in blocks, which must have the numbers of the portable one."""
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    names = [o.name for o in step.model.graph.output]
    for name, portable, blocked in zip(names, run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(blocked, portable, rtol=1e-4, atol=1e-5 * np.abs(portable).max(), err_msg=name)
    return changed


def count(model: onnx.ModelProto, *op_types: str) -> int:
    return sum(node.op_type in op_types for node in model.graph.node)


def test_every_operator_that_stays_in_blocks_is_tried():
    assert set(BETWEEN) == set(ELEMENTWISE)


@needs_blocks
@pytest.mark.parametrize("op_type", BETWEEN)
def test_an_elementwise_operator_stays_in_blocks(op_type: str):
    changed = changed_by(*step_of(BETWEEN[op_type]))
    # In: x, the gradient of y, and two batches for the kernels. Out: y, and the second image for its kernel's gradient.
    assert (count(changed, "ReorderInput"), count(changed, "ReorderOutput")) == (4, 2)


@needs_blocks
def test_the_gradient_of_a_bias_is_summed_in_blocks():
    changed = changed_by(*step_of(lambda v: g.relu(g.Conv(C, kernel=3)(v))))
    assert count(changed, "GlobalAveragePool") == 1


@needs_blocks
def test_a_rectification_is_done_by_the_convolution_before_it():
    changed = changed_by(*step_of(g.relu))
    assert count(changed, "Relu") == 0
    activations = [a.s for node in changed.graph.node for a in node.attribute if a.name == "activation"]
    assert activations == [b"Relu"]


@needs_blocks
def test_a_rectification_of_what_others_read_too_is_not():
    changed = changed_by(*step_of(lambda v: g.relu(v) + v))
    assert count(changed, "Relu") == 1


@needs_blocks
@pytest.mark.parametrize("unbiased", [False, True])
def test_batch_normalization_stays_in_blocks(unbiased: bool):
    norm = g.BatchNormalize(unbiased=unbiased, epsilon=1e-3, momentum=0.7)
    changed = changed_by(*step_of(lambda v: g.relu(norm(v))))
    assert count(changed, "BatchNormalizationTrain", "BatchNormalizationTrainGrad") == 0
    assert (count(changed, "ReorderInput"), count(changed, "ReorderOutput")) == (4, 2)


@needs_blocks
def test_normalizations_that_share_operands_keep_their_own_statistics():
    norm = g.BatchNormalize()
    changed = changed_by(*step_of(lambda v: norm(v) + norm(conv()(v))))
    assert count(changed, "BatchNormalizationTrain") == 0


@needs_blocks
def test_batch_normalization_of_a_plain_image_keeps_its_body():
    def between(v: Any) -> Any:
        return g.BatchNormalize()(g.MaxPool(2, stride=1)(v))

    changed = changed_by(*step_of(between))
    assert count(changed, "BatchNormalizationTrain", "BatchNormalizationTrainGrad") == 2


@needs_blocks
def test_a_kernel_of_one_tap_is_blocked_between_blocks():
    changed = changed_by(*step_of(lambda v: g.relu(conv(kernel=1)(v))))
    # Forward and image of both others but for x's, both kernels; forward and image of this one.
    assert blocked_convolutions(changed) == 3 + 2 + 2


@needs_blocks
def test_an_operand_that_nobody_trains_is_laid_out_once():
    mask = np.linspace(-1, 1, N * C * 30, dtype=np.float32).reshape(N, C, 5, 6)
    changed = changed_by(*step_of(lambda v: mask * v))
    assert (count(changed, "ReorderInput"), count(changed, "ReorderOutput")) == (5, 2)


@needs_blocks
def test_operands_of_other_sizes_leave_the_blocks():
    spread = np.linspace(-1, 1, C * 30, dtype=np.float32).reshape(1, C, 5, 6)
    changed = changed_by(*step_of(lambda v: v * spread))
    assert count(changed, "ReorderOutput") > 2


@needs_blocks
def test_a_residual_network_of_blocks_has_the_numbers_of_the_portable_one():
    norms = [g.BatchNormalize() for _ in range(2)]

    def between(v: Any) -> Any:
        v = g.relu(norms[0](v))
        return g.relu(norms[1](conv()(v)) + v)

    changed = changed_by(*step_of(between))
    assert count(changed, "BatchNormalizationTrain", "BatchNormalizationTrainGrad") == 0
