"""`InferenceSession`: any ONNX model, its feeds checked, its errors told; and models whose sizes have no names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.runtime import InferenceSession, TrainingSession, inference
from tests.converters.programs import Program, feeds

TEXT = '<ir_version: 10, opset_import: ["": 18]> '


def model_of(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT + text)


def session_of(text: str) -> InferenceSession:
    return InferenceSession(model_of(text), "cpu", threads=1)


def test_a_model_is_run_by_names():
    session = session_of("f (float[N,2] x, int64 k) => (float[N,2] y, int64 m) { y = Exp(x) m = Neg(k) }")
    got = session.run({"k": 3, "x": np.zeros((4, 2), np.float32)})
    assert list(got) == list(session.outputs) == ["y", "m"]
    np.testing.assert_array_equal(got["y"], np.ones((4, 2), np.float32))
    assert got["m"] == -3


@pytest.mark.parametrize("form", ["ModelProto", "bytes", "path", "Path"])
def test_a_model_is_taken_in_every_form(form: str, tmp_path: Path):
    model = model_of("f (float[N] x) => (float[N] y) { y = Neg(x) }")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    source: Any = {"ModelProto": model, "bytes": model.SerializeToString(), "path": str(path), "Path": path}[form]
    got = InferenceSession(source, "cpu").run({"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(got["y"], [-1, -1])


def test_an_input_with_an_initializer_need_not_be_fed():
    model = model_of("f (float[N] x, float k) => (float[N] y) { y = Mul(x, k) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "k"))
    session = InferenceSession(model, "cpu")
    assert [spec.name for spec in session.inputs] == ["x"]
    np.testing.assert_array_equal(session.run({"x": np.ones(2, np.float32)})["y"], [2, 2])


X = np.zeros((4, 2), np.float32)
WRONG: dict[str, tuple[dict[str, Any], type[rm.RenomError], str]] = {
    "missing": ({"x": X}, rm.ShapeError, "every input must be fed, got 'x', but 'z' is missing."),
    "unknown": ({"x": X, "z": X, "w": X}, rm.ShapeError, "a feed must be one of x, z, got 'w'."),
    "two sizes": (
        {"x": X, "z": X[:3]}, rm.ShapeError,
        "feed 'z' must be float32[N, 2] with N = 4 as in the feeds before it, got float32[3, 2].",
    ),
    "double": (
        {"x": X, "z": X.astype(float)}, rm.DTypeError,
        'feed \'z\' must be float32[N, 2], got float64[4, 2]. Convert with z.astype("float32").',
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_feed_that_does_not_fit_is_told(kind: str):
    given, error_kind, message = WRONG[kind]
    session = session_of("f (float[N,2] x, float[N,2] z) => (float[N,2] y) { y = Add(x, z) }")
    with pytest.raises(error_kind) as error:
        session.run(given)
    assert str(error.value) == f"InferenceSession.run: {message}"


def test_an_error_of_onnxruntime_is_told_in_one_line():
    session = session_of("f (float[N] x, int64[1] s) => (float[M] y) { [fold] y = Reshape(x, s) }")
    with pytest.raises(rm.RunError) as error:
        session.run({"x": np.zeros(3, np.float32), "s": np.array([4])})
    assert str(error.value) == (
        "InferenceSession.run: onnxruntime stopped, got: [ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned "
        "while running Reshape node. Name:'fold' Status Message: The input tensor cannot be reshaped to the requested "
        "shape. Input shape:{3}, requested shape:{4}."
    )


def test_a_model_that_onnxruntime_refuses_is_told():
    with pytest.raises(rm.RunError) as error:
        session_of("f (float[N] x) => (float[N] y) { y = Nothing(x) }")
    assert str(error.value).startswith("onnxruntime refused the model: ")


# Sizes without names


def anonymous(change: Callable[[Any], None]) -> onnx.ModelProto:
    model = Program("mlp", "Sgd", 18).model()
    for info in [*model.graph.input, *model.graph.output, *model.training_info[0].algorithm.input]:
        if info.type.tensor_type.shape.dim:
            change(info.type.tensor_type)
    return model


CHANGES: dict[str, Callable[[Any], None]] = {
    "no name": lambda t: t.shape.dim[0].ClearField("dim_param"),
    "other names": lambda t: setattr(t.shape.dim[0], "dim_param", f"rows{t.elem_type}"),
    "no shape": lambda t: t.ClearField("shape"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_file_whose_sizes_have_no_common_name_is_trained_as_well(kind: str):
    """But for rounding: bodies that want to know the sizes are not taken."""
    plain = TrainingSession(Program("mlp", "Sgd", 18).model(), "cpu", threads=1)
    session = TrainingSession(anonymous(CHANGES[kind]), "cpu", threads=1)
    for rows in (4, 2, 5, 3, 1):
        batch = feeds(Program("mlp", "Sgd", 18).model(), rows)
        assert float(session.step(batch)) == pytest.approx(float(plain.step(batch)), rel=1e-6)
        found, expected = (one.evaluate(batch)["output"] for one in (session, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_feed_that_does_not_fit_a_size_without_a_name_is_told_with_a_question_mark():
    session = TrainingSession(anonymous(CHANGES["no name"]), "cpu", threads=1)
    batch = feeds(Program("mlp", "Sgd", 18).model(), 4)
    with pytest.raises(rm.ShapeError) as error:
        session.step({**batch, "x": batch["x"][:, :5]})
    assert str(error.value) == "TrainingSession.step: feed 'x' must be float32[?, 6], got float32[4, 5]."
    session = TrainingSession(anonymous(CHANGES["no shape"]), "cpu", threads=1)
    with pytest.raises(rm.DTypeError) as error:
        session.step({**batch, "y": batch["y"].astype("int8")})
    assert str(error.value) == (
        "TrainingSession.step: feed 'y' must be int64[...], got int8[4]. Convert with y.astype(\"int64\")."
    )


def test_feeds_are_checked_once_for_each_signature(monkeypatch: pytest.MonkeyPatch):
    session = session_of("f (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    checked = []
    check = inference.check_feeds
    monkeypatch.setattr(inference, "check_feeds", lambda *a: checked.append(a) or check(*a))
    for rows in (1, 2, 1, 2, 2):
        assert session.run({"x": np.zeros((rows, 3), np.float32)})["y"].shape == (rows, 3)
    assert len(checked) == 2
    wrong: list[Any] = [np.zeros((2, 4), np.float32), np.zeros((2, 3)), np.zeros(3, np.float32)]
    for array in wrong * 2:
        with pytest.raises((ShapeError, DTypeError)):
            session.run({"x": array})
    with pytest.raises(ShapeError):
        session.run({"z": np.zeros((1, 3), np.float32)})
