"""The table of a model: types, parameters and work of each node, and their totals."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import summarize
from tests.converters.networks import resnet
from tests.converters.programs import Program

HEADER = '<ir_version: 10, opset_import: ["": 18, "my": 1]>'


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEADER} f {text}")


def test_the_table_of_a_published_network():
    summary = summarize(resnet(50).model())
    assert len(summary.rows) == 175
    assert summary.n_parameters == sum(row.n_parameters for row in summary.rows) == 25_557_032
    assert summary.n_fixed == 53_120  # running means and variances
    assert summary.macs == pytest.approx(4.09e9, rel=0.01)
    first = summary.rows[0]
    assert (first.name, first.op_type, first.outputs, first.depth) == (
        "conv1",
        "Conv",
        ("float32[N, 64, 112, 112]",),
        1,
    )
    assert (first.n_parameters, first.macs) == (64 * 3 * 49, 112 * 112 * 64 * 3 * 49)


def test_a_shared_weight_counts_once():
    model = parsed(
        "(float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { h = MatMul(x, w) y = MatMul(h, w) }"
    )
    summary = summarize(model, batch_size=3)
    assert [row.n_parameters for row in summary.rows] == [4, 0]
    assert [row.depth for row in summary.rows] == [1, 2]
    assert summary.n_parameters == 4
    assert summary.macs == 2 * 3 * 4
    assert dict(summary.sizes) == {"N": 3}


def test_rows_of_a_layer_are_joined():
    model = Program("cnn", "Adam", 18).model()
    rows = {row.name: row for row in summarize(model, training=True).by_layer().rows}
    assert rows["conv1"].op_type == "Conv, ConvGrad"
    assert rows["conv1"].n_parameters == 4 * 2 * 3 * 3 + 4
    assert rows["conv1"].outputs == ("float32[N, 4, 8, 8]",)  # of the forward pass
    assert rows["conv1.w"].op_type == "Adam"


def test_the_training_step_has_its_nodes_with_their_tags():
    model = Program("mlp", "Sgd", 18).model()
    summary = summarize(model, training=True)
    assert len(summary.rows) == len(model.graph.node) + len(model.training_info[0].algorithm.node)
    assert [row.role for row in summary.rows].count("update") == 4
    tree = summary.tree().splitlines()
    assert tree[0] == "I am a Gemm (F) at depth 1 with tags: ['Forward']  dense1/Gemm: float32[N, 8]"
    assert tree[-1].startswith("I am a SGD at depth ")
    assert tree[-1].endswith("with tags: ['Update']  dense2.b/SGD: float32[1, 3]")
    assert "I am a GemmGrad (B) at depth 7 with tags: ['Backward']  dense2/GemmGrad: " in "\n".join(tree)
    assert len(summarize(model).rows) == len(model.graph.node)


def test_what_is_not_known_is_said():
    model = parsed("(float[N, 2] x) => (float[N, 2] y) { h = my.Swoosh(x) y = Relu(h) }")
    summary = summarize(model)
    assert [(row.op_type, row.outputs, row.flops) for row in summary.rows] == [
        ("my.Swoosh", ("?",), None),
        ("Relu", ("float32[N, 2]",), 2),
    ]
    assert str(summary).endswith("0 parameters; 0 multiply-adds, 2 operations at N = 1, without 1 row of unknown work")


def test_sizes_of_other_symbols():
    model = parsed("(float[N, T] x) => (float[N, T] y) { y = Relu(x) }")
    assert summarize(model).rows[0].flops is None
    assert summarize(model, batch_size=2, sizes={"T": 5}).rows[0].flops == 10


def test_long_names_are_cut():
    name = "a" * 100
    model = parsed("(float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.node[0].name = name
    assert f"{'a' * 59}…  Relu" in str(summarize(model))
    assert summarize(model).rows[0].name == name


def test_elements_and_layers_too():
    rm.set_seed(0)
    x = np.ones((1, 3), np.float32)
    loss = rm.graph.MeanSquared()(rm.graph.Dense(2)(x), np.ones((1, 2), np.float32))
    assert summarize(loss).name == "a GraphElement"
    assert [row.op_type for row in summarize(loss).rows] == ["Gemm"]
    assert {row.role for row in summarize(loss, training=True).rows} == {"forward", "gradient", "update"}


def test_the_dict_is_json():
    plain = json.loads(json.dumps(summarize(resnet(18).model(weights=False)).to_dict()))
    assert plain["macs"] == 1_814_073_344
    assert plain["rows"][0]["outputs"] == ["float32[N, 64, 112, 112]"]


def test_what_cannot_be_read_is_an_error():
    with pytest.raises(rm.ConversionError) as caught:
        summarize(b"nothing")
    assert str(caught.value).startswith("show: the model must be a complete ONNX file, got the bytes: ")
