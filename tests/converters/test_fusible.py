"""Forms that onnxruntime fuses: the numbers of the step as it is filed, and the nodes that are no longer computed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu.fusible import with_fusible_nodes
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from tests.converters.test_blocked import run

g = rm.graph
MODELS = {
    "normalized": lambda: [
        g.LayerNormalize(),
        g.Dense(5),
        g.LayerNormalize(axis=1, epsilon=1e-3),
        g.Tanh(),
        g.Dense(3),
    ],
    "biased": lambda: [g.Dense(5), g.Gelu(), g.Dense(3)],
    "without biases": lambda: [g.Dense(5, bias=False), g.RmsNormalize(), g.Dense(3, bias=False)],
}


def step_of(
    layers: list[Any], shape: tuple[int, ...] = (4, 6, 7), opset: int | None = None
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 3 + 5).astype(np.float32)
    t = rng.standard_normal((*shape[:-1], 3)).astype(np.float32)
    loss = g.MeanSquared()(g.Sequential(layers)(x), t)
    step = training_step(rm.converters.to_training_onnx(loss, g.Sgd(1.0), opset=opset))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    state = {name: (a + rng.random(a.shape)).astype(a.dtype) for name, a in step.state.items()}
    return step.model, {**state, **step.optional, **dict(zip(names, (x, t), strict=True))}


def optimized(model: onnx.ModelProto, folder: Path, n: int) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("N", n)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_has_the_numbers_of_the_filed_one(name: str):
    model, given = step_of(MODELS[name]())
    for filed, other in zip(
        run(model, given), run(with_fusible_nodes(model, KnownShapes(model, {"N": 4})), given), strict=True
    ):
        np.testing.assert_allclose(other, filed, rtol=2e-5, atol=2e-6)


def test_statistics_of_a_layer_normalization_are_computed_once(tmp_path: Path):
    model, _ = step_of(MODELS["normalized"]())
    assert optimized(model, tmp_path, 4)["LayerNormalization"] == 4
    assert optimized(with_fusible_nodes(model, KnownShapes(model, {"N": 4})), tmp_path, 4)["LayerNormalization"] == 2


def test_a_bias_of_a_sequence_is_added_by_the_product(tmp_path: Path):
    model, _ = step_of(MODELS["biased"]())
    filed, changed = (
        optimized(model, tmp_path, 4),
        optimized(with_fusible_nodes(model, KnownShapes(model, {"N": 4})), tmp_path, 4),
    )
    assert changed["Gemm"] == filed["Gemm"] + 2
    assert changed["Add"] == filed["Add"] - 2


@pytest.mark.parametrize("opset", [18, 21], ids=["function", "operator"])
def test_gelu_and_its_gradient_share_erf(opset: int, tmp_path: Path):
    assert optimized(step_of(MODELS["biased"](), opset=opset)[0], tmp_path, 4)["Erf"] == 1


def test_a_step_without_such_layers_is_left_as_it_is():
    model, _ = step_of([g.Dense(3)], (4, 7))
    assert with_fusible_nodes(model, KnownShapes(model, {"N": 4})) is model
