"""`rm.load`: a model as a layer, with the file's names, that is called, trained and exported again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from tests.messages import message_of

RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)
B = RNG.standard_normal((4,)).astype(np.float32)
X = RNG.standard_normal((5, 3)).astype(np.float32)


def perceptron(opset: int = 18, rows: int | str = "batch") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["hidden"], name="/fc/Gemm"),
        helper.make_node("Relu", ["hidden"], ["y"], name="/act/Relu", doc_string="the end"),
    ]
    graph = helper.make_graph(
        nodes, "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 4])],
        [numpy_helper.from_array(W, "fc.weight"), numpy_helper.from_array(B, "fc.bias")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="us")


def ids() -> onnx.ModelProto:
    model = perceptron()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def expected() -> np.ndarray:
    return np.maximum(X @ W + B, 0)


def as_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def test_a_model_is_printed_with_inputs_outputs_and_parameters():
    assert repr(rm.load(perceptron())).splitlines() == [
        "LoadedModel 'perceptron', opset 18, 2 nodes",
        "  input x: float32[batch, 3]",
        "  output y: float32[batch, 4]",
        "  2 parameters of 16 numbers",
    ]


@pytest.mark.parametrize("opset", [9, 13, 18, 25])
def test_an_export_is_the_file_and_a_call_computes_what_it_computes(opset: int):
    model = rm.load(perceptron(opset))
    assert as_bytes(to_onnx(model)) == as_bytes(perceptron(opset))
    y = model(X)
    assert y.shape == ("N", 4)
    np.testing.assert_allclose(y.as_ndarray(), expected(), rtol=1e-6)


def test_a_path_and_bytes_are_read_alike(tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(perceptron(), path)
    for model in (path, str(path), path.read_bytes()):
        rm.export(rm.load(model), tmp_path / "again.onnx")
        assert (tmp_path / "again.onnx").read_bytes() == as_bytes(perceptron())


def test_the_tree_of_an_output_is_that_of_the_file(capsys: pytest.CaptureFixture[str]):
    rm.load(perceptron()).outputs["y"].print_tree()
    assert capsys.readouterr().out.splitlines() == [
        "I am a Placeholder at depth 0 with tags: ['Forward']",
        "I am a Variable at depth 0 with tags: ['Forward']",
        "I am a Variable at depth 0 with tags: ['Forward']",
        "I am a Gemm (F) at depth 1 with tags: ['Forward']",
        "I am a Relu (F) at depth 2 with tags: ['Forward']",
    ]


def test_a_loaded_model_trains_and_is_exported_with_the_files_names():
    model = rm.load(perceptron())
    loss = rm.graph.MeanSquared()(rm.graph.Dense(1)(model(X)), np.ones((5, 1), np.float32))
    trained = to_training_onnx(loss, rm.graph.Sgd(0.1))
    assert [t.name for t in trained.graph.initializer] == ["fc.weight", "fc.bias", "dense1.w", "dense1.b"]
    assert [n.name for n in trained.graph.node] == ["/fc/Gemm", "/act/Relu", "dense1/Gemm"]
    before = float(loss.as_ndarray())
    loss.update(rm.graph.Sgd(0.1))
    assert float(loss.as_ndarray()) < before
    weight = numpy_helper.to_array(to_onnx(model).graph.initializer[0])
    assert not np.array_equal(weight, W)
    np.testing.assert_array_equal(weight, model.params["fc.weight"].as_ndarray())


def test_two_calls_share_their_parameters():
    model = rm.load(perceptron())
    both = rm.graph.sum(model(X) + model(2 * X))
    both.backward()
    trained = to_training_onnx(both, rm.graph.Sgd(0.1))
    assert [t.name for t in trained.graph.initializer] == ["fc.weight", "fc.bias"]
    assert len({n.name for n in trained.graph.node}) == len(trained.graph.node)


def test_parameters_are_frozen_by_the_files_names():
    model = rm.load(perceptron())
    model.set_updatable(False, "*.weight")
    assert [name for name, parameter in model.named_parameters() if parameter.trainable] == ["fc.bias"]


def test_inputs_replace_a_size_that_the_file_fixes():
    model = rm.load(perceptron(rows=1), inputs={"x": ("N", 3)})
    np.testing.assert_allclose(model(X).as_ndarray(), expected(), rtol=1e-6)
    assert to_onnx(model).graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_a_size_that_does_not_fit_is_told():
    assert message_of(lambda: rm.load(perceptron(rows=1))(X), rm.ShapeError) == (
        "LoadedModel: input 'x' must be float32[1, 3], with the sizes that the file fixes, got float32[5, 3]. To free "
        'a size that the file fixes, load it with inputs={"x": (...)}. {created}'
    )


@pytest.mark.parametrize("args", [(), (X, X)], ids=["none", "two"])
def test_inputs_that_are_not_the_files_are_told(args: Sequence[np.ndarray]):
    got = "2 by position" if args else "nothing"
    assert message_of(lambda: rm.load(perceptron())(*args), rm.ShapeError) == (
        f"LoadedModel: a call must give each of the inputs x once, got {got}. {{created}}"
    )


def test_a_type_that_cannot_be_converted_is_told():
    assert message_of(lambda: rm.load(ids())(X), rm.DTypeError) == (
        "LoadedModel: input 'x' must be int64[batch, 3], got float32[N, 3]. Convert it with .astype('int64'). {created}"
    )
