"""Which steps plan their memory: small ones, whose calls cost most and whose values take little."""

from __future__ import annotations

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import TrainingSession, step_model

g = rm.graph
X, Y = np.ones((6, 5), np.float32), np.arange(6) % 3


def session_of(optimizer: g.Optimizer) -> TrainingSession:
    rm.set_seed(0)
    x, y = g.DistributorElement(X, Y, batch_size=3).get_output_graphs()
    model = g.Sequential([g.Dense(7), g.Relu(), g.Dense(3)])
    return TrainingSession(rm.converters.to_training_onnx(g.SoftmaxCrossEntropy()(model(x), y), optimizer), "cpu")


def plans(session: TrainingSession, rows: int | None) -> bool:
    """Whether a session that is opened for a batch, or for any, plans its memory."""
    memory, dims = session._memory, None if rows is None else {"N": rows}
    opened = session._step_model.open(memory, dims)
    return bool(opened.get_session_options().enable_mem_pattern)


def test_a_small_step_plans_its_memory_and_one_of_unknown_size_does_not():
    session = session_of(g.Adam(0.01))
    assert plans(session, 3)
    assert not plans(session, None)


def test_a_step_whose_values_are_large_does_not(monkeypatch: pytest.MonkeyPatch):
    session = session_of(g.Sgd(0.01))
    per_row, of_weights = (7 + 7 + 3 + 3 + 7 + 7) * 4, 2 * (5 * 7 + 7 + 7 * 3 + 3) * 4 + 4  # gradients, updates, loss
    monkeypatch.setattr(step_model, "MAX_PLANNED", 10 * per_row + of_weights)
    assert plans(session, 10)
    assert not plans(session, 11)


def test_the_numbers_are_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch):
    planned = session_of(g.Adam(0.01))
    monkeypatch.setattr(step_model, "MAX_PLANNED", 0)
    plain = session_of(g.Adam(0.01))
    for _ in range(5):
        assert float(planned.step({"x": X, "y": Y})) == float(plain.step({"x": X, "y": Y}))
    for name, value in planned.parameters.items():
        np.testing.assert_array_equal(plain.parameters[name], value)
