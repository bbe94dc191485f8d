"""What an executor refuses, word for word; its training is tested with the graph, and in test_against_torch.py."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import renom_onnx as rm
from renom_onnx.runtime import History
from tests.converters.programs import classes, features, graph, mlp, perceptron


def two_distributors() -> Any:
    x = graph.DistributorElement(features(4), classes(4)).get_output_graphs()[0]
    y = graph.DistributorElement(features(4), classes(4)).get_output_graphs()[1]
    return graph.SoftmaxCrossEntropy()(perceptron()(x), y).get_training_executor(graph.Sgd(0.1), ["cpu"])


def without_target() -> Any:
    executor = graph.ConstantLoss()(perceptron()(features(4))).get_training_executor(graph.Sgd(0.1), ["cpu"])
    validation = (features(4), classes(4))
    return executor.execute(progress=False, validation=validation, metrics={"sum": lambda p, t: 0.0})


ERRORS: dict[str, tuple[Callable[[], Any], type[rm.RenomError], str]] = {
    "a device that nobody knows": (
        lambda: mlp().get_training_executor(devices=["gpu"]),
        rm.DeviceError,
        'device \'gpu\': it must be "cpu", "cuda" or "cuda:<number>", got \'gpu\'.',
    ),
    "two distributors": (
        two_distributors,
        rm.ConversionError,
        "executor: the data must come from one distributor, got 2. Created at test_executor_errors.py:LINE.",
    ),
    "a metric without a target": (
        without_target,
        rm.ConversionError,
        "execute: metrics must have a target to compare with, got a loss without one.",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_says_what_was_got(kind: str):
    call, error_kind, message = ERRORS[kind]
    with pytest.raises(error_kind) as error:
        call()
    assert re.sub(r"errors\.py:\d+\.$", "errors.py:LINE.", str(error.value)) == message


def test_a_plot_without_matplotlib_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):  # other tests may have them
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as error:
        History([1.0], []).plot(tmp_path / "loss.png")
    assert str(error.value) == "plot: matplotlib must be installed. Install it: pip install 'renom-onnx[plot]'."
