"""Sums with a factor as one node: the numbers of the two nodes before, to the last bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.cpu.gated_sum import MAX_ROW, with_gated_sums
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import specialization
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.specialization import for_sizes, has_gated_sums
from tests.converters.programs import classes, cross_entropy, features
from tests.converters.test_blocked import run

needs_gated_sums = pytest.mark.skipif(not has_gated_sums(), reason="this release of onnxruntime has no GatedAdd")
ROWS = 5
SHAPES: dict[str, Any] = {
    "x": ["N", 40],
    "y": ["N", 40],
    "s": [],
    "one": [1],
    "rows": ["N", 1],
    "wide": [1, MAX_ROW + 1],
}


def model_of(*nodes: str) -> onnx.ModelProto:
    """Return a model from nodes such as "Mul y s -> ys"; the last one's output is the model's."""
    made = []
    for text in nodes:
        call, output = text.split(" -> ")
        op_type, *inputs = call.split()
        made.append(helper.make_node(op_type, inputs, [output], name=output))
    read = dict.fromkeys(name for node in made for name in node.input if name in SHAPES)
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPES[name]) for name in read]
    outputs = [helper.make_tensor_value_info(made[-1].output[0], onnx.TensorProto.FLOAT, None)]
    third = helper.make_tensor("third", onnx.TensorProto.FLOAT, [], [1 / 3])
    graph = helper.make_graph(made, "sums", inputs, outputs, [third])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feeds(model: onnx.ModelProto) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {value.name: [ROWS if d == "N" else d for d in SHAPES[value.name]] for value in model.graph.input}
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


def joined(model: onnx.ModelProto) -> Counter[str]:
    """The numbers are the same to the last bit; returns the operators that are there now."""
    changed, given = with_gated_sums(model, KnownShapes(model, {"N": ROWS})), feeds(model)
    for a, b in zip(run(model, given), run(changed, given), strict=True):
        np.testing.assert_array_equal(b, a)
    return Counter(node.op_type for node in changed.graph.node)


@needs_gated_sums
@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["Mul y third -> ys", "Add x ys -> z"], {"GatedAdd": 1}),
        (["Mul third y -> ys", "Add ys x -> z"], {"GatedAdd": 1}),
        (["Mul y third -> ys", "Sub x ys -> z"], {"GatedAdd": 1}),
        (["Mul y rows -> ys", "Add x ys -> z"], {"GatedAdd": 1}),
        (["Mul y rows -> ys", "Sum x ys -> z"], {"GatedAdd": 1}),
        (["Mul y rows -> ys", "Sum x y ys -> z"], {"Mul": 1, "Sum": 1}),
        (["Mul y rows -> ys", "Sub x ys -> z"], {"GatedAdd": 1, "Neg": 1}),
        (["Mul y s -> ys", "Add x ys -> z"], {"GatedAdd": 1, "Expand": 1}),
        (["Mul one y -> ys", "Sub x ys -> z"], {"GatedAdd": 1, "Expand": 1, "Neg": 1}),
        (["Mul y s -> ys", "Sub x ys -> a", "Mul x s -> xs", "Sub a xs -> z"], {"GatedAdd": 2, "Expand": 1, "Neg": 1}),
        (["Mul y y -> yy", "Mul yy third -> c", "Mul x third -> d", "Add c d -> z"], {"GatedAdd": 1, "Mul": 2}),
    ],
    ids=["constant", "turned", "difference", "rows", "sum of two", "sum of three", "rows of a difference", "number",
         "vector of one", "one gate for two", "two products"],
)  # fmt: skip
def test_a_sum_with_a_factor_is_one_node(nodes: list[str], expected: dict[str, int]):
    assert joined(model_of(*nodes)) == expected


@needs_gated_sums
@pytest.mark.parametrize(
    "nodes",
    [
        ["Mul y third -> ys", "Sub ys x -> z"],
        ["Mul y x -> yx", "Add x yx -> z"],
        ["Mul y third -> ys", "Add ys rows -> z"],
        ["Mul rows third -> rs", "Add x rs -> z"],
        ["Mul y third -> ys", "Add x ys -> a", "Mul a ys -> z"],
        ["Mul rows third -> rs", "Add rows rs -> z"],
        ["Mul wide third -> ws", "Add wide ws -> z"],
    ],
    ids=["factor before the minus", "product of two images", "sum with a column", "column", "read twice", "short rows",
         "one long row"],
)  # fmt: skip
def test_other_sums_stay(nodes: list[str]):
    model = model_of(*nodes)
    assert with_gated_sums(model, KnownShapes(model, {"N": ROWS})) is model


def test_sums_of_unknown_sizes_stay():
    model = model_of("Mul y third -> ys", "Add x ys -> z")
    assert with_gated_sums(model, KnownShapes(model, {})) is model


def test_a_release_without_the_node_keeps_both(monkeypatch: pytest.MonkeyPatch):
    model = model_of("Mul y third -> ys", "Add x ys -> z").SerializeToString()
    monkeypatch.setattr(specialization, "has_gated_sums", lambda: False)
    assert for_sizes(model, parse_device("cpu"), {"N": ROWS}, ["sums"]) == model


def test_a_release_that_refuses_a_probe_has_no_such_node():
    assert specialization._probed(b"no model", {}) is None


@needs_gated_sums
def test_both_moments_and_the_weight_of_adam_are_such_sums():
    rm.set_seed(0)
    loss = cross_entropy(
        rm.graph.Sequential([rm.graph.Dense(200), rm.graph.Dense(40)]), features(8, size=100), classes(8)
    )
    step = training_step(to_training_onnx(loss, rm.graph.Adam(0.01)))
    changed = onnx.load_from_string(for_sizes(step.model.SerializeToString(), parse_device("cpu"), {"N": 8}))
    written = Counter(node.output[0] for node in changed.graph.node if node.op_type == "GatedAdd")
    assert len(step.bindings) == 13
    assert set(written) >= set(step.bindings.values()) - {step.bindings["step"]}
