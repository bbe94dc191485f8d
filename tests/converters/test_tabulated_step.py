"""Corrections that optimizers read from a table: the numbers of the formula at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.tabulated_step import MAX_STEPS, with_tabulated_steps
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import TrainingSession
from tests.converters.programs import LOSSES, feeds
from tests.converters.test_blocked import run
from tests.converters.test_fast_form import values

graph = rm.graph
OPTIMIZERS: dict[str, Callable[[], graph.Optimizer]] = {
    "Adam": lambda: graph.Adam(0.01),
    "without decay": lambda: graph.Adam(0.01, beta1=0.0, beta2=0.0),
    "AdamW": lambda: graph.AdamW(0.01, weight_decay=0.1),
    "Adamax": lambda: graph.Adamax(0.01),
    "LAMB": lambda: graph.Lamb(0.01),
}
STEPS = [0, 1, 9, 999, 17_000, MAX_STEPS, 10**7]
"""Steps that were taken before: the table begins at 1, settles at about 17,000, and holds for all later ones."""


def model_with(optimizer: graph.Optimizer) -> Any:
    rm.set_seed(0)
    return to_training_onnx(LOSSES["mlp"](), optimizer)


def has_tables(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "Clip" for node in model.graph.node)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_numbers_are_those_of_the_formula(optimizer: str):
    model = model_with(OPTIMIZERS[optimizer]())
    step = training_step(model)
    changed = with_tabulated_steps(step.model, KnownShapes(step.model, {}))
    assert has_tables(changed) and not has_tables(step.model)
    given = values(model, step)
    for taken in STEPS:
        given["step"], given["learning_rate"] = np.array(taken), np.array(0.037, np.float32)
        names = [output.name for output in step.model.graph.output]
        for name, a, b in zip(names, run(step.model, given), run(changed, given), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-6, atol=1e-7, err_msg=f"{name} after {taken} steps")


@pytest.mark.parametrize(
    "optimizer",
    [graph.Sgd(0.1), graph.Sgd(0.1, momentum=0.9), graph.Rmsprop(0.1), graph.Adam(0.1, beta2=0.99999)],
    ids=["Sgd", "momentum", "RMSprop", "settles late"],
)
def test_other_optimizers_keep_their_nodes(optimizer: graph.Optimizer):
    model = training_step(model_with(optimizer)).model
    assert with_tabulated_steps(model, KnownShapes(model, {})) is model


def test_networks_in_float64_keep_the_formula(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.graph.parameter.precision", np.dtype(np.float64))
    model = training_step(model_with(graph.Adam(0.01))).model
    assert "AdamStep" in {node.op_type for node in model.graph.node}
    assert with_tabulated_steps(model, KnownShapes(model, {})) is model


def test_steps_go_on_where_a_checkpoint_ended_as_without_a_table(monkeypatch: pytest.MonkeyPatch):
    model = model_with(graph.Adam(0.01))
    sessions = [TrainingSession(model, "cpu") for _ in range(2)]
    monkeypatch.delitem(rm.runtime.specialization.FORMS, "steps")
    sessions.append(TrainingSession(model, "cpu"))
    for i in range(5):
        batch = feeds(model, 8, i)
        tabulated, again, portable = (float(session.step(batch)) for session in sessions)
        assert tabulated == again
        np.testing.assert_allclose(tabulated, portable, rtol=1e-6)
