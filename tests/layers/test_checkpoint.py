"""`checkpoint=True`: the same training to the last bit, computed twice, in less memory."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters.training_info import training_step
from renom_onnx.graph.node import BACKWARD, ancestors
from tests.layers.oracle import normal

g = rm.graph
X, Y = normal(6, 2, 8, 8, seed=1), np.array([0, 1, 2, 0, 1, 2])


def convolutions(*, checkpoint: bool) -> Any:
    blocks = [
        g.Sequential(
            [g.Conv(4, padding=1), g.BatchNormalize(), g.Relu(), g.Dropout(0.3), g.Conv(4, padding=1), g.Tanh()],
            checkpoint=checkpoint,
        )
        for _ in range(2)
    ]
    return g.Sequential([*blocks, g.Flatten(), g.Dense(3, checkpoint=checkpoint, activation="gelu")])


def recurrent(*, checkpoint: bool) -> Any:
    return g.Sequential([g.Lstm(4, checkpoint=checkpoint), g.Dense(3)])


class Attention(g.Model):
    def __init__(self, *, checkpoint: bool) -> None:
        super().__init__(checkpoint=checkpoint)
        self.attention, self.norm = g.MultiHeadAttention(2), g.LayerNormalize()

    def forward(self, x: Any) -> Any:
        return x + self.attention(self.norm(x))


def attention(*, checkpoint: bool) -> Any:
    return g.Sequential([Attention(checkpoint=checkpoint), g.Flatten(), g.Dense(3)])


NETWORKS: dict[str, tuple[Callable[..., Any], Any]] = {
    "convolutions": (convolutions, X),
    "recurrent": (recurrent, normal(6, 5, 4, seed=2)),
    "attention": (attention, normal(6, 5, 4, seed=3)),
}


def loss_of(network: Callable[..., Any], x: Any, *, checkpoint: bool) -> Any:
    rm.set_seed(5)
    return g.SoftmaxCrossEntropy()(network(checkpoint=checkpoint)(x), Y)


def trained(loss: Any, x: Any, optimizer: Any = None, **options: Any) -> dict[str, Any]:
    """Return the losses of some steps, and what they leave behind, by stock onnxruntime on what the file says."""
    step = training_step(rm.converters.to_training_onnx(loss, optimizer or g.Adam(0.01), **options))
    session = onnxruntime.InferenceSession(step.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    state, losses = dict(step.state), []
    for _ in range(4):
        feeds = {"x": x, "y": Y, **step.optional, **state}
        read = {value.name for value in session.get_inputs()}
        found = dict(zip(names, session.run(names, {n: a for n, a in feeds.items() if n in read}), strict=True))
        losses.append(found[step.loss])
        state = {name: found[following] for name, following in step.bindings.items()}
    return {"losses": np.array(losses), **state}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_session_trains_the_same(name: str):
    """But for rounding: on the CPU it takes other bodies where it sees forward and gradient together."""
    network, x = NETWORKS[name]
    losses = []
    for checkpoint in (False, True):
        model = rm.converters.to_training_onnx(loss_of(network, x, checkpoint=checkpoint), g.Sgd(0.01))
        session = rm.runtime.TrainingSession(model, device="cpu")
        losses.append([float(session.step({"x": x, "y": Y})) for _ in range(4)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"form": "spec"}, {"opset": 21}], ids=["functions", "spec", "opset21"])
def test_training_is_the_same_to_the_last_bit(name: str, options: dict[str, Any]):
    kept, again = (trained(loss_of(*NETWORKS[name], checkpoint=c), NETWORKS[name][1], **options) for c in (False, True))
    assert_same(kept, again)


@pytest.mark.parametrize(
    "optimizer",
    [lambda: g.Sgd(0.1, loss_scale=g.LossScale()), lambda: g.Sgd(0.1, accumulate=2), lambda: g.Adam(clip_norm=0.1)],
    ids=["loss scale", "accumulate", "clip"],
)
def test_training_with_every_way_of_a_gradient_is_the_same(optimizer: Callable[[], Any]):
    kept, again = (trained(loss_of(convolutions, X, checkpoint=c), X, optimizer()) for c in (False, True))
    assert_same(kept, again)


def test_eager_steps_are_the_same_and_the_tree_prints_the_same():
    found = []
    for checkpoint in (False, True):
        rm.set_seed(5)
        network, optimizer, losses = convolutions(checkpoint=checkpoint), g.Adam(0.01), []
        for _ in range(3):
            loss = g.SoftmaxCrossEntropy()(network(X), Y)
            loss.backward().update(optimizer)
            losses.append(float(loss.as_ndarray()))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            loss.print_tree()
        found.append((losses, printed.getvalue()))
    assert found[0] == found[1]


def test_several_devices_train_the_same_with_shared_statistics():
    found = []
    for checkpoint in (False, True):
        model = rm.converters.to_training_onnx(loss_of(convolutions, X, checkpoint=checkpoint), g.Adam(0.01))
        session = rm.runtime.ParallelTrainingSession(model, devices=["cpu", "cpu"], synchronize_batch_norm=True)
        found.append([float(session.step({"x": X, "y": Y})) for _ in range(3)])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_training_file_goes_on_as_it_was(tmp_path: Path):
    loss = loss_of(convolutions, X, checkpoint=True)
    rm.export_training(loss, g.Adam(0.01), tmp_path / "model.onnx")
    loaded = rm.load(tmp_path / "model.onnx")
    model = rm.converters.to_training_onnx(loaded.loss, loaded.optimizer)
    assert [node.op_type for node in model.training_info[0].algorithm.node].count("After") == 7
    assert_same(trained(loss, X), trained(loaded.loss, X, loaded.optimizer))


def test_loaded_model_can_be_told():
    file = rm.converters.to_onnx(convolutions(checkpoint=False), inputs={"x": ("N", 2, 8, 8)})
    found = []
    for checkpoint in (False, True):
        rm.set_seed(5)
        model = rm.load(file)
        model.checkpoint = checkpoint
        loss = g.SoftmaxCrossEntropy()(model(X), Y)
        n_after = [node.op_type for node in ancestors([loss.backward().get_gradient(model.params[PARAMETER]).output])]
        assert (n_after.count("After") > 0) is checkpoint
        found.append(trained(loss, X))
    assert_same(*found)


PARAMETER = "sequential1.conv1.w"


@pytest.mark.parametrize("scale", [np.inf, np.nan, -np.inf, 3e38])
def test_gradient_that_is_no_number_leaves_recomputed_values_alone(scale: float):
    x = normal(4, 3)
    found = []
    for checkpoint in (False, True):
        rm.set_seed(1)
        dense = g.Dense(2)
        y = g.Sequential([dense, g.Tanh(), g.Dense(2)], checkpoint=checkpoint)(x) * np.float32(scale)
        loss = g.ConstantLoss()(y * np.array([[0, 1]], np.float32)).backward()
        found.append(loss.get_gradient(dense.params["w"]).as_ndarray())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "int8", "uint8", "bool"])
def test_inputs_of_every_type_are_read_anew(dtype: str):
    class Block(g.Model):
        def __init__(self, *, checkpoint: bool) -> None:
            super().__init__(checkpoint=checkpoint)
            self.dense, self.wide = g.Dense(3), g.Dense(4)

        def forward(self, x: Any) -> Any:
            return g.tanh(self.dense(g.tanh(self.wide(x)))) * 2

    x, found = normal(6, 4).astype(dtype), []
    for checkpoint in (False, True):
        rm.set_seed(5)
        block = Block(checkpoint=checkpoint)
        gradient = g.ConstantLoss()(block(x)).backward().get_gradient(block.wide.params["w"])
        again = [
            n.op_type for n in ancestors([gradient.output]) if n.tag == BACKWARD and n.op_type in ("Gemm", "After")
        ]
        assert again == (["After", "Gemm", "Gemm"] if checkpoint else [])
        found.append(gradient.as_ndarray())
    np.testing.assert_array_equal(*found)


def small(*, checkpoint: bool) -> Any:
    return g.Sequential([g.Dense(4, activation="tanh", checkpoint=True), g.Dense(3)], checkpoint=checkpoint)


def nodes_again(loss: Any) -> list[str]:
    model = rm.converters.to_training_onnx(loss, g.Sgd(0.1))
    return [n.name for n in model.training_info[0].algorithm.node if n.name.endswith((".again", ".after"))]


def test_only_what_gradients_read_is_computed_again():
    """Neither a layer's output, which is kept, nor a product whose gradient reads its operands alone."""
    assert nodes_again(loss_of(small, X[:, 0, 0], checkpoint=False)) == ["dense1.tanh1/Tanh.after"]
    again = nodes_again(loss_of(small, X[:, 0, 0], checkpoint=True))
    assert again == ["dense2/Gemm.after", "dense1/Gemm.again", "dense1.tanh1/Tanh.again"]


def test_onnxruntime_computes_twice(tmp_path: Path):
    """All of its optimizations leave the second computation apart from the first."""
    counts = []
    for checkpoint in (False, True):
        step = training_step(rm.converters.to_training_onnx(loss_of(convolutions, X, checkpoint=checkpoint)))
        options = onnxruntime.SessionOptions()
        options.add_free_dimension_override_by_name("N", len(X))
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        onnxruntime.InferenceSession(step.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
        counts.append({kind: sum(n.op_type == kind for n in nodes) for kind in ("Sqrt", "GreaterOrEqual", "Erf")})
    kept, again = counts
    assert again["Sqrt"] == kept["Sqrt"] + 2  # of the variance of batch normalization
    assert again["GreaterOrEqual"] == kept["GreaterOrEqual"] + 2  # of the mask of Dropout


MEMORY = """
import numpy as np, renom_onnx as rm
from benchmarks.memory import peak_mb
g = rm.graph
def activations():
    return [layer() for _ in range(3) for layer in (g.Tanh, g.Sigmoid)]
blocks = [g.Sequential([g.Dense(64), *activations()], checkpoint={checkpoint}) for _ in range(8)]
loss = g.ConstantLoss()(g.Sequential(blocks)(np.ones((16384, 64), np.float32)))
session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, g.Sgd(0.1)), device="cpu", threads=1)
session.step({{"x": np.ones((16384, 64), np.float32)}})
print(peak_mb())
"""


def peak_of_a_process(*, checkpoint: bool) -> float:
    program, root = MEMORY.format(checkpoint=checkpoint), Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    return float(done.stdout)


def test_peak_of_memory_falls():
    """By more than half of 224 MB: 8 blocks keep 7 values of 4 MB each, or one."""
    assert peak_of_a_process(checkpoint=False) - peak_of_a_process(checkpoint=True) > 112
