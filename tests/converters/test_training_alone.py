"""A stock onnxruntime trains the file without renom_onnx, and gets the bits of a session that runs the file's bodies.

Those that a TrainingSession takes for the CPU differ from these in the last bits.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from tests.converters.programs import Program, feeds, portable_bodies

N_STEPS = 20
SCRIPT = Path(__file__).with_name("train_alone.py")


@pytest.mark.parametrize(
    ("loss", "optimizer", "way"),
    [
        ("mlp", "Sgd", "inputs"),
        ("mlp", "nesterov", "rewritten"),
        ("mlp", "Adam", "rewritten"),
        ("cnn", "momentum", "inputs"),
        ("cnn", "Adam", "inputs"),
    ],
)
def test_numpy_onnx_and_onnxruntime_alone_train_to_the_same_bits(
    loss: str, optimizer: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = Program(loss, optimizer, 18).model()
    batches = [feeds(model, 8, i) for i in range(N_STEPS)]
    onnx.save(model, tmp_path / "train.onnx")
    np.savez(tmp_path / "batches.npz", **{name: np.stack([b[name] for b in batches]) for name in ("x", "y")})
    command = [sys.executable, "-W", "error", "-P", str(SCRIPT), "train.onnx", "batches.npz", "result.npz", way]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    result = np.load(tmp_path / "result.npz")
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    losses = [float(session.step(batch)) for batch in batches]
    np.testing.assert_allclose(losses, result["losses"].reshape(-1), rtol=1e-4)

    monkeypatch.setattr("renom_onnx.runtime.step_model.for_sizes", portable_bodies)
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    losses = [float(session.step(batch)) for batch in batches]
    assert losses[-1] != losses[0]
    np.testing.assert_array_equal(result["losses"].reshape(-1), np.array(losses, np.float32))
    for binding in model.training_info[0].update_binding:
        np.testing.assert_array_equal(session.read(binding.key), result[binding.key], strict=True, err_msg=binding.key)
