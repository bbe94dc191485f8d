"""Files of a session: saved and opened again, training goes on bit for bit; a broken file is an error and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import lint, to_onnx
from renom_onnx.runtime import InferenceSession, TrainingSession
from tests.converters.programs import LOSSES, OPTIMIZERS, Program, feeds, perceptron
from tests.converters.test_training_file import stock_session


def session_of(source: Any) -> TrainingSession:
    return TrainingSession(source, "cpu", threads=1)


def values(session: TrainingSession) -> dict[str, np.ndarray]:
    model = session.to_model()
    tensors = [*model.graph.initializer, *model.training_info[0].algorithm.initializer]
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors}


# Going on


PROGRAMS = [
    *(Program(loss, optimizer, 18) for loss in ("mlp", "cnn") for optimizer in OPTIMIZERS),
    *(Program(loss, "Adam", 18) for loss in LOSSES if loss not in ("mlp", "cnn")),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_saved_session_goes_on_bit_for_bit(program: Program, tmp_path: Path):
    model = program.model()
    session = session_of(model)
    for i in range(5):
        session.step(feeds(model, 4, i))
    session.learning_rate = 0.02
    path = tmp_path / "checkpoint.onnx"
    session.save(path)
    assert lint(path) == []

    reopened = session_of(path)
    assert reopened.learning_rate == session.learning_rate
    for i in range(5, 10):
        assert float(reopened.step(feeds(model, 4, i))) == float(session.step(feeds(model, 4, i)))
    for name, value in values(session).items():
        np.testing.assert_array_equal(values(reopened)[name], value, strict=True, err_msg=name)


def test_saving_does_not_disturb_the_training(tmp_path: Path):
    model = Program("mlp", "Adam", 18).model()
    a, b = session_of(model), session_of(model)
    for i in range(4):
        a.save(tmp_path / "a.onnx")
        assert float(a.step(feeds(model, 4, i))) == float(b.step(feeds(model, 4, i)))


def test_a_session_that_took_no_step_saves_the_bytes_it_was_opened_from(tmp_path: Path):
    rm.set_seed(0)
    path, again = tmp_path / "train.onnx", tmp_path / "again.onnx"
    rm.export_training(LOSSES["cnn"](), rm.graph.Adam(), path)
    session_of(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_saved_file_differs_in_the_values_of_initializers_only(tmp_path: Path):
    model = Program("mlp", "momentum", 18).model()
    session = session_of(model)
    session.step(feeds(model, 4))
    session.save(tmp_path / "checkpoint.onnx")
    saved = onnx.load(tmp_path / "checkpoint.onnx")
    changed = {b.key for b in model.training_info[0].update_binding}
    for m in (model, saved):
        for tensor in [*m.graph.initializer, *m.training_info[0].algorithm.initializer]:
            if tensor.name in changed:
                tensor.ClearField("raw_data")
    assert saved == model


def test_metadata_are_kept_and_added_to(tmp_path: Path):
    model = Program("mlp", "Sgd", 18).model()
    model.metadata_props.add(key="author", value="somebody")
    session_of(model).save(tmp_path / "a.onnx", metadata={"epoch": "3", "note": "first"})
    session_of(tmp_path / "a.onnx").save(tmp_path / "b.onnx", metadata={"epoch": "4"})
    facts = {p.key: p.value for p in onnx.load(tmp_path / "b.onnx").metadata_props}
    assert {k: facts[k] for k in ("author", "epoch", "note")} == {"author": "somebody", "epoch": "4", "note": "first"}


def test_a_stock_runtime_infers_from_a_saved_file_what_the_session_evaluates(tmp_path: Path):
    model = Program("cnn", "Adam", 18).model()
    session = session_of(model)
    for i in range(3):
        session.step(feeds(model, 4, i))
    session.save(tmp_path / "checkpoint.onnx")
    data = {"x": feeds(model, 5)["x"]}
    got = stock_session(str(tmp_path / "checkpoint.onnx")).run(None, data)[0]
    np.testing.assert_allclose(got, session.evaluate(data)["output"], rtol=1e-6)


def test_an_exported_inference_model_holds_nothing_of_training(tmp_path: Path):
    rm.set_seed(0)
    model = Program("mlp", "Adam", 18).model()
    session = session_of(model)
    session.step(feeds(model, 4))
    session.export_inference(tmp_path / "model.onnx")
    exported = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(exported, full_check=True)
    assert not exported.training_info and not exported.functions and not exported.metadata_props
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", 18)]
    data = {"x": feeds(model, 5)["x"]}
    got = InferenceSession(exported, "cpu").run(data)["output"]
    np.testing.assert_allclose(got, session.evaluate(data)["output"], rtol=1e-6)


def test_an_inference_session_reads_a_trainable_file_too():
    model = Program("mlp", "Adam", 18).model()
    session = InferenceSession(model, "cpu")
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.outputs == ("output",)
    data = {"x": feeds(model, 3)["x"]}
    np.testing.assert_array_equal(session.run(data)["output"], stock_session(model).run(None, data)[0])


# Written whole or not at all


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = Program("mlp", "Adam", 18).model()
    session = session_of(model)
    path = tmp_path / "checkpoint.onnx"
    session.save(path)
    before = path.read_bytes()
    session.step(feeds(model, 4))

    def fails(*args: Any) -> None:
        raise OSError("the disk is full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match=r"^the disk is full$"):
                session.save(path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.onnx"]
    session.save(path)
    assert path.read_bytes() != before


# Broken files


PARSE = "load: the model must be a complete ONNX file, got PATH: "
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "load: the model must be a complete ONNX file, got PATH, which holds no graph."),
    "no ONNX": (
        lambda data: b"hello, world\n" * 20,
        PARSE,
    ),
    "truncated": (
        lambda data: data[: len(data) // 2],
        PARSE,
    ),
    "one byte short": (
        lambda data: data[:-1],
        PARSE,
    ),
    "no training step": (
        lambda data: to_onnx(perceptron(), inputs={"x": ("N", 6)}).SerializeToString(),
        "training: a model must hold training_info, got one with 0 entries. Write it with rm.export_training.",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_an_error_that_says_what_it_is(kind: str, tmp_path: Path):
    spoil, message = BROKEN[kind]
    path = tmp_path / "broken.onnx"
    path.write_bytes(spoil(Program("mlp", "Sgd", 18).model().SerializeToString()))
    for source in (path, str(path)):
        with pytest.raises(rm.ConversionError) as error:
            session_of(source)
        wanted = message.replace("PATH", str(path))
        got = str(error.value)  # what protobuf says of a broken message differs between its versions
        assert (got[: len(wanted)] if message == PARSE else got) == wanted
    with pytest.raises(rm.ConversionError) as error:
        session_of(path.read_bytes())
    assert "ONNX file, got the bytes" in str(error.value) or kind == "no training step"


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        session_of(tmp_path / "missing.onnx")


def test_what_is_no_model_is_an_error():
    with pytest.raises(rm.ConversionError) as error:
        session_of(42)
    assert str(error.value) == "load: the model must be a path, bytes or a ModelProto, got int."
