"""What is set on layers and elements: optimizers and penalties by parameter, inference, and blocks without updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from tests.layers.oracle import normal
from tests.messages import Cases, message_of

g = rm.graph
X, Y = normal(6, 3, seed=1), normal(6, 2, seed=2)


def trained(dense: Any, steps: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """Return the parameters of a dense layer after steps of Sgd(0.1)."""
    loss = g.MeanSquared()(dense(X), Y)
    for _ in range(steps):
        loss.backward().update(g.Sgd(0.1))
    return {name: p.array for name, p in dense.named_parameters()}


def trained_by_torch(dense: Any, groups: dict[str, dict[str, Any]], steps: int = 3) -> dict[str, Any]:
    """Return the same by PyTorch; groups has the options of its SGD for each parameter."""
    dense(X)
    tensors = {name: torch.tensor(p.array, requires_grad=True) for name, p in dense.named_parameters()}
    optimizer = torch.optim.SGD([{"params": tensors[name], **options} for name, options in groups.items()], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (
            functional.mse_loss(torch.tensor(X) @ tensors["w"] + tensors["b"], torch.tensor(Y), reduction="sum") / 12
        ).backward()
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


W, B = {"weight_decay": 0.5}, {"weight_decay": 0.0}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "decay of all": ({"parameter_decay": g.L2(0.5)}, {"w": W, "b": W}),
    "decay of w": ({"parameter_decay": {"w": g.L2(0.5)}}, {"w": W, "b": B}),
    "weight decay": ({"weight_decay": 0.5}, {"w": W, "b": B}),
    "weight decay as a regularizer": ({"weight_decay": g.L2(0.5)}, {"w": W, "b": B}),
    "optimizer of all": ({"optimizer": g.Sgd(0.3)}, {"w": {"lr": 0.3}, "b": {"lr": 0.3}}),
    "optimizers by parameter": (
        {"optimizer": {"w": g.Sgd(0.3), "b": g.Sgd(0.01, 0.9)}},
        {"w": {"lr": 0.3}, "b": {"lr": 0.01, "momentum": 0.9}},
    ),
    "optimizer of one": ({"optimizer": {"b": "sgd"}}, {"w": {"lr": 0.1}, "b": {"lr": 0.01}}),
    "both": ({"optimizer": {"b": g.Sgd(0.2)}, "weight_decay": 0.5}, {"w": W, "b": {"lr": 0.2}}),
}


@pytest.mark.parametrize(("settings", "groups"), SETTINGS.values(), ids=SETTINGS)
def test_a_layers_settings_are_those_of_pytorchs_parameter_groups(settings: Any, groups: Any):
    dense = g.Dense(2, **settings)
    expected = trained_by_torch(dense, groups)
    for name, found in trained(dense).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("on", ["layer", "element"])
def test_what_is_set_later_is_the_same(on: str):
    dense = g.Dense(2)
    made = dense(X)
    setter = dense if on == "layer" else made
    setter.set_regularizer({"w": 0.5})
    setter.set_optimizer({"b": g.Sgd(0.2)})
    expected = trained_by_torch(dense, {"w": W, "b": {"lr": 0.2}})
    for name, found in trained(dense).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


WITH_PARAMETERS: dict[str, tuple[Callable[..., Any], np.ndarray[Any, Any]]] = {
    "Dense": (lambda **s: g.Dense(2, **s), X),
    "Bias": (g.Bias, X),
    "Conv": (lambda **s: g.Conv(2, **s), normal(2, 2, 5, 5)),
    "Deconv": (lambda **s: g.Deconv(2, **s), normal(2, 2, 5, 5)),
    "BatchNormalize": (g.BatchNormalize, X),
    "LayerNormalize": (g.LayerNormalize, X),
    "RmsNormalize": (g.RmsNormalize, X),
    "GroupNormalize": (lambda **s: g.GroupNormalize(2, **s), normal(2, 4, 5)),
    "InstanceNormalize": (g.InstanceNormalize, normal(2, 4, 5)),
    "L2Norm": (g.L2Norm, X),
    "WeightNormalize": (lambda **s: g.WeightNormalize(2, bias=True, **s), X),
    "Embedding": (lambda **s: g.Embedding(2, 4, **s), np.array([[1, 3]])),
    "PositionalEmbedding": (g.PositionalEmbedding, normal(2, 3, 4)),
    "PRelu": (g.PRelu, X),
    "Rnn": (lambda **s: g.Rnn(2, **s), normal(2, 3, 4)),
    "Lstm": (lambda **s: g.Lstm(2, **s), normal(2, 3, 4)),
    "PeepholeLstm": (lambda **s: g.PeepholeLstm(2, **s), normal(2, 3, 4)),
    "Gru": (lambda **s: g.Gru(2, **s), normal(2, 3, 4)),
    "MultiHeadAttention": (lambda **s: g.MultiHeadAttention(2, **s), normal(2, 3, 4)),
}


@pytest.mark.parametrize(("make", "x"), WITH_PARAMETERS.values(), ids=WITH_PARAMETERS)
def test_every_layer_with_parameters_takes_the_settings(make: Any, x: Any):
    own, decay = g.Adam(0.1), g.L2(0.1)
    layer = make(activation="relu", optimizer=own, weight_decay=decay)
    y = layer(x)
    assert y.as_ndarray().min() >= 0
    found = {name: p for name, p in layer.named_parameters() if p.trainable}
    assert found
    assert all(p.optimizer is own for p in found.values())
    assert {name for name, p in found.items() if p.regularizer is decay} == {n for n in found if n.startswith("w")}


def test_a_setting_of_a_sequential_reaches_the_layers_in_it():
    model = g.Sequential([g.Dense(3), g.Dense(2, parameter_decay="l1")])
    model.set_decays({"w": 0.5})
    model.set_optimizers({"dense2.b": "adam"})
    model(X)
    found = dict(model.named_parameters())
    assert {n: type(p.regularizer).__name__ for n, p in found.items()} == {
        "dense1.w": "L2",
        "dense1.b": "NoneType",
        "dense2.w": "L2",  # set after the L1
        "dense2.b": "L1",
    }
    assert [n for n, p in found.items() if p.optimizer is not None] == ["dense2.b"]


def test_the_keys_of_a_dict_are_ends_of_names():
    class Inner(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.wide = g.Dense(3)
            self.last = g.Dense(2)

        def forward(self, x: Any) -> Any:
            return self.last(self.wide(x))

    def decayed(**settings: Any) -> list[str]:
        model = g.Sequential([Inner(), g.Dense(2)], **settings)
        model(X)
        return [name for name, p in model.named_parameters() if p.regularizer is not None]

    weights = ["inner1.wide.w", "inner1.last.w", "dense1.w"]
    assert decayed(weight_decay=0.1) == weights
    assert decayed(parameter_decay={"w": 0.1}) == weights
    assert decayed(parameter_decay={"last.*": 0.1}) == ["inner1.last.w", "inner1.last.b"]
    assert decayed(parameter_decay={"inner1.wide.b": 0.1}) == ["inner1.wide.b"]
    assert decayed(parameter_decay={"*": 0.1}) == [
        *weights[:1],
        "inner1.wide.b",
        weights[1],
        "inner1.last.b",
        weights[2],
        "dense1.b",
    ]


# Blocks without updates


def test_a_diamond_with_one_path_without_updates_is_pytorchs_with_detached_weights():
    dense = g.Dense(2, activation="tanh")
    x = g.StaticVariable(X)
    with dense.no_updates():
        fixed = dense(x)
    loss = g.MeanSquared()(dense(x) * fixed, Y).backward()
    tx = torch.tensor(X, requires_grad=True)
    w, b = (torch.tensor(dense.params[k].as_ndarray(), requires_grad=True) for k in "wb")
    product = torch.tanh(tx @ w + b) * torch.tanh(tx @ w.detach() + b.detach())
    (((product - torch.tensor(Y)) ** 2).sum() / 2 / len(X)).backward()
    for found, tensor in ((dense.params["w"], w), (dense.params["b"], b), (x, tx)):
        np.testing.assert_allclose(loss.get_gradient(found.output).as_ndarray(), tensor.grad, rtol=1e-5, atol=1e-6)


def test_nothing_in_the_block_updates_the_layer():
    first, second = g.Dense(3), g.Dense(2)
    loss = g.MeanSquared()(second(first(X)), Y)
    before = [p.array for layer in (first, second) for p in layer.parameters()]
    with first.no_updates():
        loss.backward().update(g.Sgd(0.1))
    after = [p.array for layer in (first, second) for p in layer.parameters()]
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    loss.backward().update(g.Sgd(0.1))
    assert not np.array_equal(first.params["w"].as_ndarray(), before[0])


def test_a_frozen_parameter_stays_frozen_after_the_block():
    dense = g.Dense(2)
    dense(X)
    dense.set_updatable(False, "b")
    with dense.no_updates():
        assert [p.trainable for p in dense.parameters()] == [False, False]
    assert [p.trainable for p in dense.parameters()] == [True, False]


# Inference


def running(model: Any) -> np.ndarray[Any, Any]:
    return dict(model.named_parameters())["batch_normalize1.mean"].array.copy()


def normalized_model() -> tuple[Any, Any]:
    model = g.Sequential([g.Dense(3), g.BatchNormalize(), g.Dropout(0.5), g.Dense(2)])
    return model, g.MeanSquared()(model(X), Y)


def gradient_without_training_forms(model: Any) -> np.ndarray[Any, Any]:
    """Return PyTorch's gradient of the first weight with running statistics and without dropout."""
    w1, b1, gamma, beta, mean, var, w2, b2 = (
        torch.tensor(p.array, requires_grad=True) for _, p in model.named_parameters()
    )
    h = functional.batch_norm(torch.tensor(X) @ w1 + b1, mean.detach(), var.detach(), gamma, beta, training=False)
    (((h @ w2 + b2 - torch.tensor(Y)) ** 2).sum() / 2 / len(X)).backward()
    assert w1.grad is not None
    return w1.grad.numpy()


def first_weight(model: Any) -> Any:
    return model[0].params["w"].output


@pytest.mark.parametrize("when", ["before", "after", "element", "all elements"])
def test_a_model_set_to_inference_trains_without_training_forms(when: str):
    model, loss = normalized_model()
    if when == "before":
        model.set_inference(True)
        loss = g.MeanSquared()(model(X), Y)
    elif when == "after":
        loss.backward()
        model.set_inference(True)
    elif when == "element":
        y = model(X)
        y.set_inference(True)
        loss = g.MeanSquared()(y, Y)
    else:
        loss.set_all_inference(True)
    expected = gradient_without_training_forms(model)
    found = loss.backward().get_gradient(first_weight(model)).as_ndarray()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    before = running(model)
    loss.update(g.Sgd(0.1))
    np.testing.assert_array_equal(running(model), before)
    model.set_inference(False)
    loss.backward().update(g.Sgd(0.1))
    assert not np.array_equal(running(model), before)


def test_a_file_of_a_model_in_inference_has_no_training_copies():
    model, loss = normalized_model()
    model.set_inference(True)
    algorithm = rm.converters.to_training_onnx(loss, g.Sgd(0.1)).training_info[0].algorithm
    assert not [node.name for node in algorithm.node if ".train" in node.name or "Mask" in node.op_type]


def test_what_is_connected_in_an_inference_block_stays_in_inference():
    model, _ = normalized_model()
    with model.inference():
        loss = g.MeanSquared()(model(X), Y)
    assert not any(layer.is_inference for layer in model.held_layers())
    expected = gradient_without_training_forms(model)
    np.testing.assert_allclose(
        loss.backward().get_gradient(first_weight(model)).as_ndarray(), expected, rtol=1e-4, atol=1e-5
    )
    before = running(model)
    g.MeanSquared()(model(X), Y).update(g.Sgd(0.1))
    assert not np.array_equal(running(model), before)


def test_a_block_changes_nothing_that_was_connected_before_it():
    norm = g.BatchNormalize()
    first = norm(X)
    with norm.inference():
        second = norm(first)
    assert first.output.node.training_form is not None
    assert second.output.node.training_form is None


def test_in_the_block_older_trees_are_in_inference_too():
    model, loss = normalized_model()
    before = running(model)
    with model.inference():
        loss.update(g.Sgd(0.1))
    np.testing.assert_array_equal(running(model), before)
    loss.update(g.Sgd(0.1))
    assert not np.array_equal(running(model), before)


def test_a_child_may_be_set_alone():
    model, loss = normalized_model()
    model[1].set_inference(True)
    before = running(model)
    loss.update(g.Sgd(0.1))
    np.testing.assert_array_equal(running(model), before)
    assert not model[2].is_inference


def test_after_an_error_in_a_block_all_is_as_before():
    model, _ = normalized_model()
    model[1].set_inference(True)
    for block in (model.inference, model.no_updates):
        with pytest.raises(KeyError), block():
            raise KeyError
    assert [layer.is_inference for layer in model.held_layers()] == [False, False, True, False, False]
    assert all(p.trainable for n, p in model.named_parameters() if "mean" not in n and "var" not in n)
    assert not any(layer.is_in(kind) for layer in model.held_layers() for kind in ("inference", "no_updates"))
    made = model(X).output
    assert rm.graph.GraphElement(made).backward().get_gradient(first_weight(model)).shape == (3, 3)


NOT_A_LAYERS = (
    "{}: the element must be what a layer returned, got Add (F). Call it on the layer, or on what the layer returned. "
    "{{created}}"
)
OPTIMIZERS = "adadelta, adagrad, adam, adamax, adamw, lamb, lion, rmsprop, sgd"
ERRORS: Cases = {
    "no layer": (
        lambda: (g.StaticVariable(X) + 1).set_updatable(False),
        rm.ConversionError,
        NOT_A_LAYERS.format("set_updatable"),
    ),
    "no layer in inference": (
        lambda: (g.StaticVariable(X) + 1).set_inference(True),
        rm.ConversionError,
        NOT_A_LAYERS.format("set_inference"),
    ),
    "no optimizer": (
        lambda: g.Dense(2, optimizer="adem"),
        rm.ConversionError,
        f"set_optimizer: an optimizer must be an Optimizer or one of {OPTIMIZERS}, got 'adem'. {{created}}",
    ),
    "no optimizer in a dict": (
        lambda: g.Dense(2).set_optimizer({"w": 0.1}),
        rm.ConversionError,
        f"set_optimizer: an optimizer must be an Optimizer or one of {OPTIMIZERS}, got 0.1. {{created}}",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    assert message_of(call, kind) == message


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'decay'"):
        g.Dense(2, decay=0.1)
