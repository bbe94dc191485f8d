"""`rm.load`: a model as a layer, with the file's names, that is called, trained and exported again."""

from __future__ import annotations

import functools
import sys
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
        "LoadedModel 'perceptron', opset 18, 2 nodes: 1 Gemm, 1 Relu",
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


def two_inputs() -> onnx.ModelProto:
    shape = ["batch", 3]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["sum"], name="add"),
            helper.make_node("Sub", ["a", "b"], ["difference"], name="sub"),
        ],
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("sum", "difference")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_several_inputs_are_given_by_position_or_name_and_several_outputs_are_a_tuple():
    model = rm.load(two_inputs())
    for result in (model(X, 2 * X), model(X, b=2 * X), model(b=2 * X, a=X)):
        np.testing.assert_allclose(result[0].as_ndarray(), 3 * X)
        np.testing.assert_allclose(result[1].as_ndarray(), -X)


def test_a_symbol_is_one_size_in_all_inputs():
    model = rm.load(two_inputs())
    a, b = (rm.graph.StaticVariable(x) for x in (X, X[:2]))
    assert message_of(lambda: model(a, b), rm.ShapeError) == (
        "LoadedModel: input 'b' must be float32[batch, 3], with batch = 5 as in another input, got float32[2, 3]. To "
        'free a size that the file fixes, load it with inputs={"b": (...)}. {created}'
    )
    assert message_of(lambda: model(X, X[0]), rm.ShapeError) == (
        "LoadedModel: input 'b' must be float32[batch, 3], with 2 axes, got float32[N]. To free a size that the file "
        'fixes, load it with inputs={"b": (...)}. {created}'
    )


def test_numbers_of_another_type_are_converted_where_they_are_read():
    model = rm.load(perceptron())
    for dtype in (np.float64, np.float16, np.int32):
        x = (X * 4).astype(dtype)
        y = model(x)
        assert [node.op_type for node in to_onnx(y).graph.node] == ["Gemm", "Relu"]  # the file asks for float32
        np.testing.assert_allclose(y.as_ndarray(), np.maximum(x.astype(np.float32) @ W + B, 0), rtol=1e-5)


def test_a_model_in_a_model_keeps_the_files_names():
    class Both(rm.graph.Model):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = rm.load(perceptron())
            self.head = rm.graph.Dense(2)

        def forward(self, x: rm.graph.GraphElement) -> rm.graph.GraphElement:
            return self.head(self.backbone(x))

    model = Both()
    model.set_updatable(False, "backbone.*")
    loss = rm.graph.MeanSquared()(model(X), np.ones((5, 2), np.float32))
    trained = to_training_onnx(loss, rm.graph.Sgd(0.1))
    assert [t.name for t in trained.graph.initializer] == ["fc.weight", "fc.bias", "head.w", "head.b"]
    assert {b.key for b in trained.training_info[0].update_binding} == {"head.w", "head.b"}
    assert [n.name for n in trained.graph.node] == ["/fc/Gemm", "/act/Relu", "head/Gemm"]


def test_weights_are_saved_and_loaded_by_the_files_names(tmp_path: Path):
    model, other = rm.load(perceptron()), rm.load(perceptron())
    model.params["fc.bias"].output.node.array = np.zeros(4, np.float32)  # type: ignore[attr-defined]
    model.save(tmp_path / "weights.npz")
    other.load(tmp_path / "weights.npz")
    np.testing.assert_array_equal(other.params["fc.bias"].as_ndarray(), np.zeros(4))


def test_an_export_can_be_of_a_newer_opset_or_written_out():
    model = rm.load(perceptron(13))
    assert to_onnx(model, opset=21).opset_import[0].version == 21
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="own", name="call")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    file = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    loaded = rm.load(file)
    assert as_bytes(to_onnx(loaded)) == as_bytes(file)
    assert [n.op_type for n in to_onnx(loaded, inline=True).graph.node] == ["Add"]
    y = loaded(X[:, 0])
    np.testing.assert_allclose(y.as_ndarray(), 2 * X[:, 0])
    assert [(n.domain, n.op_type) for n in to_onnx(y).graph.node] == [("own", "Twice")]
    gradient = rm.graph.sum(rm.graph.square(y)).backward().get_gradient(y)
    np.testing.assert_allclose(gradient.as_ndarray(), 4 * X[:, 0], rtol=1e-6)


def test_an_operator_that_nobody_knows_is_carried_and_told_when_it_runs():
    file = perceptron()
    file.graph.node[1].op_type, file.graph.node[1].domain = "Swoosh", "own"
    file.opset_import.append(helper.make_opsetid("own", 3))
    model = rm.load(file)
    assert as_bytes(to_onnx(model)) == as_bytes(file)
    y = model(X)
    assert {o.domain: o.version for o in to_onnx(y).opset_import} == {"": 18, "own": 3}
    with pytest.raises(rm.RunError) as error:
        y.as_ndarray()
    assert str(error.value).startswith("evaluate: onnxruntime stopped, got: ")
    loss = rm.graph.MeanSquared()(y, np.ones((5, 4), np.float32))
    with pytest.raises(rm.GradientError) as refused:
        loss.backward()
    assert str(refused.value).startswith("own.Swoosh: there is no gradient rule, but the loss depends on fc.weight")


def test_an_element_of_an_old_opset_is_not_joined_with_others():
    old = perceptron(11)
    old.graph.node[1].op_type = "Softmax"
    y = rm.load(old).outputs["y"]
    assert to_onnx(y).opset_import[0].version == 11
    joined = y * 2
    with pytest.raises(rm.ConversionError) as error:
        to_onnx(joined)
    assert str(error.value) == (
        "Gemm: an element of opset 11 must not be joined with others, got a tree of opset 18, where the operator is "
        "another version. Call the loaded model, which upgrades it. It is node '/fc/Gemm' of the model."
    )


def test_inputs_that_are_not_there_or_have_other_axes_are_told():
    assert message_of(lambda: rm.load(perceptron(), inputs={"z": (1,)}), rm.ConversionError) == (
        "load: inputs must name inputs of the model, got 'z'. There are: x."
    )
    assert message_of(lambda: rm.load(perceptron(), inputs={"x": (1, 2, 3)}), rm.ShapeError) == (
        "load: the shape of 'x' must have the file's 2 axes, got [1, 2, 3]."
    )


def optional_model() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"]))
    graph = helper.make_graph(
        [helper.make_node("OptionalHasElement", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", kind)],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, [])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_what_is_no_tensor_is_given_as_a_list_or_an_element():
    assert message_of(lambda: rm.load(optional_model())(X), rm.DTypeError) == (
        "LoadedModel: input 'x' must be a list of arrays, if it is a sequence, or an element, got ndarray. {created}"
    )


def test_a_sparse_weight_is_carried_and_read_as_a_dense_array():
    dense = np.zeros((3, 4), np.float32)
    dense[[0, 2], [1, 3]] = [2, 5]
    values = numpy_helper.from_array(np.array([2, 5], np.float32), "fc.weight")
    places = numpy_helper.from_array(np.array([[0, 1], [2, 3]], np.int64), "fc.weight.places")
    file = perceptron()
    del file.graph.initializer[0]
    file.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 4]))
    model = rm.load(file)
    assert as_bytes(to_onnx(model)) == as_bytes(file)
    assert [name for name, _ in model.named_parameters()] == ["fc.bias"]
    np.testing.assert_allclose(model(X).as_ndarray(), np.maximum(X @ dense + B, 0), rtol=1e-6)


def test_a_default_of_an_input_is_an_initializer():
    file = perceptron()
    file.graph.input.append(helper.make_tensor_value_info("fc.bias", TensorProto.FLOAT, [4]))
    model = rm.load(file)
    assert list(model.inputs) == ["x"]
    assert as_bytes(to_onnx(model)) == as_bytes(file)


def test_a_model_too_large_for_one_file_has_its_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = sys.modules["renom_onnx.converters.export"]  # its name is that of the function too
    monkeypatch.setattr(module, "LARGEST_FILE_BYTES", 10)
    monkeypatch.setattr(module, "externalize", functools.partial(module.externalize, threshold_bytes=16))
    model = rm.load(perceptron())
    rm.export(model, tmp_path / "large.onnx")
    assert len(list(tmp_path.iterdir())) == 2
    again = rm.load(tmp_path / "large.onnx")
    assert as_bytes(to_onnx(again)) == as_bytes(perceptron())


def test_an_export_can_be_of_an_older_opset_if_the_operators_are_the_same():
    assert to_onnx(rm.load(perceptron(21)), opset=18).opset_import[0].version == 18
    changed = perceptron(21)
    changed.graph.node[1].op_type = "Gelu"
    assert message_of(lambda: to_onnx(rm.load(changed), opset=18), rm.ConversionError) == (
        "convert_opset: every operator must exist at opset 21 and at 18, got Gelu in node '/act/Relu', which does not "
        "at 18."
    )
