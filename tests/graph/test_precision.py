"""RENOM_PRECISION=64: parameters and losses in float64, as ReNom had it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
import renom_onnx as rm

g = rm.graph
rng = np.random.default_rng(0)
x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
model = g.Sequential([g.Dense(4, activation="tanh"), g.LayerNormalize(), g.Dense(2)])
loss = g.MeanSquared()(model(x), y)
print(rm.precision, {p.array.dtype.name for p in model.parameters()}, loss.as_ndarray().dtype)
executor = loss.get_training_executor(g.Adam(0.01), ["cpu"])
losses = executor.execute(5, progress=False).losses
print(losses[-1] < losses[0], executor.session.read("dense1.w").dtype)
w = model[0].params["w"]
gradient = loss.backward().get_gradient(w.output).as_ndarray()
at = w.as_ndarray()
step = np.zeros_like(at)
step[1, 2] = 1e-6
ends = []
for sign in (1, -1):
    w.set_value(at + sign * step)
    ends.append(float(loss.as_ndarray()))
print(abs((ends[0] - ends[1]) / 2e-6 - gradient[1, 2]) < 1e-8)
"""


@pytest.mark.parametrize(("bits", "name"), [("64", "float64"), ("32", "float32")])
def test_the_precision_is_that_of_the_environment(bits: str, name: str):
    environment = {**os.environ, "RENOM_PRECISION": bits}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.splitlines() == [
        f"{name} {{'{name}'}} {name}",
        f"True {name}",
        str(bits == "64"),
    ], found.stderr
