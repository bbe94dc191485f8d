"""Which initializers of a file are weights, statistics, or neither."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from renom_onnx.converters.initializer import Kind, kind_of, readers_of

F = np.float32
WEIGHT, STATISTIC, FIXED = Kind.WEIGHT, Kind.STATISTIC, Kind.FIXED
MASK = np.triu(np.full((3, 3), -np.inf, F), 1)

CASES: dict[str, tuple[Any, list[tuple[str, list[str]]], Kind]] = {
    "a kernel": (np.ones((2, 3), F), [("MatMul", ["x", "w"])], WEIGHT),
    "a bias": (np.ones(3, F), [("MatMul", ["x", "m"]), ("Add", ["o0", "w"])], WEIGHT),
    "the bias of one unit": (np.ones(1, F), [("MatMul", ["x", "m"]), ("Add", ["o0", "w"])], WEIGHT),
    "half precision": (np.ones((2, 3), np.float16), [("MatMul", ["x", "w"])], WEIGHT),
    "bfloat16": (np.ones((2, 3), ml_dtypes.bfloat16), [("MatMul", ["x", "w"])], WEIGHT),
    "double precision": (np.ones((2, 3), np.float64), [("MatMul", ["x", "w"])], WEIGHT),
    "a slope": (np.ones(1, F), [("PRelu", ["x", "w"])], WEIGHT),
    "an embedding": (np.ones((9, 3), F), [("Gather", ["w", "x"])], WEIGHT),
    "a mean": (np.ones(3, F), [("BatchNormalization", ["x", "a", "b", "w", "c"])], STATISTIC),
    "a mean that is used elsewhere too": (
        np.ones(3, F), [("BatchNormalization", ["x", "a", "b", "w", "c"]), ("Add", ["x", "w"])], WEIGHT
    ),
    "a scale of normalization": (np.ones(3, F), [("BatchNormalization", ["x", "w", "b", "m", "v"])], WEIGHT),
    "a number": (np.array(1e-5, F), [("Add", ["x", "w"])], FIXED),
    "a number with an axis": (np.array([1e-5], F), [("Add", ["x", "w"])], FIXED),
    "a factor": (np.array([[0.125]], F), [("Mul", ["x", "w"])], FIXED),
    "a choice": (np.array([-1.0], F), [("Where", ["c", "x", "w"])], FIXED),
    "a mask that is added": (MASK, [("Add", ["x", "w"])], FIXED),
    "a mask of half precision": (np.full((2, 2), -65504, np.float16), [("Where", ["c", "w", "x"])], FIXED),
    "scales": (np.ones(4, F), [("Resize", ["x", "", "w"])], FIXED),
    "an exponent": (np.full(3, 2, F), [("Pow", ["x", "w"])], FIXED),
    "a bound": (np.ones(1, F), [("Clip", ["x", "w"])], FIXED),
    "a scale of quantization": (np.ones(3, F), [("QuantizeLinear", ["x", "w", "z"])], FIXED),
    "integers": (np.ones((2, 3), np.int64), [("MatMul", ["x", "w"])], FIXED),
    "floats of 8 bits": (np.ones((2, 3), ml_dtypes.float8_e4m3fn), [("MatMul", ["x", "w"])], FIXED),
    "nothing": (np.ones((0, 3), F), [("MatMul", ["x", "w"])], FIXED),
    "what nobody reads": (np.ones((2, 3), F), [], FIXED),
}  # fmt: skip


def graph_of(steps: list[tuple[str, list[str]]]) -> list[onnx.NodeProto]:
    return [helper.make_node(op_type, inputs, [f"o{i}"]) for i, (op_type, inputs) in enumerate(steps)]


@pytest.mark.parametrize("name", CASES)
def test_what_training_may_change(name: str):
    array, steps, kind = CASES[name]
    assert kind_of(numpy_helper.from_array(array, "w"), readers_of(graph_of(steps)).get("w", ())) is kind


def test_a_weight_that_only_a_branch_reads_is_one():
    branch = helper.make_graph(graph_of([("MatMul", ["x", "w"])]), "b", [], [onnx.ValueInfoProto(name="o0")])
    outer = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert kind_of(numpy_helper.from_array(np.ones((2, 3), F), "w"), readers_of([outer])["w"]) is WEIGHT


def test_an_operator_of_another_domain_is_taken_to_have_weights():
    node = helper.make_node("Clip", ["x", "w"], ["y"], domain="own")
    assert kind_of(numpy_helper.from_array(np.ones(1, F), "w"), readers_of([node])["w"]) is WEIGHT
