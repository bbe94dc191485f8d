"""Sizes of values are inferred when they are asked for, and not again for every form of a step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.converters.tree import as_bytes
from renom_onnx.graph import Adam, BatchNormalize, Conv, Dense, Flatten, MaxPool, Relu, Sequential, SoftmaxCrossEntropy
from renom_onnx.runtime import TrainingSession
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.specialization import block_size, for_sizes, has_gated_sums

X, Y = np.ones((4, 8, 10, 10), np.float32), np.zeros(4, np.int64)
TEXT = """<ir_version: 8, opset_import: ["": 18]>
f (float[N, 2] x, int64[N] t, float[M] z) => (float[N, 2] y, float[M] w) { y = Abs (x) w = Abs (z) }"""


def test_what_is_float32_and_of_known_sizes_is_known():
    shapes = KnownShapes(onnx.parser.parse_model(TEXT), {"N": 3})
    assert shapes["y"] == shapes.get("x") == (3, 2)
    assert not any(name in shapes for name in ("t", "z", "w", "nobody"))
    assert shapes.get("z") is None
    assert shapes.get("nobody", ()) == ()
    with pytest.raises(KeyError, match=r"^'w'$"):
        shapes["w"]


def test_what_is_written_out_is_known_beside_what_was():
    shapes = KnownShapes(onnx.parser.parse_model(TEXT), {"N": 3})
    assert shapes["y"] == (3, 2) and "written" not in shapes
    shapes.learn(onnx.parser.parse_model(TEXT.replace("y", "written")))
    assert shapes["written"] == shapes["y"] == (3, 2)


def test_what_a_copy_is_told_the_original_does_not_know():
    shapes = KnownShapes(onnx.parser.parse_model(TEXT), {"N": 3})
    assert shapes["y"] == (3, 2)
    copy = shapes.copy()
    copy.tell("made", (7,))
    assert copy["made"] == (7,) and copy["y"] == (3, 2) and "made" not in shapes


def file() -> onnx.ModelProto:
    """Return a file whose step every form but that of recurrent layers changes."""
    rm.set_seed(0)
    layers = [Conv(16, kernel=3), BatchNormalize(), Relu(), MaxPool(2, stride=2), Flatten(), Dense(32), Dense(3)]
    loss = SoftmaxCrossEntropy()(Sequential(layers)(X), Y)
    return rm.converters.to_training_onnx(loss, Adam(0.1))


@pytest.fixture
def inferred(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """What was inferred: how many nodes, and whether they call functions."""
    block_size(), has_gated_sums()
    found: list[tuple[int, bool]] = []
    infer = onnx.shape_inference.infer_shapes

    def counted(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        found.append((len(model.graph.node), bool(model.functions)))
        return infer(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
    return found


def test_a_step_is_inferred_once_before_its_calls_are_written_out_and_once_after(inferred: list[tuple[int, bool]]):
    data, device = as_bytes(training_step(file()).model), parse_device("cpu")
    assert for_sizes(data, device, {"N": 4}) != data
    assert [has_calls for _, has_calls in inferred] == [True, False]
    assert for_sizes(data, device, {"N": 4}, ()) == data
    assert len(inferred) == 2


def test_a_session_infers_besides_only_what_looks_at_labels(inferred: list[tuple[int, bool]]):
    session = TrainingSession(file(), "cpu")
    for _ in range(3):
        session.step({"x": X, "y": Y})
    (filed, has_calls), (written_out, still_has_calls), (part, _) = inferred
    assert (has_calls, still_has_calls) == (True, False)
    assert part < filed / 2 < written_out
