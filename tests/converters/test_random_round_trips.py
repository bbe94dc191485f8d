"""Random programs survive export, loading and export: the same bytes, the same values, the same training."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from renom_onnx.runtime import TrainingSession
from renom_onnx.runtime.evaluation import evaluate
from tests.graph.programs import Program, elements, programs


def as_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


@given(programs())
@settings(max_examples=60)
def test_a_program_is_the_same_after_export_and_loading(program: Program):
    roots, _, _ = elements(program)
    exported = to_onnx(roots)
    model = rm.load(as_bytes(exported))
    assert as_bytes(to_onnx(model)) == as_bytes(exported)
    loaded = model()
    loaded = loaded if isinstance(loaded, tuple) else (loaded,)
    values = [evaluate([element.output for element in side]) for side in (roots, loaded)]
    for before, after in zip(*values, strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@given(programs())
@settings(max_examples=40)
def test_its_training_goes_on_from_the_file(program: Program):
    rm.set_seed(0)
    root = elements(program)[0][0]
    column = rm.graph.reshape(rm.graph.tanh(root), (-1, 1))
    loss = rm.graph.ConstantLoss()(rm.graph.tanh(rm.graph.Dense(2)(column)))
    exported = to_training_onnx(loss, rm.graph.Sgd(0.01, momentum=0.9))
    session = TrainingSession(exported, "cpu", threads=1)
    session.step({})
    file = session.to_model()
    model = rm.load(as_bytes(file))
    assert as_bytes(to_onnx(model)) == as_bytes(file)
    again = TrainingSession(to_training_onnx(model.loss, model.optimizer), "cpu", threads=1)
    for _ in range(2):
        assert float(session.step({})) == float(again.step({}))
    for name, array in session.parameters.items():
        np.testing.assert_array_equal(again.read(name), array)
