"""Mixed precision: float16 trained on the CPU with master weights in float32, and the errors of both half types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits

import renom_onnx as rm
from renom_onnx.graph import operators

G = rm.graph


def cnn() -> Any:
    return G.Sequential(
        [
            G.Conv(8, padding=1),
            G.Relu(),
            G.MaxPool(2, 0, 2),
            G.Conv(8),
            G.Relu(),
            G.MaxPool(2),
            G.Flatten(),
            G.Dense(10),
        ]
    )


def mlp() -> Any:
    return G.Sequential([G.Flatten(), G.Dense(32), G.Tanh(), G.Dense(10)])


def train(make: Any, dtype: str | None, scale: Any) -> tuple[list[float], Any, Any]:
    digits = load_digits()
    images = (digits.images[:512, None] / 16).astype(np.float32)
    rm.set_seed(0)
    x, y = G.DistributorElement(images, digits.target[:512], batch_size=64, shuffle=False).get_output_graphs()
    model = make()
    with G.autocast(dtype):
        loss = G.SoftmaxCrossEntropy()(model(x), y)
    optimizer = G.Sgd(0.1, momentum=0.9, loss_scale=scale)
    executor = loss.get_training_executor(optimizer, devices=["cpu"])
    assert rm.converters.lint(executor.session.to_model()) == []
    return executor.execute(epochs=4, progress=False).losses, model, optimizer


@pytest.mark.parametrize("make", [cnn, mlp])
def test_float16_training_follows_float32(make: Any):
    expected, _, _ = train(make, None, None)
    losses, model, optimizer = train(make, "float16", G.LossScale(1024))
    np.testing.assert_allclose(losses, expected, rtol=0.03)
    assert losses[-1] < losses[0]
    assert optimizer.loss_scale.good_steps.array == 32
    assert all(p.array.dtype == np.float32 for p in model.parameters())


def batches(n: int) -> list[dict[str, Any]]:
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    return [{"x": images[i * 64 : i * 64 + 64], "y": digits.target[i * 64 : i * 64 + 64]} for i in range(n)]


@pytest.mark.parametrize("make", [cnn, mlp])
def test_dynamic_scale_comes_down_to_the_range_of_the_gradients_in_the_file_alone(make: Any, tmp_path: Any):
    """Where the processor has no float16 products, onnxruntime computes them in float32, so the range is either's."""
    rm.set_seed(0)
    feeds = batches(20)
    model = make()
    with G.autocast("float16"):
        loss = G.SoftmaxCrossEntropy("sum")(model(feeds[0]["x"]), feeds[0]["y"])
    optimizer = G.Adam(0.005, loss_scale=G.LossScale(2.0**127, growth_interval_steps=8))
    path = tmp_path / "half.onnx"
    rm.export_training(loss, optimizer, path)
    states = {b.key for b in onnx.load(path).training_info[0].update_binding}
    assert {"loss_scale", "good_steps", "step"} < states
    session = rm.runtime.TrainingSession(path, device="cpu")
    first = [float(session.step(feeds[0]))]
    before = {name: session.read(name) for name in states}
    n_bad = 1
    while session.read("good_steps") == 0:
        first.append(float(session.step(feeds[0])))
        n_bad += session.read("good_steps") == 0
    assert before["loss_scale"] == 2.0**126 and session.read("loss_scale") == 2.0 ** (127 - n_bad)
    assert n_bad > 1 and len(set(first)) == 1  # nothing moved before the first good step
    for name in states - {"loss_scale"}:
        assert np.array_equal(before[name], onnx_state(path, name)), name
    assert session.read("step") == 1
    for batch in feeds[1:10]:
        session.step(batch)
    session.save(path)
    resumed = rm.runtime.TrainingSession(path, device="cpu")
    for batch in feeds[10:]:
        assert float(resumed.step(batch)) == float(session.step(batch))
    for name in states:
        assert np.array_equal(resumed.read(name), session.read(name)), name
    last = float(session.evaluate(feeds[0])["loss"])
    assert last < first[0]


def onnx_state(path: Any, name: str) -> Any:
    file = onnx.load(path)
    tensors = [*file.graph.initializer, *file.training_info[0].algorithm.initializer]
    return next(onnx.numpy_helper.to_array(t) for t in tensors if t.name == name)


def test_scale_and_count_go_the_way_of_pytorchs_scaler():
    """Batches of infinite numbers stand for overflows, so that both see them in the same steps."""
    rng = np.random.default_rng(0)
    bad = {3, 8, 9, 15}
    x, t = rng.normal(size=(20, 8, 6)).astype(np.float32), rng.normal(size=(20, 8, 2)).astype(np.float32)
    x[list(bad), 0, 0] = np.inf
    dense = G.Dense(2)
    scale = G.LossScale(512.0, growth_factor=4.0, backoff_factor=0.25, growth_interval_steps=3)
    loss = G.MeanSquared()(dense(x[0]), t[0])
    session = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, G.Adam(0.01, loss_scale=scale)), "cpu")
    module = torch.nn.Linear(6, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(dense["w"].as_ndarray().T))
        module.bias.zero_()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", 512.0, 4.0, 0.25, 3)
    for i in range(20):
        before = session.read("dense1.w")
        session.step({"x": x[i], "y": t[i]})
        optimizer.zero_grad()
        d = module(torch.tensor(x[i])) - torch.tensor(t[i])
        scaler.scale((d * d).sum() / 2 / 8).backward()
        scaler.step(optimizer)
        scaler.update()
        assert session.read("loss_scale") == scaler.get_scale()
        assert session.read("good_steps") == scaler._get_growth_tracker()
        np.testing.assert_allclose(session.read("dense1.w"), module.weight.detach().numpy().T, rtol=1e-5, atol=1e-6)
        assert (i in bad) == np.array_equal(session.read("dense1.w"), before)


def test_matrix_products_are_float16_and_the_loss_is_float32():
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int64)
    with G.autocast("float16"):
        hidden = G.Relu()(G.Dense(5)(x))
        scores = G.Dense(2)(hidden)
        losses = [
            G.SoftmaxCrossEntropy()(scores, y),
            G.ConstantLoss()(hidden),
            G.MeanSquared()(hidden, np.ones((4, 5))),
        ]
    assert hidden.dtype == scores.dtype == np.float16
    assert [loss.dtype for loss in losses] == [np.float32] * 3
    assert G.Dense(2)(x).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_delicate_is_computed_in_float32(dtype: str):
    x = np.ones((4, 6), np.float32)
    with G.autocast(dtype):
        h = G.Dense(6)(x)
        delicate = [h.exp(), h.log(), h.sqrt(), h**2, 1 / h, h.sum(1), h.mean(1), h.max(1), h.clip(-1, 1), abs(h)]
        delicate += [G.softmax(h), G.tanh(h), G.gelu(h), G.LayerNormalize()(h), G.BatchNormalize()(h), G.Mish()(h)]
        kept = [h + h, h * 2.0, -h, h[:, 1:], G.transpose(h), h.reshape(-1, 3), G.concatenate([h, h]), G.relu(h)]
    assert [v.dtype.name for v in delicate] == ["float32"] * len(delicate)
    assert [v.dtype.name for v in kept] == [dtype] * len(kept)


LAYERS: list[tuple[tuple[int, ...], list[Any]]] = [
    ((2, 6, 6), [G.Conv(2, groups=2), G.Deconv(2), G.Bias(), G.MaxPool(), G.AvgPool(), G.GlobalAvgPool(),
                 G.GlobalMaxPool(), G.BatchNormalize(), G.GroupNormalize(2), G.InstanceNormalize(), G.L2Norm(1.0),
                 G.Lrn(), G.PRelu(), G.Resize(), G.SpatialDropout()]),
    ((6,), [G.Dense(3), G.WeightNormalize(3), G.Maxout(2), G.Relu6(), G.LeakyRelu(), G.Elu(), G.Selu(), G.Celu(),
            G.Sigmoid(), G.Softmax(), G.Softplus(), G.HardSigmoid(), G.HardSwish(), G.Swish(2.0), G.Mish(),
            G.Dropout()]),
    ((3, 6), [G.Dense(3), G.RmsNormalize(), G.Rnn(3), G.Lstm(3), G.Gru(3), G.MultiHeadAttention(2, causal=True),
              G.PositionalEmbedding()]),
]  # fmt: skip
EVERY_LAYER = [(shape, layer) for shape, layers in LAYERS for layer in layers]


def half_step(shape: tuple[int, ...], layer: Any, dtype: str, opset: int | None) -> tuple[Any, dict[str, Any]]:
    """Return the file of a layer between two products in half precision, and a batch for it."""
    x, t = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32), np.zeros((4, 2), np.float32)
    feeds = {"x": x, "y": t}
    with G.autocast(dtype, opset=opset):
        before = G.Conv(2, 1) if len(shape) == 3 else G.Dense(6)
        loss = G.MeanSquared()(G.Dense(2)(G.Flatten()(layer(before(feeds["x"])))), feeds["y"])
    return rm.converters.to_training_onnx(loss, G.Sgd(0.001, loss_scale=G.LossScale(16.0))), feeds


@pytest.mark.parametrize("shape, layer", EVERY_LAYER, ids=[layer.kind for _, layer in EVERY_LAYER])
def test_every_layer_trains_in_float16_and_is_written_in_bfloat16(shape: tuple[int, ...], layer: Any):
    file, feeds = half_step(shape, layer, "float16", None)
    assert rm.converters.lint(file) == []
    assert file.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    session = rm.runtime.TrainingSession(file, device="cpu")
    losses = [float(session.step(feeds)) for _ in range(5)]
    assert np.isfinite(losses).all() and session.read("good_steps") == 5
    file, _ = half_step(shape, layer, "bfloat16", 22)
    assert rm.converters.lint(file) == []


def test_maxima_are_put_back_in_float32():
    image = np.random.default_rng(0).normal(size=(2, 1, 6, 6)).astype(np.float32)
    with G.autocast("float16"):
        pooled = G.MaxPool(3)(G.Conv(2)(image))
        loss = G.ConstantLoss()(G.UnPool(pooled)(pooled))
    assert np.isfinite(loss.backward().as_ndarray())


# Errors


def said(make: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as raised:
        make()
    return str(raised.value).partition(" Created at ")[0]


def in_bfloat16(layer: Any, x: Any, **options: Any) -> Any:
    with G.autocast("bfloat16", **options):
        return layer(x)


ROW, IMAGE = np.ones((2, 3), np.float32), np.ones((1, 1, 5, 5), np.float32)
ON_THE_CPU = (
    'bfloat16 must run on a GPU, got device "cpu" for the node with name \'{}\'. Use device="cuda", or '
    'autocast("float16").'
)


def test_another_type_or_opset_is_refused():
    assert said(lambda: G.autocast("int8").__enter__(), rm.DTypeError) == (
        'autocast: dtype must be "float16", "bfloat16" or None, got \'int8\'.'
    )
    newest = onnx.defs.onnx_opset_version()
    assert said(lambda: G.autocast("float16", opset=17).__enter__(), rm.ConversionError) == (
        f"autocast: opset must be 18 to {newest}, got 17."
    )


def test_bfloat16_says_from_which_opset_on_there_is_a_convolution():
    assert said(lambda: in_bfloat16(G.Conv(2), IMAGE), rm.DTypeError) == (
        'Conv: bfloat16 must have opset 22 or newer, got opset 18. Write autocast("bfloat16", opset=22), or use '
        '"float16".'
    )
    assert in_bfloat16(G.Conv(2), IMAGE, opset=22).dtype.name == "bfloat16"
    assert in_bfloat16(G.Deconv(2), IMAGE, opset=22).dtype == np.float32  # CUDA has none in bfloat16


def test_bfloat16_on_the_cpu_is_one_clear_error():
    y = in_bfloat16(G.Sequential([G.Dense(4), G.Relu(), G.Dense(2)]), ROW)
    loss = G.MeanSquared()(y, np.ones((2, 2)))
    text = "Gemm: " + ON_THE_CPU.format("dense1/Gemm")
    assert said(y.as_ndarray, rm.RunError) == text
    file = rm.converters.to_training_onnx(loss)
    session = rm.runtime.TrainingSession(file, device="cpu")
    assert said(lambda: session.step({"x": ROW, "y": ROW[:, :2]}), rm.RunError) == text
    assert said(lambda: rm.runtime.InferenceSession(rm.converters.to_onnx(y), device="cpu"), rm.RunError) == text
    executor = loss.get_training_executor(G.Sgd(0.1), devices=["cpu"])
    assert said(lambda: executor.execute(progress=False), rm.RunError) == text


def test_export_of_a_tree_with_newer_operators_says_its_opset():
    y = in_bfloat16(G.Conv(2), IMAGE, opset=22)
    assert rm.converters.to_onnx(y).opset_import[0].version == 22
    assert rm.converters.to_onnx(y, opset=22).opset_import[0].version == 22
    assert said(lambda: rm.converters.to_onnx(y, opset=21), rm.ConversionError) == (
        "export: opset must be 22, got 21. Newer opsets lose kernels of onnxruntime's CUDA provider, and older ones "
        "lack operators."
    )


def test_operators_without_a_kernel_for_their_types_say_so():
    data, places, updates = np.zeros(3, np.float16), np.array([0, 0]), np.ones(2, np.float16)
    operands = [G.StaticVariable(a) for a in (data, places, updates)]
    y = operators.apply("ScatterElements", *operands, axis=0, reduction="add")
    assert said(y.as_ndarray, rm.RunError) == (
        "ScatterElements: onnxruntime's CPU provider must have a kernel for float16, got none. Convert the operands to "
        "float32."
    )
    w = G.StaticVariable(np.ones((1, 1, 2, 2)))
    y = operators.apply("Conv", G.StaticVariable(np.ones((1, 1, 3, 3))), w)
    assert said(y.as_ndarray, rm.RunError) == (
        "Conv: device \"cpu\" must have a kernel for the operands' types, got none for the node with name 'Conv1'. "
        "Convert them to float32."
    )
