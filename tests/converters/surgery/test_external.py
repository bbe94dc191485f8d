"""`externalize`: weights and state in a second file, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import externalize, lint
from renom_onnx.converters.importer import read_model
from tests.converters.programs import Program, feeds
from tests.converters.surgery.alike import adam, assert_trains_alike, parsed
from tests.converters.test_training_file import stock_session


def external(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    tensors = [*model.graph.initializer, *(t for info in model.training_info for t in info.algorithm.initializer)]
    return {t.name: {e.key: e.value for e in t.external_data} for t in tensors if t.external_data}


def read(path: Path) -> onnx.ModelProto:
    """Read both files; onnx says of tensors that it has read that they lie in the model, as is said by default."""
    model = read_model(path)
    for graph in (model.graph, *(info.algorithm for info in model.training_info)):
        for tensor in graph.initializer:
            tensor.ClearField("data_location")
    return model


@pytest.mark.parametrize("program", ["mlp", "cnn", "dropout"])
def test_both_files_hold_the_model_and_train_to_the_same_bits(program: str, tmp_path: Path):
    model = Program(program, "Adam", 18).model()
    path = tmp_path / "model.onnx"
    externalize(model, path, threshold_bytes=64)
    assert read(path) == model
    assert lint(path) == []
    assert_trains_alike(str(path), model)


def test_weights_and_state_are_moved_and_the_rest_stays(tmp_path: Path):
    written = externalize(adam(), tmp_path / "model.onnx", threshold_bytes=100)
    moved = external(written)
    assert set(moved) == {f"dense1.w{state}" for state in ("", ".adam_m", ".adam_v")}
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False) == written
    (location,) = {entry["location"] for entry in moved.values()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", location]
    assert location.startswith("model.onnx.") and location.endswith(".data")
    assert all(int(entry["offset"]) % 64 == 0 for entry in moved.values())
    sizes = {int(entry["offset"]) + int(entry["length"]) for entry in moved.values()}
    assert max(sizes) == (tmp_path / location).stat().st_size


def test_a_stock_runtime_infers_from_the_two_files(tmp_path: Path):
    model = adam()
    externalize(model, tmp_path / "model.onnx", location="weights.bin", threshold_bytes=1)
    batch = {"x": feeds(model, 4)["x"]}
    got = stock_session(str(tmp_path / "model.onnx")).run(None, batch)[0]
    np.testing.assert_array_equal(got, stock_session(model).run(None, batch)[0])


def test_two_files_are_one_again_after_reading_and_writing(tmp_path: Path):
    model = adam()
    externalize(model, tmp_path / "two.onnx", threshold_bytes=1)
    onnx.save(read(tmp_path / "two.onnx"), tmp_path / "one.onnx")
    assert onnx.load(tmp_path / "one.onnx", load_external_data=False) == model


def test_the_same_model_gives_the_same_bytes(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        externalize(adam(), tmp_path / folder / "model.onnx", threshold_bytes=1)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("a", "b"))
    assert first == second and len(first) == 2


def test_a_model_of_small_tensors_has_no_second_file(tmp_path: Path):
    model = adam()
    assert externalize(model, tmp_path / "model.onnx") == model
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_tensors_in_any_encoding_are_moved_and_texts_stay(tmp_path: Path):
    model = parsed("""f (float[2] x) => (float[2] y)
        <float[2] w = {1, 2}, int64[3] k = {1, 2, 3}, string[1] s = {"text"}> { y = Add (x, w) }""")
    assert not model.graph.initializer[0].HasField("raw_data")
    written = externalize(model, tmp_path / "model.onnx", threshold_bytes=0)
    assert set(external(written)) == {"w", "k"}
    got = {t.name: onnx.numpy_helper.to_array(t) for t in read_model(tmp_path / "model.onnx").graph.initializer}
    np.testing.assert_array_equal(got["w"], np.array([1, 2], np.float32), strict=True)
    np.testing.assert_array_equal(got["k"], np.array([1, 2, 3]), strict=True)
    assert got["s"].tolist() == ["text"]


@pytest.mark.parametrize("fails_at", ["data", "model"])
def test_a_writing_that_fails_leaves_the_old_model_whole(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "model.onnx"
    old = adam()
    externalize(old, path, threshold_bytes=1)
    new = Program("mlp", "momentum", 18).model()
    replace = Path.replace

    def fails(self: Path, target: Any) -> Any:
        if str(target).endswith(".data") == (fails_at == "data"):
            raise OSError("the disk is full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match=r"^the disk is full$"):
        externalize(new, path, threshold_bytes=1)
    monkeypatch.undo()
    assert read(path) == old
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


# Errors


@pytest.mark.parametrize(
    "location", ["../weights.bin", "folder/weights.bin", os.sep + "weights.bin", "model.onnx", ".."]
)
def test_a_location_that_is_no_file_beside_the_model_is_an_error(location: str, tmp_path: Path):
    with pytest.raises(rm.ConversionError) as error:
        externalize(adam(), tmp_path / "model.onnx", location=location)
    assert str(error.value) == (
        f"externalize: location must be the name of a file beside the model, got {location!r} for 'model.onnx'."
    )


def test_state_that_lies_outside_of_the_folder_is_not_read(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    externalize(adam(), tmp_path / "inner" / "model.onnx", location="weights.bin", threshold_bytes=1)
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(tmp_path / "inner" / "model.onnx", load_external_data=False)
    del model.graph.initializer[:]
    for tensor in model.training_info[0].algorithm.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    onnx.save(model, tmp_path / "inner" / "model.onnx")
    with pytest.raises(rm.ConversionError) as error:
        read_model(tmp_path / "inner" / "model.onnx")
    assert "weights.bin" in str(error.value)


def test_bytes_without_their_second_file_are_an_error(tmp_path: Path):
    externalize(adam(), tmp_path / "model.onnx", threshold_bytes=1)
    with pytest.raises(rm.ConversionError) as error:
        externalize((tmp_path / "model.onnx").read_bytes(), tmp_path / "other.onnx")
    assert str(error.value) == (
        "load: a model must hold the data of its tensors or be given as a path beside their file, got the bytes, where "
        "'dense1.w' is elsewhere."
    )
