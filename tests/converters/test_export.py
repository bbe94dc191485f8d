"""Exports: names, outputs, opsets, and the errors of what cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import export, lint, to_onnx, to_training_onnx
from renom_onnx.converters.export import write_file
from tests.converters.programs import (
    Program,
    classes,
    convolutional,
    cross_entropy,
    features,
    feeds,
    graph,
    images,
    mlp,
    perceptron,
)
from tests.converters.test_training_file import stock_session

Elements = tuple[graph.GraphElement, ...]


def names(values: Sequence[Any]) -> list[str]:
    return [value.name for value in values]


def distributor(names: Sequence[str] = ("x", "y")) -> graph.DistributorElement:
    return graph.DistributorElement(features(8), classes(8), batch_size=4, shuffle=False, names=names)


def elements(names: Sequence[str] = ("x", "y")) -> Elements:
    """Return data, target, prediction and loss."""
    rm.set_seed(0)
    x, y = distributor(names).get_output_graphs()
    prediction = perceptron()(x)
    return x, y, prediction, graph.SoftmaxCrossEntropy()(prediction, y)


# Inference


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_an_inference_export_is_a_plain_model_of_the_opset_asked_for(opset: int):
    model = to_onnx(perceptron(), inputs={"x": ("N", 6)}, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert not model.functions
    assert model.ir_version == 10


@pytest.mark.parametrize(
    ("layer", "shape", "array"),
    [(perceptron, ("N", 6), features(5)), (convolutional, ("N", 2, 8, 8), images(5))],
    ids=["mlp", "cnn"],
)
def test_a_stock_runtime_computes_what_the_element_computes(
    layer: Callable[[], graph.Layer], shape: tuple[str | int, ...], array: np.ndarray
):
    rm.set_seed(0)
    model = layer()
    proto = to_onnx(model, inputs={"image": shape})
    assert names(proto.graph.input) == ["image"]
    got = stock_session(proto).run(["output"], {"image": array})[0]
    np.testing.assert_allclose(got, model(array).as_ndarray(), rtol=1e-5, atol=1e-6)


def test_a_called_layer_is_exported_as_it_was_called_last():
    layer = graph.Dense(2)
    layer(np.ones((3, 4), np.float32))
    model = to_onnx(layer)
    assert [(v.name, v.type) for v in model.graph.input] == [
        ("x", onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 4]))
    ]


def test_a_loss_stands_for_its_prediction():
    model = to_onnx(elements()[3])
    assert (names(model.graph.input), names(model.graph.output)) == (["x"], ["output"])
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm"]


def test_several_elements_are_several_outputs():
    x = elements()[0]
    model = to_onnx([graph.relu(x), graph.tanh(x)])
    assert (names(model.graph.input), names(model.graph.output)) == (["x"], ["output1", "output2"])


def test_a_program_of_two_distributors_has_inputs_of_both():
    model = to_onnx(distributor().get_output_graphs()[0] + distributor().get_output_graphs()[0])
    assert names(model.graph.input) == ["x", "x_2"]


# Outputs of a training file


def outputs_a(x: Any, y: Any, prediction: Any, loss: Any) -> dict[str, Any]:
    return {"scores": prediction, "shares": graph.softmax(prediction), "again": prediction, "data": x}


def test_outputs_are_named_as_asked_even_one_value_twice_and_data():
    x, y, prediction, loss = elements()
    model = to_training_onnx(loss, graph.Sgd(0.1), outputs=outputs_a(x, y, prediction, loss))
    assert lint(model) == []
    got = stock_session(model).run(None, {"x": features(3)})
    assert names(model.graph.output) == ["scores", "shares", "again", "data"]
    np.testing.assert_array_equal(got[0], got[2])
    np.testing.assert_array_equal(got[3], features(3))
    np.testing.assert_allclose(got[1], np.exp(got[0]) / np.exp(got[0]).sum(-1, keepdims=True), rtol=1e-5)


def test_a_loss_without_a_target_can_be_an_output():
    loss = graph.ConstantLoss()(perceptron()(features(4)))
    model = to_training_onnx(loss, graph.Sgd(0.1), outputs={"total": loss})
    assert lint(model) == []
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    batch = feeds(model, 3)
    before = session.evaluate(batch)
    assert float(session.step(batch)) == before["loss"] == before["total"]


def test_an_element_that_is_no_loss_is_trained_by_its_sum():
    rm.set_seed(0)
    model = to_training_onnx(graph.Dense(2)(features(4)), graph.Sgd(0.1))
    assert lint(model) == []
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    batch = feeds(model, 4)
    total = session.evaluate(batch)["output"].sum()
    assert float(session.step(batch)) == pytest.approx(total, rel=1e-5)


def test_a_loss_written_with_operators_needs_its_target_for_inference():
    x, y = distributor().get_output_graphs()
    d = graph.Dense(1)(x) - y.reshape(-1, 1)
    model = to_training_onnx((d * d).mean(), graph.Sgd(0.1))
    assert lint(model) == []
    assert names(model.graph.input) == ["x", "y"]


# Names


@pytest.mark.parametrize(
    ("inputs", "output", "loss", "gradient"),
    [
        (("x", "y"), "output", "loss", "dense1.w.grad"),
        (("output", "loss"), "output_2", "loss_2", "dense1.w.grad"),
        (("dense1.w.grad", "y"), "output", "loss", "dense1.w.grad_2"),
        (("dense1.w.next", "dense1/Gemm"), "output", "loss", "dense1.w.grad"),
    ],
    ids=["plain", "output-loss", "gradient", "next-node"],
)
def test_names_that_inputs_have_get_a_number(inputs: tuple[str, str], output: str, loss: str, gradient: str):
    model = to_training_onnx(elements(inputs)[3], graph.Adam())
    info = model.training_info[0]
    assert lint(model) == []
    assert names(model.graph.output) == [output]
    assert info.algorithm.output[0].name == loss
    assert [n.output[0] for n in info.algorithm.node if n.name == "dense1/GemmGrad"] == [gradient]
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    plain = rm.runtime.TrainingSession(to_training_onnx(elements()[3], graph.Adam()), "cpu", threads=1)
    batch = dict(zip(inputs, (features(4), classes(4)), strict=True))
    for _ in range(2):
        assert float(session.step(batch)) == float(plain.step({"x": features(4), "y": classes(4)}))
    assert session.evaluate(batch)[session.loss_name] == plain.evaluate({"x": features(4), "y": classes(4)})["loss"]


@pytest.mark.parametrize("inputs", [("output", "loss"), ("evaluation_loss", "dense1.w.grad")], ids="-".join)
def test_an_executor_trains_data_of_any_name(inputs: tuple[str, str]):
    losses = [elements(n)[3].get_training_executor(graph.Sgd(0.1), ["cpu"]) for n in (inputs, ("x", "y"))]
    histories = [executor.execute(2, progress=False, validation=(features(4), classes(4))) for executor in losses]
    assert histories[0] == histories[1]


def test_data_that_start_a_new_tree_are_an_input_of_their_own_and_get_the_same_rows():
    rm.set_seed(0)
    x, y = distributor().get_output_graphs()
    first = graph.Dense(3)(x)
    loss = cross_entropy(graph.Relu(), first + graph.Dense(3)(x.disconnect()), y)
    model = to_training_onnx(loss, graph.Sgd(0.1))
    assert names(model.graph.input) == ["x", "x_2"]
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    rows = [{"x": features(8)[i : i + 4], "x_2": features(8)[i : i + 4], "y": classes(8)[i : i + 4]} for i in (0, 4)]
    wanted = np.mean([float(session.step(batch)) for batch in rows])
    history = loss.get_training_executor(graph.Sgd(0.1), ["cpu"]).execute(1, progress=False)
    assert history.losses == [pytest.approx(wanted, rel=1e-6)]


def test_an_array_beside_a_distributor_is_an_input_of_its_own():
    rm.set_seed(0)
    x, y = distributor().get_output_graphs()
    loss = cross_entropy(graph.Relu(), graph.Dense(3)(x) + graph.Dense(3)(features(4)), y)
    assert names(to_training_onnx(loss, graph.Sgd(0.1)).graph.input) == ["x", "x_2"]
    losses = loss.get_training_executor(graph.Sgd(0.1), ["cpu"]).execute(3, progress=False).losses
    assert losses[2] < losses[0]


# Errors

OPSETS = ". Newer opsets lose kernels of onnxruntime's CUDA provider, and older ones lack operators."


def exported(outputs: Callable[..., dict[str, Any]]) -> Callable[[], Any]:
    def call() -> Any:
        x, y, prediction, loss = elements()
        return to_training_onnx(loss, graph.Sgd(0.1), outputs=outputs(x, y, prediction, loss))

    return call


ERRORS: dict[str, tuple[Callable[[], Any], type[rm.RenomError], str]] = {
    "an opset below 18": (
        lambda: to_onnx(perceptron(), inputs={"x": ("N", 6)}, opset=17),
        rm.ConversionError,
        f"export: opset must be 18 to 21, got 17{OPSETS}",
    ),
    "an opset above 21": (
        lambda: to_training_onnx(mlp(), opset=22),
        rm.ConversionError,
        f"export: opset must be 18 to 21, got 22{OPSETS}",
    ),
    "a model never called": (
        lambda: to_onnx(perceptron()),
        rm.ConversionError,
        "export: a model must have been called, or be given inputs, got Sequential, which was never called. "
        'Call it with data, or give inputs={"x": ("N", ...)}.',
    ),
    "nothing to train": (
        lambda: to_training_onnx(graph.ConstantLoss()(graph.relu(features(2)))),
        rm.GradientError,
        "update: the loss must depend on a trainable parameter, got one that depends on none. "
        "Created at test_export.py:LINE.",
    ),
    "an output that needs the target": (
        exported(lambda x, y, prediction, loss: {"how_bad": loss}),
        rm.ConversionError,
        "export_training: an output must depend on no target, got 'how_bad', which depends on y. "
        "Leave it out, or give a value before the loss. Created at test_export.py:LINE.",
    ),
    "an output that is the target": (
        exported(lambda x, y, prediction, loss: {"label": y}),
        rm.ConversionError,
        "export_training: an output must depend on no target, got 'label', which depends on y. "
        "Leave it out, or give a value before the loss. Created at test_export.py:LINE.",
    ),
    "an output named as an input": (
        exported(lambda x, y, prediction, loss: {"x": prediction}),
        rm.ConversionError,
        "export: an output must have a name of its own, got 'x', which an input or parameter has. "
        "Created at test_export.py:LINE.",
    ),
    "an output named as a parameter": (
        exported(lambda x, y, prediction, loss: {"dense1.w": prediction}),
        rm.ConversionError,
        "export: an output must have a name of its own, got 'dense1.w', which an input or parameter has. "
        "Created at test_export.py:LINE.",
    ),
    "an input named as a parameter": (
        lambda: to_training_onnx(elements(("dense1.w", "y"))[3], graph.Sgd(0.1)),
        rm.ConversionError,
        "export: an input must have a name of its own, got 'dense1.w', which a parameter, a state or the learning rate "
        "has. Rename it.",
    ),
    "an array": (
        lambda: export(np.ones(3), "nowhere.onnx"),  # type: ignore[arg-type]
        rm.ConversionError,
        "export: the source must be an element, several, or a layer, got ndarray. Created at test_export.py:LINE.",
    ),
    "a model in place of a loss": (
        lambda: to_training_onnx(perceptron(), graph.Sgd(0.1)),  # type: ignore[arg-type]
        rm.ConversionError,
        "export_training: the loss must be an element, got Sequential. Call model and loss with data first: loss = "
        "SoftmaxCrossEntropy()(model(x), y). Created at test_export.py:LINE.",
    ),
    "a path in place of the optimizer": (
        lambda: rm.export_training(elements(("x", "y"))[3], "a.onnx", graph.Sgd(0.1)),  # type: ignore[arg-type]
        rm.ConversionError,
        "export_training: an optimizer must be an Optimizer or one of adadelta, adagrad, adam, adamax, adamw, lamb, "
        "lion, rmsprop, sgd, got 'a.onnx'. Created at test_export.py:LINE.",
    ),
    "an input named as the learning rate": (
        lambda: to_training_onnx(elements(("learning_rate", "y"))[3], graph.Sgd(0.1)),
        rm.ConversionError,
        "export: an input must have a name of its own, got 'learning_rate', which a parameter, a state or the learning "
        "rate has. Rename it.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_was_got_and_what_to_do(name: str):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind) as error:
        call()
    assert without_line(str(error.value)) == message


def without_line(message: str) -> str:
    head, sep, line = message.rpartition("test_export.py:")
    return f"{head}{sep}LINE." if sep and line[:-1].isdigit() else message


# Files


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model.onnx"
    export(perceptron(), path, inputs={"x": ("N", 6)})
    before = path.read_bytes()

    def fails(*args: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match=r"^the disk is full$"):
        export(convolutional(), path, inputs={"x": ("N", 2, 8, 8)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_an_error_while_the_model_is_made_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(rm.ConversionError):
        export(perceptron(), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_a_folder_that_is_not_there_is_the_systems_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        write_file(b"", tmp_path / "missing" / "model.onnx")
    assert caught.value.filename == str(tmp_path / "missing")
    assert caught.value.strerror == "No such folder to write to"


def test_a_file_is_the_bytes_of_the_model(tmp_path: Path):
    model = Program("mlp", "Adam", 18).model()
    write_file(model, tmp_path / "a.onnx")
    write_file(model.SerializeToString(deterministic=True), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert onnx.load(tmp_path / "a.onnx") == model
