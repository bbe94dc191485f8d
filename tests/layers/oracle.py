"""Layers against PyTorch: values, gradients, the exported file, and two training steps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

import renom_onnx as rm
from renom_onnx.converters import lint, to_onnx, to_training_onnx
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.runtime import TrainingSession

Array = np.ndarray[Any, Any]
Formula = Callable[..., torch.Tensor]
"""Called with the parameters by name, as tensors, then the inputs; returns the output in training."""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(actual: Any, wanted: Any, what: str, tolerance: float = 1e-5) -> None:
    wanted = np.asarray(wanted)
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=0, atol=tolerance * scale, err_msg=what)
    assert np.asarray(actual).shape == wanted.shape, what


def tensors(layer: rm.graph.Layer) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(p.array, requires_grad=p.trainable) for name, p in layer.named_parameters()}


def check(
    layer: rm.graph.Layer,
    inputs: Sequence[Array | GraphElement],
    formula: Formula,
    *,
    inference: Formula | None = None,
    tolerance: float = 1e-5,
    statistics: Mapping[str, Callable[..., torch.Tensor]] | None = None,
) -> None:
    """Check a layer whose output in training is `formula` and in inference `inference`, the same by default."""
    xs = [x if isinstance(x, GraphElement) else static(x, is_batch=True) for x in inputs]
    arrays = [x.as_ndarray() for x in xs]
    fed = [a for x, a in zip(xs, arrays, strict=True) if getattr(x.output.node, "is_batch", False)]
    y = layer(*xs)
    rng = np.random.default_rng(1)
    for _, p in layer.named_parameters():
        p.array = (p.array + rng.uniform(0.05, 0.25, p.array.shape)).astype(p.array.dtype)
    params = tensors(layer)
    leaves = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]

    wanted = (inference or formula)(params, *leaves).detach().numpy()
    value = y.as_ndarray()
    assert_close(value, wanted, "value", tolerance)
    assert y.shape is not None and all(isinstance(d, str) or d == n for d, n in zip(y.shape, value.shape, strict=True))

    weights = rng.normal(size=wanted.shape).astype(np.float32)
    loss = rm.graph.ConstantLoss()(y * weights)
    model = to_onnx(y)
    assert lint(model) == []
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: a.astype(_type(i.type)) for i, a in zip(session.get_inputs(), fed, strict=True)}
    assert_close(session.run(None, feeds)[0], wanted, "the exported file", tolerance)

    trained = {name: p for name, p in params.items() if p.requires_grad}
    floats = [x for x in leaves if x.requires_grad]
    made = (formula(params, *leaves) * torch.tensor(weights)).sum()
    grads = torch.autograd.grad(made, [*trained.values(), *floats], allow_unused=True)
    loss.backward()
    parameters = dict(layer.named_parameters())
    for (name, _), g in zip(trained.items(), grads, strict=False):
        assert g is not None
        assert_close(loss.get_gradient(parameters[name].output).as_ndarray(), g, f"gradient of {name}", tolerance)
    for x, g in zip([x for x in xs if x.dtype.kind == "f"], grads[len(trained) :], strict=True):
        if g is not None:
            assert_close(loss.get_gradient(x).as_ndarray(), g, "gradient of x", tolerance)
    if trained:
        _check_two_steps(layer, loss, formula, arrays, fed, weights, tolerance, statistics or {})


def _type(text: str) -> Any:
    return {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(double)": np.float64}.get(text, np.float32)


def _check_two_steps(
    layer: rm.graph.Layer,
    loss: GraphElement,
    formula: Formula,
    arrays: Sequence[Array],
    fed: Sequence[Array],
    weights: Array,
    tolerance: float,
    statistics: Mapping[str, Callable[..., torch.Tensor]],
) -> None:
    file = to_training_onnx(loss, rm.graph.Sgd(0.01, momentum=0.0))
    assert lint(file) == []
    params, losses = tensors(layer), []
    for _ in range(2):
        leaves = [torch.tensor(a) for a in arrays]
        made = (formula(params, *leaves) * torch.tensor(weights)).sum()
        losses.append(made.item())
        grads = torch.autograd.grad(made, [p for p in params.values() if p.requires_grad])
        found = iter(grads)
        params = {
            name: (p - 0.01 * next(found)).detach().requires_grad_()
            if p.requires_grad
            else (statistics[name](p, *leaves) if name in statistics else p)
            for name, p in params.items()
        }
    session = TrainingSession(file, device="cpu")
    specs = [spec for spec in session.feeds if spec.name != "learning_rate"]
    feeds = {spec.name: array.astype(spec.dtype) for spec, array in zip(specs, fed, strict=True)}
    for wanted in losses:
        assert_close(float(session.step(feeds)), wanted, "loss of a training step", tolerance * 10)
    for name, after in params.items():
        own = [key for key in session.parameters if key.rpartition(".")[2] == name.rpartition(".")[2]]
        assert len(own) <= 1
        if own:
            assert_close(session.read(own[0]), after.detach(), f"{name} after two steps", tolerance * 10)
        else:
            assert name not in statistics and not after.requires_grad
