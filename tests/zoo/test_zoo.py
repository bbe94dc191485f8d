"""Models of five kinds, built from graph elements: training, export and file against PyTorch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch

import renom_onnx as rm
from tests.zoo import gpt, lstm, mobilenet, pairing, resnet, unet

g = rm.graph
Array = np.ndarray[Any, Any]
N_STEPS = 10
TOLERANCE = 1e-4


class Case(NamedTuple):
    ours: Callable[[], g.Layer]
    theirs: Callable[[], torch.nn.Module]
    x: Array
    t: Array


def case(ours: Callable[[], g.Layer], theirs: Callable[[], torch.nn.Module], x: Any, t: Any, *, rows: int = 8) -> Case:
    """A model and ten batches: x and t are shapes of a sample, with the number of integers, or None for floats."""
    rng = np.random.default_rng(0)

    def data(shape: tuple[int, ...], n: int | None) -> Array:
        size = (N_STEPS * rows, *shape)
        return rng.normal(size=size).astype(np.float32) if n is None else rng.integers(0, n, size)

    return Case(ours, theirs, data(*x), data(*t))


MODELS = {
    "resnet": case(resnet.network, resnet.torch_network, ((3, 64, 64), None), ((), 5)),
    "mobilenet": case(mobilenet.network, mobilenet.torch_network, ((3, 32, 32), None), ((), 5)),
    "unet": case(unet.Network, unet.TorchNetwork, ((1, 24, 24), None), ((24, 24), 3), rows=4),
    "lstm": case(lstm.Network, lstm.TorchNetwork, ((9,), 11), ((9,), 4)),
    "gpt": case(gpt.Network, functools.partial(gpt.TorchNetwork, 12), ((12,), 17), ((12,), 17)),
}
OPTIMIZERS: dict[str, tuple[Callable[[], g.Optimizer], Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (lambda: g.Sgd(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "adam": (lambda: g.Adam(0.002, epsilon=1e-4), lambda p: torch.optim.Adam(p, 0.002, eps=1e-4)),
}
"""Adam's epsilon is far above rounding: the gradient of a bias before a normalization is 0 but for rounding, of which a
usual epsilon would make a step of full size in a direction of chance."""


class Trained(NamedTuple):
    model: g.Layer
    torch_model: torch.nn.Module
    losses: list[float]
    torch_losses: list[float]
    file: Any
    """The trainable file before the first step."""
    session: rm.runtime.TrainingSession
    """The executor's, after the last."""


@functools.cache
def trained(name: str, optimizer: str) -> Trained:
    """Return both models after ten steps from the same weights over the same batches."""
    ours, theirs, x, t = MODELS[name]
    rows = len(x) // N_STEPS
    batches = [slice(i * rows, (i + 1) * rows) for i in range(N_STEPS)]
    rm.set_seed(0)
    torch.manual_seed(0)
    model, torch_model = ours(), theirs()
    xs, ts = g.DistributorElement(x, t, batch_size=rows, shuffle=False).get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(model(xs), ts)
    start = pairing.arrays(torch_model, model)
    for key, parameter in model.named_parameters():
        assert parameter.array.shape == start[key].shape
        parameter.array = start[key]
    make, torch_make = OPTIMIZERS[optimizer]
    executor = loss.get_training_executor(make(), devices=["cpu"])
    file = rm.converters.to_training_onnx(loss, make())
    losses: list[float] = []
    executor.register_event("Step-Finish", lambda event: losses.append(event.loss))
    executor.execute(progress=False)

    torch_optimizer, torch_losses = torch_make(torch_model.parameters()), []
    for batch in batches:
        torch_optimizer.zero_grad()
        found = torch.nn.functional.cross_entropy(torch_model(torch.from_numpy(x[batch])), torch.from_numpy(t[batch]))
        found.backward()
        torch_optimizer.step()
        torch_losses.append(found.item())
    return Trained(model, torch_model, losses, torch_losses, file, executor.session)


every = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@every
def test_ten_steps_follow_pytorch(name: str, optimizer: str):
    model, torch_model, losses, torch_losses, _, _ = trained(name, optimizer)
    np.testing.assert_allclose(losses, torch_losses, rtol=0, atol=TOLERANCE)
    assert losses[0] != losses[-1]
    wanted = pairing.arrays(torch_model, model)
    for key, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.array, wanted[key], rtol=0, atol=TOLERANCE, err_msg=key)


@every_model
@every
def test_export_of_the_trained_model_infers_what_pytorch_does(name: str, optimizer: str):
    model, torch_model, *_ = trained(name, optimizer)
    x = MODELS[name].x[:3]
    file = rm.converters.to_onnx(model(x))
    assert rm.converters.lint(file) == []
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    oracle = copy.deepcopy(torch_model).eval()
    pairing.write(oracle, model, {key: parameter.array for key, parameter in model.named_parameters()})
    with torch.no_grad():
        wanted = oracle(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


@every_model
@every
def test_the_trainable_file_alone_trains_the_same(name: str, optimizer: str):
    _, _, losses, _, file, trained_session = trained(name, optimizer)
    _, _, x, t = MODELS[name]
    rows = len(x) // N_STEPS
    assert rm.converters.lint(file) == []
    session = rm.runtime.TrainingSession(file, device="cpu")
    batches = [slice(i * rows, (i + 1) * rows) for i in range(N_STEPS)]
    assert [float(session.step({"x": x[batch], "y": t[batch]})) for batch in batches] == losses
    for key, array in session.parameters.items():
        np.testing.assert_array_equal(array, trained_session.read(key), err_msg=key)
