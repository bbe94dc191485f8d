"""The nine networks of ONNX's light set: whole architectures of the past, loaded, exported, and trained.

Their weights are constants that the files fill in, so they are drawn here.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import renom_onnx as rm
from renom_onnx.converters import doctor, lint, to_onnx
from renom_onnx.converters.head import find_head
from renom_onnx.converters.promotion import with_weights_of_constants

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx"))
Arrays = dict[str, np.ndarray]


WIDE, NARROW = 4096, 256
"""Units of the dense layers of three networks, and what they get here: they hold nine tenths of all weights."""


def network(name: str, *, is_full_size: bool = False) -> onnx.ModelProto:
    """Return the network with weights as He et al. draw them; a normalization starts as one."""
    file = onnx.load(LIGHT / f"light_{name}.onnx")
    for tensor in file.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64 and not is_full_size:
            sizes = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(sizes == WIDE, NARROW, sizes), tensor.name))
    model, promoted = with_weights_of_constants(file)
    assert len(promoted) > 10
    rng = np.random.default_rng(0)
    first_norm = {node.input[i] for node in model.graph.node if node.op_type == "BatchNormalization" for i in (1, 4)}
    for tensor in model.graph.initializer:
        sizes = list(tensor.dims)
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        if len(sizes) > 1:
            array = rng.standard_normal(sizes, np.float32) * np.float32(np.sqrt(2 / np.prod(sizes[1:])))
        else:
            is_factor = tensor.name in first_norm or tensor.name.endswith(("bn_w_0", "sc_w_0"))
            array = np.full(sizes, float(is_factor), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return with_even_scores(model)


def image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)


def with_even_scores(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with its head scaled to scores of a few units: else the loss is flat, or beyond float32."""
    head = find_head(model.graph, model.graph.output[0].name)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.add(name=head.node.output[0])
    scores = run(probe, image())
    (weight,) = (t for t in model.graph.initializer if t.name == head.weight)
    factor = 3 / scores.reshape(*scores.shape[:2], -1).mean(axis=-1).std()
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # else it warns that weights are inputs too
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[-1].name: x})[0]


def image_input(model: onnx.ModelProto) -> str:
    defaults = {t.name for t in model.graph.initializer}
    (name,) = (i.name for i in model.graph.input if i.name not in defaults)
    return name


QUICK = ("bvlc_alexnet", "shufflenet", "squeezenet", "zfnet512")
"""Networks that take seconds; the others take minutes together, and run with --full-size."""


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto, Arrays]:
    is_full_size = request.config.getoption("--full-size")
    if request.param not in QUICK and not is_full_size:
        pytest.skip("it takes minutes: run it with --full-size")
    model = network(request.param, is_full_size=is_full_size)
    return request.param, model, {image_input(model): image(), "labels": np.array([7])}


class Training:
    """A network in training whose weights and state can be put back."""

    def __init__(self, model: onnx.ModelProto, rate: float, which: str = "all") -> None:
        optimizer = rm.graph.Sgd(rate, momentum=0.0)
        plan = rm.converters.FineTuning(model, loss="softmax_cross_entropy", optimizer=optimizer, trainable=which)
        file = plan.to_model()
        self._names = [binding.key for binding in file.training_info[0].update_binding]
        self.session = rm.runtime.TrainingSession(file, device="cpu")

    def state(self) -> Arrays:
        return {name: self.session.read(name) for name in self._names}

    def set_state(self, state: Arrays) -> None:
        for name, array in state.items():
            self.session.write(name, array)

    def step(self, feeds: Arrays) -> float:
        return float(self.session.step(feeds))


@pytest.mark.slow
def test_a_network_is_loaded_examined_and_exported_as_it_is(case):
    _, model, feeds = case
    x = next(iter(feeds.values()))
    exported = to_onnx(rm.load(model))
    assert [n.op_type for n in exported.graph.node] == [n.op_type for n in model.graph.node]
    np.testing.assert_allclose(run(exported, x), run(model, x), rtol=1e-5, atol=1e-6)
    report = doctor(model)
    assert not report.blocked


@pytest.mark.slow
def test_the_gradient_of_a_network_is_the_slope_of_its_loss(case):
    _, model, feeds = case
    training = Training(model, 1.0)
    before = training.state()
    training.step(feeds)
    after = training.state()
    gradient = {n: before[n].astype(np.float64) - after[n] for n in training.session.parameters}
    square = sum((g**2).sum() for g in gradient.values())
    losses = []
    for sign in (1, -1):  # along the gradient, far enough that the loss changes by a hundredth
        moved = {n: (before[n] + sign * 1e-2 / square * g).astype(np.float32) for n, g in gradient.items()}
        training.set_state({**before, **moved})  # a Dropout drops the same again
        losses.append(training.step(feeds))
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(1, rel=0.02)


@pytest.mark.slow
def test_a_network_learns(case):
    _, model, feeds = case
    training = Training(model, 1e-3)
    losses = [training.step(feeds) for _ in range(4)]
    assert min(losses[1:]) < losses[0]
    assert lint(training.session.to_model()) == []


@pytest.mark.slow
def test_the_last_layer_of_a_network_learns_alone(case):
    _, model, feeds = case
    training = Training(model, 1e-2, "last")
    trained = set(training.session.parameters)
    assert 1 <= len(trained) <= 2
    training.step(feeds)
    before = {t.name: t for t in model.graph.initializer}
    after = {t.name: t for t in training.session.to_model().graph.initializer}
    changed = {n for n, t in before.items() if n in after and after[n].raw_data != t.raw_data}
    assert changed == trained
