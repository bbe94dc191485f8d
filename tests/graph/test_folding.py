"""Arithmetic of shapes gives what onnx's reference implementation gives, and stops where it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from renom_onnx.converters.importer import import_graph
from renom_onnx.graph.folding import LARGEST, fold
from renom_onnx.graph.meter import Meter


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Abs", [ints(-2, 3)], {}),
    ("Add", [ints(1, 2), ints(3)], {}),
    ("Cast", [ints(0, 2)], {"to": onnx.TensorProto.BOOL}),
    ("Cast", [np.array([True, False])], {"to": onnx.TensorProto.INT64}),
    ("Concat", [ints(1), ints(2, 3)], {"axis": 0}),
    ("Constant", [], {"value_ints": [4, 5]}),
    ("Constant", [], {"value_int": 4}),
    ("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7])}),
    ("Div", [ints(7, -7, 7, -7), ints(2, 2, -2, -2)], {}),
    ("Equal", [ints(1, 2), ints(1, 3)], {}),
    ("Expand", [ints(3), ints(2, 2)], {}),
    ("Gather", [ints(5, 6, 7), ints(-1, 0)], {}),
    ("Gather", [ints(5, 6, 7), np.array(1)], {"axis": 0}),
    ("Greater", [ints(1, 2), ints(1, 1)], {}),
    ("Identity", [ints(1)], {}),
    ("Less", [ints(1, 2), ints(1, 3)], {}),
    ("Max", [ints(1, 5), ints(3), ints(2, 2)], {}),
    ("Min", [ints(1, 5), ints(3)], {}),
    ("Mod", [ints(7, -7), ints(3)], {}),
    ("Mod", [ints(7, -7), ints(3)], {"fmod": 1}),
    ("Mul", [ints(2, 3), ints(4)], {}),
    ("Neg", [ints(2, -3)], {}),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}),
    ("Range", [np.array(9), np.array(1), np.array(-3)], {}),
    ("Reshape", [ints(1, 2, 3, 4), ints(2, -1)], {}),
    ("Reshape", [np.arange(6).reshape(2, 3), ints(0, -1)], {}),
    ("Slice", [ints(1, 2, 3, 4), ints(1), ints(3)], {}),
    ("Slice", [ints(1, 2, 3, 4), ints(-1), ints(-(2**62)), ints(0), ints(-1)], {}),
    ("Slice", [ints(1, 2, 3, 4), ints(-3), ints(2**62), ints(0)], {}),
    ("Slice", [np.arange(12).reshape(3, 4), ints(0), ints(2), ints(-1)], {}),
    ("Squeeze", [np.array([[1, 2]]), ints(0)], {}),
    ("Squeeze", [np.array([[1]])], {}),
    ("Sub", [ints(5), ints(2)], {}),
    ("Transpose", [np.arange(6).reshape(2, 3)], {}),
    ("Transpose", [np.arange(6).reshape(1, 2, 3)], {"perm": [2, 0, 1]}),
    ("Unsqueeze", [ints(1, 2), ints(0, -1)], {}),
    ("Where", [np.array([True, False]), ints(1), ints(2, 3)], {}),
]


@pytest.mark.parametrize(("op", "operands", "attributes"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_fold_is_what_onnx_computes(op: str, operands: list[Any], attributes: dict[str, Any]):
    names = [f"x{i}" for i in range(len(operands))]
    node = helper.make_node(op, names, ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, operands, strict=True)
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None)
    model = helper.make_model(
        helper.make_graph([node], "g", infos, [output]), opset_imports=[helper.make_opsetid("", 18)]
    )
    (expected,) = ReferenceEvaluator(model).run(None, dict(zip(names, operands, strict=True)))
    plain = {k: onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for k, v in attributes.items()}
    found = fold(op, operands, plain, np.asarray(expected).dtype)
    assert found is not None
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


INT64 = np.dtype(np.int64)


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Add", [ints(1), None], {}),
        ("Add", [ints(1), np.array([0.5])], {}),
        ("Add", [ints(1, 2), ints(1, 2, 3)], {}),
        ("Div", [ints(1), ints(0)], {}),
        ("Exp", [ints(1)], {}),
        ("Gather", [ints(1), ints(5)], {}),
        ("Concat", [ints(1)], {}),
        ("Unsqueeze", [ints(1), ints(9)], {}),
        ("Range", [np.array(0), np.array(2**62), np.array(1)], {}),
        ("Range", [np.array(0), np.array(5), np.array(0)], {}),
        ("ConstantOfShape", [ints(2**31, 2**31)], {"value": ints(1)}),
        ("Expand", [ints(1), ints(2**40)], {}),
        ("Concat", [np.zeros(LARGEST, np.int64), ints(1)], {"axis": 0}),
        ("Constant", [], {"value_string": "x"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_unknown_broken_or_large_is_not_computed(op: str, operands: list[Any], attributes: dict[str, Any]):
    assert fold(op, operands, attributes, INT64) is None


def test_shapes_that_the_graph_computes_are_measured():
    """As exporters write x.view(n, -1, 2).mean(1): sizes read by Shape, cut, joined, and given to Reshape."""
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N, T, 6] x, float[H, W] w) => (float[a, b] y) {
        s = Shape (x)
        zero = Constant <value_int = 0> ()
        n = Gather (s, zero)
        axes = Constant <value_ints = [0]> ()
        n1 = Unsqueeze (n, axes)
        rest = Constant <value_ints = [-1, 2]> ()
        shape = Concat <axis = 0> (n1, rest)
        r = Reshape (x, shape)
        one = Constant <value_ints = [1]> ()
        y = ReduceSum <keepdims = 0> (r, one)
    }"""
    nodes = [node for node, _ in import_graph(onnx.parser.parse_model(text)).nodes]
    meter = Meter({"N": 4, "T": 5})
    cost = meter.read_all(nodes)
    assert [meter.shape(node.output) for node in nodes[-3:]] == [(4, 15, 2), (1,), (4, 2)]
    assert meter.n_elements(nodes[-3].output) == 120
    assert (cost.flops, cost.uncounted) == (120, frozenset())
    assert Meter().shape(nodes[-3].output) is None
    assert Meter().n_elements(nodes[-3].output) is None
