"""Loaded models in training: Dropout drops, batch normalization is frozen or follows PyTorch's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from renom_onnx.runtime import TrainingSession

RNG = np.random.default_rng(1)
X = RNG.standard_normal((6, 3, 4, 4)).astype(np.float32)
T = RNG.standard_normal((6, 2)).astype(np.float32)
ARRAYS = {
    "conv.weight": RNG.standard_normal((5, 3, 3, 3)).astype(np.float32) / 4,
    "bn.weight": RNG.uniform(0.5, 1.5, 5).astype(np.float32),
    "bn.bias": RNG.standard_normal(5).astype(np.float32),
    "bn.running_mean": RNG.standard_normal(5).astype(np.float32) / 4,
    "bn.running_var": RNG.uniform(0.5, 1.5, 5).astype(np.float32),
    "fc.weight": RNG.standard_normal((2, 20)).astype(np.float32) / 4,
    "fc.bias": RNG.standard_normal(2).astype(np.float32),
}


def network(opset: int = 17, drop: float = 0.0) -> onnx.ModelProto:
    dropped = []
    if opset < 12:
        dropped = [helper.make_node("Dropout", ["f"], ["d"], name="drop", ratio=drop)]
    else:
        dropped = [helper.make_node("Dropout", ["f", "drop.ratio"], ["d"], name="drop")]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv"),
        helper.make_node(
            "BatchNormalization",
            ["c", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"],
            ["b"],
            name="bn",
            epsilon=1e-5,
            momentum=0.9,
        ),
        helper.make_node("Relu", ["b"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        *dropped,
        helper.make_node("Gemm", ["d", "fc.weight", "fc.bias"], ["scores"], name="fc", transB=1),
    ]
    tensors = [numpy_helper.from_array(a, n) for n, a in ARRAYS.items()]
    if opset >= 12:
        tensors.append(numpy_helper.from_array(np.array(drop, np.float32), "drop.ratio"))
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def torch_network() -> torch.nn.Sequential:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, bias=False),
        torch.nn.BatchNorm2d(5),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(20, 2),
    )
    arrays = [torch.from_numpy(a.copy()) for a in ARRAYS.values()]
    for target, value in zip(
        [model[0].weight, model[1].weight, model[1].bias, model[1].running_mean, model[1].running_var,
         model[4].weight, model[4].bias],
        arrays, strict=True,
    ):  # fmt: skip
        target.data = value
    return model


def torch_trained(*, trains_statistics: bool, steps: int) -> tuple[list[float], dict[str, np.ndarray]]:
    model = torch_network().train(trains_statistics)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * ((model(torch.from_numpy(X)) - torch.from_numpy(T)) ** 2).sum() / len(X)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    state = dict(zip(ARRAYS, [v for k, v in model.state_dict().items() if "num_batches" not in k], strict=True))
    return losses, {name: value.numpy() for name, value in state.items()}


@pytest.mark.parametrize("opset", [9, 17, 21, 25])
@pytest.mark.parametrize("trains_statistics", [False, True], ids=["frozen", "trained"])
def test_batch_normalization_trains_as_pytorch_does(opset: int, trains_statistics: bool):
    model = rm.load(network(opset))
    if trains_statistics:
        model.train_statistics(unbiased=True)
    loss = rm.graph.MeanSquared()(model(X), T)
    session = TrainingSession(to_training_onnx(loss, rm.graph.Sgd(0.05, momentum=0.9)), "cpu", threads=1)
    losses = [float(session.step({"x": X, "y": T})) for _ in range(10)]
    expected, arrays = torch_trained(trains_statistics=trains_statistics, steps=10)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    trained = session.parameters
    for name, array in arrays.items():
        if name in trained:
            np.testing.assert_allclose(trained[name], array, rtol=2e-4, atol=2e-6, err_msg=name)
    assert ("bn.running_mean" in trained) == trains_statistics


def test_statistics_are_no_weights_and_freezing_leaves_them_alone():
    model = rm.load(network())
    assert [name for name, p in model.named_parameters() if p.trainable] == [
        "conv.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias"
    ]  # fmt: skip
    model.set_updatable(True)
    assert not model.params["bn.running_mean"].output.node.trainable  # type: ignore[attr-defined]


@pytest.mark.parametrize("opset", [7, 10, 11, 12, 13, 18, 22, 26])
def test_dropout_drops_in_training_and_only_there(opset: int):
    rm.set_seed(0)
    model = rm.load(network(opset, drop=0.5))
    assert {name: layer.dropout_rate for name, layer in model.layers()} == {"drop": 0.5}  # type: ignore[attr-defined]
    loss = rm.graph.MeanSquared()(model(X), T)
    trained = to_training_onnx(loss, rm.graph.Sgd(0.0))
    session = TrainingSession(trained, "cpu", threads=1)
    losses = [float(session.step({"x": X, "y": T})) for _ in range(3)]
    plain = float(loss.as_ndarray())
    assert len({*losses, plain}) == 4  # another mask at every step
    assert session.evaluate({"x": X, "y": T})["loss"] == pytest.approx(plain, rel=1e-6)
    np.testing.assert_allclose(
        session.evaluate({"x": X})["scores"], rm.load(network(opset))(X).as_ndarray(), rtol=1e-5, atol=1e-6
    )


def test_the_rate_of_a_loaded_dropout_can_be_changed():
    model = rm.load(network(drop=0.5))
    dict(model.layers())["drop"].dropout_rate = 0.0  # type: ignore[attr-defined]
    loss = rm.graph.MeanSquared()(model(X), T)
    session = TrainingSession(to_training_onnx(loss, rm.graph.Sgd(0.0)), "cpu", threads=1)
    assert float(session.step({"x": X, "y": T})) == pytest.approx(float(loss.as_ndarray()), rel=1e-6)


def test_trained_statistics_go_into_the_export_of_the_model():
    model = rm.load(network())
    model.train_statistics()
    loss = rm.graph.MeanSquared()(model(X), T)
    loss.update(rm.graph.Sgd(0.0))
    exported = {t.name: numpy_helper.to_array(t) for t in to_onnx(model).graph.initializer}
    convolved = torch.conv2d(torch.from_numpy(X), torch.from_numpy(ARRAYS["conv.weight"])).numpy()
    expected = 0.9 * ARRAYS["bn.running_mean"] + 0.1 * convolved.mean((0, 2, 3))
    np.testing.assert_allclose(exported["bn.running_mean"], expected, rtol=1e-5, atol=1e-6)


def test_statistics_of_a_value_of_unknown_rank_are_told():
    file = network()
    file.graph.node[0].op_type, file.graph.node[0].domain = "Unheard", "own"
    file.opset_import.append(helper.make_opsetid("own", 1))
    del file.graph.node[0].attribute[:]
    model = rm.load(file)
    model.train_statistics()
    loss = rm.graph.MeanSquared()(model(X), T)
    with pytest.raises(rm.ShapeError) as error:
        loss.backward()
    assert str(error.value) == (
        "BatchNormalization: x must have a known number of axes to train the statistics, got object[...]. It is node "
        "'bn' of the model."
    )


def test_a_node_in_training_mode_always_takes_the_statistics_of_the_batch():
    file = network()
    bn = next(node for node in file.graph.node if node.op_type == "BatchNormalization")
    bn.attribute.append(helper.make_attribute("training_mode", 1))
    bn.output.extend(["next_mean", "next_var"])
    model = rm.load(file)
    assert to_onnx(model) == file
    loss = rm.graph.MeanSquared()(model(X), T)
    session = TrainingSession(to_training_onnx(loss, rm.graph.Sgd(0.05, momentum=0.9)), "cpu", threads=1)
    losses = [float(session.step({"x": X, "y": T})) for _ in range(5)]
    expected, arrays = torch_trained(trains_statistics=True, steps=5)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(session.read("bn.running_mean"), arrays["bn.running_mean"], rtol=2e-4, atol=2e-6)
