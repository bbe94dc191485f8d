"""Forms of a step that are chosen by measuring: the numbers stay, and what was found is kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import ParallelTrainingSession, TrainingSession, tuning
from renom_onnx.runtime.specialization import FORMS, for_sizes
from tests.runtime.several import assert_replicas_are_equal

g = rm.graph
X = np.random.default_rng(0).standard_normal((8, 16, 10, 10)).astype(np.float32)
Y = np.arange(8) % 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RENOM_ONNX_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "BLOCK_S", 0.001)
    return tmp_path / "tuning"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is found faster without a form, answered by the test and not by a clock; a list of what was asked."""
    asked: list[bool] = []

    def is_faster(candidate: Any, than: Any) -> bool:
        candidate()
        than()
        asked.append(True)
        return True

    monkeypatch.setattr(tuning, "_is_faster", is_faster)
    return asked


@pytest.fixture(scope="module")
def model() -> Any:
    rm.set_seed(0)
    layers = [g.Conv(16, kernel=3), g.BatchNormalize(), g.Relu(), g.MaxPool(2), g.Dropout(0.2), g.Flatten(), g.Dense(3)]
    x, y = g.DistributorElement(X, Y).get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Sequential(layers)(x), y)
    return rm.converters.to_training_onnx(loss, g.Adam(0.01))


def losses(session: TrainingSession | ParallelTrainingSession, n: int = 5) -> list[float]:
    return [float(session.step({"x": X, "y": Y})) for _ in range(n)]


def kept(cache: Path) -> list[set[str]]:
    return [set(json.loads(path.read_text())["forms"]) for path in cache.iterdir()]


def test_a_session_that_measures_computes_the_same(model: Any, cache: Path):
    fixed, chosen = TrainingSession(model, "cpu"), TrainingSession(model, "cpu", tune=True)
    np.testing.assert_allclose(losses(chosen), losses(fixed), rtol=1e-5)
    for name, value in fixed.parameters.items():
        np.testing.assert_allclose(chosen.parameters[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    (forms,) = kept(cache)
    assert forms <= set(FORMS)


def test_what_is_slower_with_a_form_goes_without_it(model: Any, cache: Path, measured: list[bool]):
    fixed, chosen = TrainingSession(model, "cpu"), TrainingSession(model, "cpu", tune=True)
    np.testing.assert_allclose(losses(chosen), losses(fixed), rtol=1e-5)
    assert 2 <= len(measured) <= len(FORMS)
    (forms,) = kept(cache)
    assert len(forms) == len(FORMS) - len(measured)  # those that change nothing are not measured, and stay
    model = chosen._step_model._bytes
    assert for_sizes(model, chosen.device, {"N": 8}, forms) == model


def test_what_was_found_is_not_measured_again_but_for_other_sizes_or_threads(
    model: Any, cache: Path, measured: list[bool]
):
    losses(TrainingSession(model, "cpu", tune=True))
    n = len(measured)
    losses(TrainingSession(model, "cpu", tune=True))
    assert (len(measured), len(kept(cache))) == (n, 1)
    losses(TrainingSession(model, "cpu", tune=True, threads=1))
    assert (len(measured), len(kept(cache))) == (2 * n, 2)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"forms": ["unknown"]}', '{"forms": 3}', "\x00"])
def test_a_broken_file_is_measured_again_and_replaced(text: str, model: Any, cache: Path, measured: list[bool]):
    losses(TrainingSession(model, "cpu", tune=True), 1)
    (path,) = cache.iterdir()
    good, n = path.read_text(), len(measured)
    path.write_text(text)
    losses(TrainingSession(model, "cpu", tune=True), 1)
    assert (path.read_text(), len(measured)) == (good, 2 * n)


def test_where_nothing_can_be_kept_it_is_measured_every_time(model: Any, tmp_path: Path, monkeypatch: Any):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RENOM_ONNX_CACHE", str(tmp_path / "file"))
    assert losses(TrainingSession(model, "cpu", tune=True), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_form_that_takes_time_is_found_out():
    def slow() -> None:
        sum(range(20000))

    def fast() -> None:
        sum(range(2000))

    assert tuning._is_faster(fast, slow)
    assert not tuning._is_faster(slow, fast)


def test_several_devices_measure_what_computes_gradients_and_update_by_the_rule(
    model: Any, cache: Path, measured: list[bool]
):
    fixed, chosen = (ParallelTrainingSession(model, ["cpu"] * 2, threads=1, tune=tune) for tune in (False, True))
    np.testing.assert_allclose(losses(chosen), losses(fixed), rtol=1e-5)
    assert len(measured) >= 2
    (forms,) = kept(cache)  # of one stage, which the second device reads
    assert len(forms) == len(FORMS) - len(measured)
    assert_replicas_are_equal(chosen)


def test_an_executor_on_several_devices_measures(cache: Path):
    x, y = g.DistributorElement(X, Y, batch_size=4).get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Dense(3)(g.Flatten()(x)), y)
    for n, devices in enumerate((["cpu"], ["cpu", "cpu"]), 1):
        executor = loss.get_training_executor(g.Adam(), devices, tune=True)
        assert len(executor.execute(1, progress=False).losses) == 1
        assert len(kept(cache)) == n


def test_a_stage_that_reads_values_of_unknown_sizes_keeps_all_forms(cache: Path):
    value = SimpleNamespace(name="handed", shape=["rows", 3], type="tensor(float)")
    session = SimpleNamespace(get_inputs=lambda: [value])
    assert tuning.tuned(lambda forms: b"model", lambda model: session, {}, b"") == set(FORMS)
    assert not cache.exists()
