"""Convolutions in the blocked layout: the numbers of the portable bodies, and only where they fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu import blocked_kernel
from renom_onnx.converters.cpu.blocked import BLOCKED, block_of, with_blocked_convolutions
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.specialization import block_size, for_sizes

needs_blocks = pytest.mark.skipif(not block_size(), reason="this onnxruntime has no blocked kernels for the processor")
C = 2 * (block_size() or 8)
N = C // 2 - 1

CASES: dict[str, tuple[tuple[int, int], dict[str, Any], int]] = {
    # size of the image, arguments of the second convolution, blocked convolutions of its forward and backward pass
    "dense": ((9, 7), dict(kernel=3, padding=1), 3),
    "kernel of two sizes": ((9, 7), dict(kernel=(2, 3), padding=(1, 0)), 3),
    "no padding": ((9, 7), dict(kernel=3), 3),
    "dilated": ((9, 7), dict(kernel=3, padding=2, dilation=2), 3),
    "padding beyond the kernel": ((9, 7), dict(kernel=2, padding=2), 2),
    "strided": ((9, 7), dict(kernel=3, padding=1, stride=2), 2),
    "two groups": ((9, 7), dict(kernel=3, padding=1, groups=2), 3),
    "two groups strided and dilated": (
        (12, 11),
        dict(kernel=3, stride=(2, 3), dilation=(3, 2), padding=2, groups=2),
        2,
    ),
    "groups that fill no block": ((9, 7), dict(kernel=3, padding=1, groups=4), 0),
    "depthwise": ((9, 7), dict(kernel=3, padding=1, groups=C), 3),
    "depthwise of one tap": ((9, 7), dict(kernel=1, groups=C), 3),
    "depthwise dilated": ((9, 7), dict(kernel=3, padding=2, dilation=2, groups=C), 3),
    "depthwise strided": ((9, 7), dict(kernel=3, padding=1, stride=2, groups=C), 2),
    "depthwise with pixels behind the last window": ((10, 6), dict(kernel=3, stride=(3, 2), groups=C), 2),
    "depthwise strided and dilated": ((12, 11), dict(kernel=3, stride=2, dilation=3, padding=2, groups=C), 2),
    "strided and dilated": ((12, 11), dict(kernel=3, stride=(2, 3), dilation=(3, 2), padding=2), 2),
    "with pixels behind the last window": ((10, 6), dict(kernel=(3, 2), stride=(3, 4)), 2),
    "one tap along a row": ((9, 7), dict(kernel=(3, 1)), 2),
    "one tap": ((9, 7), dict(kernel=1), 0),
}


def step_of(size: tuple[int, int], arguments: dict[str, Any], channels: int = C) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 2, *size)).astype(np.float32)
    g = rm.graph
    model = g.Sequential([g.Conv(channels, kernel=1), g.Conv(channels, **arguments), g.Flatten(), g.Dense(1)])
    loss = g.MeanSquared()(model(x), rng.standard_normal((N, 1)).astype(np.float32))
    trainable = rm.converters.to_training_onnx(loss, g.Sgd(1.0))
    step = training_step(trainable)
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    feeds = dict(zip(names, (x, rng.standard_normal((N, 1)).astype(np.float32)), strict=True))
    return step, {**step.state, **step.optional, **feeds}


def run(model: onnx.ModelProto, given: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)  # type: ignore[no-any-return]


def blocked_convolutions(model: onnx.ModelProto) -> int:
    return sum((node.domain, node.op_type) == (BLOCKED, "Conv") for node in model.graph.node)


@needs_blocks
@pytest.mark.parametrize("case", CASES)
def test_a_step_has_the_numbers_of_the_portable_one(case: str):
    size, arguments, count = CASES[case]
    step, given = step_of(size, arguments)
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    assert blocked_convolutions(changed) == count
    for portable, blocked in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(blocked, portable, rtol=1e-4, atol=1e-5)


@needs_blocks
def test_the_gradient_of_a_kernel_fills_channels_up_to_whole_blocks():
    step, given = step_of((9, 7), dict(kernel=3, padding=1), channels=C - 1)
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    assert blocked_convolutions(changed) == 1
    for portable, blocked in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(blocked, portable, rtol=1e-4, atol=1e-5)


@needs_blocks
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("most_bytes", [1, 4 * C * 9 * 9 * (C // 2)])
def test_what_is_more_than_a_limit_is_gathered_in_steps(monkeypatch: pytest.MonkeyPatch, most_bytes: int, groups: int):
    monkeypatch.setattr(blocked_kernel, "MOST_BYTES", most_bytes)
    step, given = step_of((9, 7), dict(kernel=3, padding=1, groups=groups))
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    assert blocked_convolutions(changed) == 2 + {1: 9}.get(most_bytes, 4)  # rows of the response, some to a step
    for portable, blocked in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(blocked, portable, rtol=1e-4, atol=1e-5)


@needs_blocks
def test_an_image_is_laid_out_once_for_the_forward_pass_and_the_gradient():
    step, _ = step_of((9, 7), dict(kernel=3, padding=1, groups=C))
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    assert sum(node.op_type == "ReorderInput" for node in changed.graph.node) == 2  # x and dy


@needs_blocks
def test_the_portable_body_is_cut_down_to_what_is_still_asked_of_it():
    step, _ = step_of((9, 7), dict(kernel=3, padding=1, groups=C))
    changed = with_blocked_convolutions(step.model, block_size(), KnownShapes(step.model, {"N": N}))
    conv2 = [node for node in changed.graph.node if node.name.startswith("conv2/ConvGrad/") and not node.domain]
    assert "ReduceSum" in {node.op_type for node in conv2}  # db
    assert {"MatMul", "ConvTranspose", "Conv"}.isdisjoint(node.op_type for node in conv2)


@pytest.mark.parametrize("sizes", [{}, {"M": 3}], ids=["none", "another's"])
def test_unknown_sizes_keep_the_portable_bodies(sizes: dict[str, int]):
    step, _ = step_of((9, 7), dict(kernel=3, padding=1))
    assert blocked_convolutions(with_blocked_convolutions(step.model, 8, KnownShapes(step.model, sizes))) == 0


def test_channels_that_fill_no_block_keep_the_portable_bodies():
    step, _ = step_of((9, 7), dict(kernel=3, padding=1), channels=6)
    changed = with_blocked_convolutions(step.model, 8, KnownShapes(step.model, {"N": N}))
    assert changed.graph == step.model.graph and changed.functions == step.model.functions


def test_a_model_without_convolutions_is_kept():
    loss = rm.graph.MeanSquared()(rm.graph.Dense(1)(np.ones((1, 2), np.float32)), np.ones((1, 1), np.float32))
    model = training_step(rm.converters.to_training_onnx(loss, rm.graph.Sgd())).model
    assert with_blocked_convolutions(model, 8, KnownShapes(model, {"N": N})) is model


def test_sessions_that_take_any_size_and_other_devices_keep_their_bytes():
    device = parse_device("cpu")
    assert for_sizes(b"model", device, None) == b"model"


@needs_blocks
def test_a_training_session_runs_them_and_its_file_holds_none(monkeypatch: pytest.MonkeyPatch):
    opened: list[onnx.ModelProto] = []
    from renom_onnx.runtime import step_model

    def record(model: bytes, *arguments: Any, **options: Any) -> Any:
        opened.append(onnx.load_from_string(model))
        return open_session(model, *arguments, **options)

    open_session = step_model.open_session
    monkeypatch.setattr(step_model, "open_session", record)
    g, rng = rm.graph, np.random.default_rng(0)
    x, t = rng.standard_normal((N, C, 6, 6)).astype(np.float32), rng.standard_normal((N, 1)).astype(np.float32)
    model = g.Sequential([g.Conv(C, kernel=3, groups=C), g.Flatten(), g.Dense(1)])
    loss = g.MeanSquared()(model(x), t)
    trainable = rm.converters.to_training_onnx(loss, g.Sgd(0.01))
    assert BLOCKED not in {opset.domain for opset in trainable.opset_import}
    session = rm.runtime.TrainingSession(trainable, device="cpu")
    feeds = dict(zip([spec.name for spec in session.feeds if spec.name != "learning_rate"], (x, t), strict=True))
    losses = [float(session.step(feeds)) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert blocked_convolutions(opened[0]) == 2


def test_the_block_is_what_lies_before_the_next_pixel():
    assert block_of(np.tile(np.arange(8, dtype=np.float32), 2)) == 8
    assert block_of(np.r_[np.tile(np.arange(16.0), 2), np.tile(np.arange(16.0, 32), 2)]) == 16
