"""Training in bfloat16: the file is right by types, by numbers and by the kernels that onnxruntime's CUDA provider has.

Without a GPU the step is run by ONNX's reference evaluator, which rounds to bfloat16 after every operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

import renom_onnx as rm
from tests.zoo import pairing

G = rm.graph
Array = np.ndarray[Any, Any]

CUDA_KERNELS = {
    "Add", "Cast", "Concat", "Conv", "Expand", "Flatten", "Gather", "Gemm", "Identity", "MatMul", "Mul", "Neg",
    "ReduceSum", "Relu", "Reshape", "Shape", "Sign", "Slice", "Split", "Squeeze", "Sub", "Sum", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""Operators that onnxruntime's CUDA provider has for bfloat16, as its docs/OperatorKernels.md lists them."""


def mlp() -> tuple[Any, torch.nn.Module]:
    layers = [torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)]
    return G.Sequential([G.Dense(16), G.Relu(), G.Dense(8), G.Tanh(), G.Dense(3)]), torch.nn.Sequential(*layers)


def cnn() -> tuple[Any, torch.nn.Module]:
    ours = [G.Conv(4, 3, 1), G.Relu(), G.MaxPool(2, 0, 2), G.Conv(6, 3, 1, stride=2), G.BatchNormalize()]
    ours += [G.Relu(), G.Flatten(), G.Dense(3)]
    theirs = [torch.nn.Conv2d(2, 4, 3, 1, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    theirs += [torch.nn.Conv2d(4, 6, 3, 2, 1), torch.nn.BatchNorm2d(6)]
    theirs += [torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24, 3)]
    return G.Sequential(ours), torch.nn.Sequential(*theirs)


class Attention(torch.nn.MultiheadAttention):
    def forward(self, x: Any) -> Any:  # type: ignore[override]
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return super().forward(x, x, x, attn_mask=hidden, need_weights=False)[0]


def attention() -> tuple[Any, torch.nn.Module]:
    ours = [G.Dense(8), G.LayerNormalize(), G.MultiHeadAttention(2, causal=True), G.Gelu(), G.Flatten(), G.Dense(3)]
    theirs = [torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), Attention(8, 2, batch_first=True), torch.nn.GELU()]
    return G.Sequential(ours), torch.nn.Sequential(*theirs, torch.nn.Flatten(), torch.nn.Linear(32, 3))


MODELS: dict[str, tuple[Callable[[], tuple[Any, torch.nn.Module]], tuple[int, ...], int]] = {
    "mlp": (mlp, (6,), 18),
    "attention": (attention, (4, 6), 18),
    "cnn": (cnn, (2, 8, 8), 22),
}
every_model = pytest.mark.parametrize("name", MODELS)


def training(name: str, rows: int = 16) -> tuple[Any, torch.nn.Module, Any, Array, Array]:
    make, shape, opset = MODELS[name]
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(rows, *shape)).astype(np.float32), rng.integers(0, 3, rows)
    model, module = make()
    with G.autocast("bfloat16", opset=opset):
        loss = G.SoftmaxCrossEntropy()(model(x), t)
    start = pairing.arrays(module, model)
    for key, parameter in model.named_parameters():
        parameter.array = start[key]
    return model, module, loss, x, t


def step_graph(loss: Any) -> tuple[onnx.ModelProto, dict[str, str], dict[str, Array]]:
    """Return graph and training step as one graph, what becomes of each state, and the states."""
    file = rm.converters.to_training_onnx(loss, G.Sgd(0.1, momentum=0.9), inline=True)
    info = file.training_info[0]
    for field in ("node", "initializer", "input", "output"):
        getattr(file.graph, field).extend(getattr(info.algorithm, field))
    following = {binding.key: binding.value for binding in info.update_binding}
    states = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer if t.name in following}
    file.graph.input.extend(helper.make_tensor_value_info(k, 1, a.shape) for k, a in states.items())
    del file.training_info[:]
    return file, following, states


@every_model
def test_file_is_right_by_types_and_computes_in_bfloat16_what_the_cuda_provider_has(name: str):
    _, _, loss, _, _ = training(name)
    assert rm.converters.lint(rm.converters.to_training_onnx(loss, G.Sgd(0.1, momentum=0.9))) == []
    file, _, states = step_graph(loss)
    onnx.checker.check_model(file, full_check=True)
    inferred = shape_inference.infer_shapes(file, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in [*inferred.graph.value_info, *inferred.graph.input]}
    types |= {t.name: t.data_type for t in inferred.graph.initializer}
    half = {name for name, element in types.items() if element == onnx.TensorProto.BFLOAT16}
    computed = {node.op_type for node in inferred.graph.node if half.intersection([*node.input, *node.output])}
    assert computed <= CUDA_KERNELS
    assert {"cnn": "Conv", "attention": "MatMul"}.get(name, "Gemm") in computed
    assert file.opset_import[0].version == MODELS[name][2]
    assert not half.intersection(states) and all(types[i.name] != 16 for i in file.graph.input)
    assert all(o.type.tensor_type.elem_type != 16 for o in file.graph.output)


def torch_losses(module: torch.nn.Module, x: Array, t: Array, n_steps: int) -> list[float]:
    """Train the module under PyTorch's autocast and return the loss of each step."""
    optimizer, losses = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9), []
    for _ in range(n_steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scores = module(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(scores.float(), torch.from_numpy(t))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@every_model
def test_steps_follow_pytorchs_autocast(name: str):
    model, module, loss, x, t = training(name)
    file, following, states = step_graph(loss)
    evaluator = ReferenceEvaluator(file)
    start = {key: parameter.array for key, parameter in model.named_parameters()}
    losses = []
    for _ in range(5):
        found, *values = evaluator.run(["loss", *following.values()], {"x": x, "y": t, **states})
        states = dict(zip(following, values, strict=True))
        losses.append(float(found))
    assert losses == pytest.approx(torch_losses(module, x, t, 5), abs=0.01)
    exact = pairing.arrays(module, model)
    for key, before in start.items():
        moved = np.abs(exact[key] - before).max()
        if moved > 1e-3:  # not by rounding alone
            np.testing.assert_allclose(states[key], exact[key], rtol=0, atol=0.1 * moved, err_msg=key)


@pytest.mark.gpu
@every_model
def test_steps_on_cuda_follow_pytorchs_autocast(name: str):
    _, module, loss, x, t = training(name)
    session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, G.Sgd(0.1, momentum=0.9)), "cuda")
    losses = [float(session.step({"x": x, "y": t})) for _ in range(5)]
    assert losses == pytest.approx(torch_losses(module, x, t, 5), abs=0.02)
    assert np.isfinite(session.evaluate({"x": x})["output"]).all()
