"""Reading files: what is broken, and what lies elsewhere, is told; what is read is not changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import renom_onnx as rm
from renom_onnx.converters import lint, vjp
from renom_onnx.errors import first_line
from renom_onnx.runtime import TrainingSession
from tests.converters.programs import Program, feeds
from tests.converters.test_training_file import specified_concatenation, stock_session


def sound() -> onnx.ModelProto:
    return Program("mlp", "Sgd", 18).model()


def train(model: onnx.ModelProto) -> object:
    return TrainingSession(model, "cpu", threads=1).step(feeds(sound(), 4))


def short_tensor(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    tensor.raw_data = tensor.raw_data[:-4]


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def no_value(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add()
    attribute.name = "alpha"
    attribute.type = onnx.AttributeProto.UNDEFINED


def no_output(model: onnx.ModelProto) -> None:
    model.training_info[0].update_binding[0].value = "nobody"


def elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], None], Callable[[onnx.ModelProto], object], str]] = {
    "a tensor that is too short": (
        short_tensor,
        train,
        "load: a tensor must hold what its type and sizes say, got 'dense1.b': cannot reshape array of size 7 into "
        "shape (1,8).",
    ),
    "an element type that nobody knows": (
        unknown_type,
        train,
        "load: an element type must be one of ONNX's numbers, got 99.",
    ),
    "an attribute without a value": (
        no_value,
        vjp,
        "load: an attribute must have a name of its own and a value, got 'alpha' of node 'dense1/Gemm'.",
    ),
    "a binding to no output": (
        no_output,
        train,
        "training: update_binding must name outputs, got nobody, which is none.",
    ),
    "data that lie elsewhere": (
        elsewhere,
        lint,
        "load: a model must hold the data of its tensors or be given as a path beside their file, got a ModelProto, "
        "where 'dense1.w' is elsewhere.",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_told(kind: str):
    spoil, read, message = BROKEN[kind]
    model = sound()
    spoil(model)
    with pytest.raises(rm.ConversionError) as error:
        read(model)
    assert str(error.value) == message


def test_external_data_are_read_from_beside_a_path_only(tmp_path: Path):
    model = sound()
    path = tmp_path / "train.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    session = TrainingSession(path, "cpu", threads=1)
    assert float(session.step(feeds(sound(), 4))) == float(train(sound()))  # type: ignore[arg-type]
    with pytest.raises(rm.ConversionError) as error:
        TrainingSession(path.read_bytes(), "cpu")
    assert "got the bytes, where 'dense1.w' is elsewhere." in str(error.value)


@pytest.mark.parametrize("read", [lint, vjp, train], ids=["lint", "vjp", "train"])
def test_the_model_given_is_not_changed(read: Callable[[onnx.ModelProto], object]):
    model = sound()
    read(model)
    assert model == sound()


def test_a_branch_in_the_forward_is_kept_and_its_values_are_evaluated():
    model = sound()
    graph = model.graph
    outer = helper.make_graph(
        [helper.make_node("Neg", ["dense2/Gemm"], ["negated"], name="neg")],
        "outer", [], [helper.make_tensor_value_info("negated", TensorProto.FLOAT, None)],
    )  # fmt: skip
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("dense2/Gemm", TensorProto.FLOAT, None)])
    inner.node.append(helper.make_node("Identity", ["dense2/Gemm"], ["same"], name="same"))
    inner.output[0].name = "same"
    graph.node[-1].output[0] = "dense2/Gemm"
    graph.node.extend(
        [
            helper.make_node(
                "Constant", [], ["choice"], name="c", value=helper.make_tensor("", TensorProto.BOOL, [], [0])
            ),
            helper.make_node("If", ["choice"], ["output"], name="if", then_branch=outer, else_branch=inner),
        ]
    )
    assert lint(model) == []
    batch = feeds(sound(), 4)
    session, plain = (TrainingSession(m, "cpu", threads=1) for m in (model, sound()))
    for _ in range(3):
        assert float(session.step(batch)) == float(plain.step(batch))
        np.testing.assert_array_equal(session.evaluate(batch)["output"], plain.evaluate(batch)["output"])
    stock_session(specified_concatenation(model))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one."), "one"),
        (ValueError(" one \n two"), "one"),
        (ValueError("input of node: \nname: a\n is missing."), "input of node: name: a is missing"),
        (KeyError(), "KeyError"),
    ],
    ids=["full stop", "two lines", "colon", "nothing"],
)
def test_another_librarys_error_is_quoted_in_one_line(error: Exception, text: str):
    assert first_line(error) == text
