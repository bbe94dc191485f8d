"""Gradients of embeddings as products: the numbers of the portable ones, and where there is no such product."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions as inline

import renom_onnx as rm
from renom_onnx.converters.cpu.added_rows import MAX_ELEMENTS, MAX_ROWS, with_products_of_rows
from renom_onnx.converters.cpu.fast_form import with_fast_forms
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from tests.converters.test_blocked import run

g = rm.graph
TOKENS = np.array([[0, 3, 3], [4, -1, 0]])


def step_of(vocabulary: int, optimizer: g.Optimizer | None = None) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a step of an embedding whose tokens repeat and count from the end too, and what it is given."""
    rm.set_seed(0)
    target = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x, y = g.DistributorElement(TOKENS, target, batch_size=2).get_output_graphs()
    loss = g.MeanSquared()(g.Embedding(4, vocabulary)(x), y)
    step = training_step(rm.converters.to_training_onnx(loss, optimizer or g.Sgd(1.0)))
    return inline(step.model), {**step.state, **step.optional, "x": TOKENS, "y": target}


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    "optimizer", [g.Sgd(1.0), g.Sgd(1.0, momentum=0.5), g.Adam(0.1)], ids=["sgd", "momentum", "adam"]
)
def test_a_step_has_the_numbers_of_the_portable_one(optimizer: g.Optimizer):
    portable, given = step_of(5, optimizer)
    shapes = KnownShapes(portable, {"N": 2})
    for form in (with_products_of_rows, with_fast_forms):
        changed = form(portable, shapes)
        assert operators(changed)["Gemm"] == 1
        for a, b in zip(run(portable, given), run(changed, given), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-6, atol=1e-6)


def test_the_update_is_part_of_the_product():
    portable, _ = step_of(8)
    fast = with_fast_forms(portable, KnownShapes(portable, {"N": 2}))
    assert operators(portable)["Sub"] - operators(fast)["Sub"] == 1


@pytest.mark.parametrize("vocabulary", [MAX_ROWS, MAX_ROWS + 1])
def test_large_vocabularies_are_added_number_by_number(vocabulary: int):
    portable, _ = step_of(vocabulary)
    changed = with_products_of_rows(portable, KnownShapes(portable, {"N": 2}))
    assert operators(changed)["Gemm"] == (vocabulary == MAX_ROWS)


def test_one_hot_rows_that_fill_memory_are_not_made():
    portable, _ = step_of(MAX_ROWS)
    rows = MAX_ELEMENTS // MAX_ROWS // 3
    assert operators(with_products_of_rows(portable, KnownShapes(portable, {"N": rows})))["Gemm"] == 1
    assert with_products_of_rows(portable, KnownShapes(portable, {"N": rows + 1})) is portable


def test_unknown_sizes_and_other_steps_are_left_as_they_are():
    portable, _ = step_of(5)
    assert with_products_of_rows(portable, KnownShapes(portable, {})) is portable
    x, y = np.ones((2, 3), np.float32), np.ones((2, 1), np.float32)
    dense = training_step(rm.converters.to_training_onnx(g.MeanSquared()(g.Dense(1)(x), y), g.Sgd(1.0))).model
    assert with_products_of_rows(dense, KnownShapes(dense, {})) is dense
