"""Models of scikit-learn and Keras, fine-tuned from the files that their exporters write."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import renom_onnx as rm

STEPS, RATE = 10, 0.05


def batches(n_outputs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(20, n_outputs)).astype(np.float32))
        for _ in range(STEPS)
    ]


def trained_here(file: onnx.ModelProto, n_outputs: int) -> tuple[list[float], onnx.ModelProto]:
    plan = rm.converters.FineTuning(file, loss="mean_squared", optimizer=rm.graph.Sgd(RATE))
    x_name, labels = next(iter(plan.model.inputs)), "labels"
    session = rm.runtime.TrainingSession(plan.to_model(), device="cpu")
    losses = [float(session.step({x_name: x, labels: y})) for x, y in batches(n_outputs)]
    return losses, session.to_model()


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_scikit_learn_s_network_trains_as_scikit_learn_trains_it():
    skl2onnx = pytest.importorskip("skl2onnx", reason="it exports scikit-learn's models")
    from sklearn.neural_network import MLPRegressor

    (x, y), *_ = batches(1)
    model = MLPRegressor(
        hidden_layer_sizes=(8,), solver="sgd", alpha=0.0, momentum=0.0, learning_rate_init=RATE, random_state=0
    )
    model.partial_fit(x, y[:, 0])
    file = skl2onnx.to_onnx(model, x[:1], target_opset=18)
    losses, trained = trained_here(file, 1)
    expected = []
    for x, y in batches(1):
        model.partial_fit(x, y[:, 0])
        expected.append(model.loss_)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    found = initializers(trained)
    for name, array in {"coefficient": model.coefs_[0], "coefficient1": model.coefs_[1]}.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5)
    for name, array in {"intercepts": model.intercepts_[0], "intercepts1": model.intercepts_[1]}.items():
        np.testing.assert_allclose(found[name].reshape(-1), array, rtol=1e-3, atol=1e-5)


IN_KERAS = """
import json, sys
import keras, numpy as np
path, batches, rate = sys.argv[1], json.loads(sys.stdin.read()), float(sys.argv[2])
keras.utils.set_random_seed(0)
layers = [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
model = keras.Sequential(layers)
model(np.zeros((1, 4), "float32"))
model.export(path, format="onnx", verbose=False)
model.compile(optimizer=keras.optimizers.SGD(rate), loss=lambda t, y: keras.ops.sum((y - t) ** 2, -1) / 2)
losses = []
for x, y in batches:
    model.reset_metrics()
    losses.append(float(model.train_on_batch(np.array(x, "float32"), np.array(y, "float32"))))
print(json.dumps({"losses": losses, "weights": [np.asarray(w).tolist() for w in model.get_weights()]}))
"""


@pytest.mark.slow  # a process that imports Keras
def test_keras_s_network_trains_as_keras_trains_it(tmp_path):
    pytest.importorskip("onnxscript", reason="Keras exports with PyTorch's exporter")
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    path = tmp_path / "keras.onnx"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    given = json.dumps([(x.tolist(), y.tolist()) for x, y in batches(3)])
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_KERAS, str(path), str(RATE)],
        input=given, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    expected = json.loads(ended.stdout.strip().splitlines()[-1])
    losses, trained = trained_here(onnx.load(path), 3)
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-3)
    found = list(initializers(trained).values())
    for weight in map(np.array, expected["weights"]):
        same = [a for a in found if a.shape in (weight.shape, weight.shape[::-1])]
        assert any(np.allclose(a if a.shape == weight.shape else a.T, weight, rtol=1e-3, atol=1e-4) for a in same), (
            weight.shape
        )
