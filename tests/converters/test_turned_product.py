"""Products that turn an operand: the numbers of the portable step, and the layouts that are no longer written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions as inline

import renom_onnx as rm
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.turned_product import with_turned_products
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import specialization
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.specialization import for_sizes, has_turned_products
from tests.converters.test_blocked import run
from tests.converters.test_fusible import optimized

g = rm.graph
needs_turned_products = pytest.mark.skipif(
    not has_turned_products(), reason="this release of onnxruntime has no FusedMatMul"
)


def step_of(layer: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a step on three sequences of six tokens with its calls written out, and what it is given."""
    rm.set_seed(0)
    rng = np.random.default_rng(0)
    x, t = (rng.standard_normal((3, 6, 8)).astype(np.float32) for _ in range(2))
    step = training_step(rm.converters.to_training_onnx(g.MeanSquared()(layer(x), t), g.Sgd(1.0)))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    return inline(step.model), {**step.state, **step.optional, **dict(zip(names, (x, t), strict=True))}


def turned(model: onnx.ModelProto, n: int = 3) -> onnx.ModelProto:
    return with_turned_products(model, KnownShapes(model, {"N": n}))


@needs_turned_products
@pytest.mark.parametrize("causal", [False, True])
def test_a_step_has_the_numbers_of_the_portable_one(causal: bool):
    model, given = step_of(g.MultiHeadAttention(2, causal=causal))
    changed = turned(model)
    products = Counter(node.op_type for node in changed.graph.node)["FusedMatMul"]
    assert products == 3  # of the gradients of the weights of attention, of values and of queries
    for info, a, b in zip(model.graph.output, run(model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-6, atol=2e-6, err_msg=info.name)


@needs_turned_products
def test_layouts_that_only_gradients_read_are_not_written(tmp_path: Path):
    model, _ = step_of(g.MultiHeadAttention(2))
    assert optimized(model, tmp_path, 3)["Transpose"] - optimized(turned(model), tmp_path, 3)["Transpose"] == 3


def test_unknown_sizes_and_other_steps_are_left_as_they_are():
    model, _ = step_of(g.MultiHeadAttention(2))
    assert with_turned_products(model, KnownShapes(model, {})) is model
    plain, _ = step_of(g.Dense(8))
    assert turned(plain) is plain


def test_a_release_without_such_products_keeps_the_transposes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(specialization, "has_turned_products", lambda: False)
    model, _ = step_of(g.MultiHeadAttention(2))
    written = for_sizes(model.SerializeToString(), parse_device("cpu"), {"N": 3}, {"turns"})
    assert onnx.load_from_string(written) == model
