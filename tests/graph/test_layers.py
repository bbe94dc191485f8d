"""The layers of the seed and of its first successors: values and gradients are PyTorch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm

g = rm.graph


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_is_pytorchs(layer, x, reference, rtol=1e-4):
    """Compare values, and gradients of x and of every parameter of a weighted sum of the outputs."""
    leaf = g.StaticVariable(x)
    y = layer(leaf)
    tensors = {k: torch.tensor(p.as_ndarray(), requires_grad=True) for k, p in layer.params.items()}
    torch_x = torch.tensor(x, requires_grad=True)
    expected = reference(torch_x, **tensors)
    np.testing.assert_allclose(y.as_ndarray(), expected.detach(), rtol=rtol, atol=1e-5)
    weight = normal(*expected.shape, seed=1)
    (expected * torch.tensor(weight)).sum().backward()
    root = (y * weight).backward()
    for element, tensor in [(leaf, torch_x), *((layer.params[k], t) for k, t in tensors.items())]:
        np.testing.assert_allclose(root.get_gradient(element.output).as_ndarray(), tensor.grad, rtol=rtol, atol=1e-4)


def filled_bias(layer):
    layer.params["b"].output.node.array = normal(*layer.params["b"].shape, seed=2)


# Dense


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (2, 5, 3), (2, 3, 4, 3)], ids=str)
def test_dense_is_a_linear_map_of_the_last_axis(shape, bias):
    dense = g.Dense(6, bias=bias)
    dense(normal(*shape))
    if bias:
        filled_bias(dense)
    assert {k: p.shape for k, p in dense.params.items()} == {"w": (3, 6), **({"b": (1, 6)} if bias else {})}
    assert_is_pytorchs(dense, normal(*shape), lambda x, w, b=0: x @ w + b)


def test_dense_takes_data_of_any_type_in_the_type_of_its_parameters():
    dense = g.Dense(3, initializer=rm.utility.initializer.Constant(1))
    for dtype in ("bool", "uint8", "int64", "float16", "float64"):
        y = dense(np.ones((2, 2), dtype))
        assert (y.dtype, y.as_ndarray().tolist()) == (np.float32, [[2.0] * 3] * 2)


def test_data_has_the_batch_symbol_and_one_layer_serves_every_batch_size():
    dense = g.Dense(2)
    for rows in (3, 1, 0):
        y = dense(np.ones((rows, 4)))
        assert (y.shape, y.as_ndarray().shape) == (("N", 2), (rows, 2))


def test_a_static_variable_keeps_its_size():
    assert g.Dense(2)(g.StaticVariable(np.ones((3, 4)))).shape == (3, 2)


# Convolution and pooling


CONVOLUTIONS = {
    "1d": ((2, 3, 9), dict(channels=4)),
    "2d": ((2, 3, 7, 6), dict(channels=4)),
    "3d": ((1, 2, 5, 4, 6), dict(channels=3, kernel=(3, 2, 3))),
    "no-bias": ((2, 3, 5, 5), dict(channels=2, bias=False)),
    "padding-stride": ((2, 2, 8, 7), dict(channels=4, kernel=(3, 2), padding=(2, 1), stride=(2, 3))),
    "dilation": ((1, 2, 9, 9), dict(channels=2, dilation=2)),
    "groups": ((2, 4, 6, 6), dict(channels=6, groups=2)),
    "depthwise": ((2, 4, 6, 6), dict(channels=8, groups=4, padding=1)),
    "depthwise-1d-dilated": ((2, 3, 11), dict(channels=3, groups=3, dilation=3)),
    "stride-leaves-a-rest": ((1, 1, 8, 8), dict(channels=1, stride=3)),
    "kernel-of-one": ((2, 3, 4, 4), dict(channels=5, kernel=1)),
}


@pytest.mark.parametrize(("shape", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_conv_is_pytorchs(shape, options):
    conv = g.Conv(**options)
    conv(normal(*shape))
    if conv.bias:
        filled_bias(conv)
    call = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(shape) - 2]
    settings = {k: options.get(k, d) for k, d in (("padding", 0), ("stride", 1), ("dilation", 1), ("groups", 1))}
    assert_is_pytorchs(conv, normal(*shape), lambda x, w, b=None: call(x, w, b, **settings))


def test_conv_does_not_flip_its_kernel():
    """ReNom's 2-D convolution did; ONNX's and the field's do not."""
    kernel = np.arange(9.0).reshape(1, 1, 3, 3)
    conv = g.Conv(1, bias=False)
    impulse = np.zeros((1, 1, 5, 5))
    impulse[0, 0, 2, 2] = 1
    conv(impulse)
    conv.params["w"].output.node.array = kernel.astype(np.float32)
    np.testing.assert_array_equal(conv(impulse).as_ndarray(), kernel[:, :, ::-1, ::-1])


POOLS = {
    "1d": ((2, 3, 9), dict(kernel=3)),
    "2d": ((2, 3, 7, 6), dict(kernel=2, stride=2)),
    "3d": ((1, 2, 5, 4, 6), dict(kernel=(2, 3, 2), stride=(1, 2, 2))),
    "overlapping": ((2, 2, 6, 6), dict(kernel=3, stride=2, padding=1)),
    "defaults": ((1, 2, 5, 5), {}),
}


@pytest.mark.parametrize(("shape", "options"), POOLS.values(), ids=POOLS)
def test_max_pool_is_pytorchs(shape, options):
    call = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(shape) - 2]
    settings = dict(
        kernel_size=options.get("kernel", 3), stride=options.get("stride", 1), padding=options.get("padding", 0)
    )
    assert_is_pytorchs(g.MaxPool(**options), normal(*shape), lambda x: call(x, **settings))


def test_max_pool_pads_with_minus_infinity():
    x = np.full((1, 1, 2, 2), -5.0, np.float32)
    np.testing.assert_array_equal(g.MaxPool(3, padding=1)(x).as_ndarray(), x)


# The rest


SIMPLE = {
    "relu": (g.Relu(), torch.relu),
    "sigmoid": (g.Sigmoid(), torch.sigmoid),
    "tanh": (g.Tanh(), torch.tanh),
    "softmax": (g.Softmax(), lambda x: torch.softmax(x, 1)),
    "softmax-of-the-last-axis": (g.Softmax(axis=-1), lambda x: torch.softmax(x, -1)),
    "flatten": (g.Flatten(), lambda x: x.flatten(1)),
}


@pytest.mark.parametrize(("layer", "reference"), SIMPLE.values(), ids=SIMPLE)
def test_a_layer_without_parameters_is_pytorchs(layer, reference):
    assert_is_pytorchs(layer, normal(2, 3, 4), reference)


def test_layers_compute_in_the_type_of_parameters():
    for layer in (g.Relu(), g.Sigmoid(), g.Tanh(), g.Softmax(), g.MaxPool(1)):
        assert layer(np.ones((1, 2, 3), np.int64)).dtype == rm.precision


def test_sequential_calls_its_layers_in_order():
    first, second = g.Dense(4), g.Dense(2)
    model = g.Sequential([first, g.Relu(), second])
    x = normal(3, 5)
    y = model(x).as_ndarray()
    w1, b1, w2, b2 = (layer.params[k].as_ndarray() for layer in (first, second) for k in "wb")
    np.testing.assert_allclose(y, np.maximum(x @ w1 + b1, 0) @ w2 + b2, rtol=1e-5, atol=1e-6)
    assert (len(model), model[0], list(model)[2]) == (3, first, second)
    assert model.last_output().output is model.last_output().output


class Residual(g.Model):
    def __init__(self, units):
        super().__init__()
        self.inner = g.Dense(units)
        self.many = [g.Dense(units), g.Dense(units)]

    def forward(self, x, scale):
        y = x + self.inner(x) * scale
        for dense in self.many:
            y = g.relu(dense(y))
        return y


def test_a_model_of_the_user_may_take_several_inputs_and_branch():
    model, x = Residual(3), normal(2, 3)
    y = model(x, np.full((2, 1), 2.0, np.float32)).as_ndarray()
    (w, b), *rest = [[d.params[k].as_ndarray() for k in "wb"] for d in (model.inner, *model.many)]
    expected = x + (x @ w + b) * 2
    for w, b in rest:
        expected = np.maximum(expected @ w + b, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_parameters_of_a_model_come_each_once_in_the_order_of_its_attributes():
    model = Residual(3)
    model.again = model.inner
    model(normal(2, 3), np.ones((2, 1), np.float32))
    found = list(model.parameters())
    assert found == [d.params[k].output.node for d in (model.inner, *model.many) for k in "wb"]


def test_an_exception_in_forward_leaves_no_layer_open():
    class Broken(g.Model):
        def forward(self, x):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Broken()(normal(1, 2))
    assert g.Dense(1)(normal(1, 2)).output.node.layers[0].kind == "dense"


def test_the_same_layer_called_twice_shares_its_parameters():
    dense = g.Dense(2)
    first, second = dense(normal(1, 3)), dense(normal(4, 3))
    assert first.output.node.inputs[1] is second.output.node.inputs[1]


def test_a_parameter_is_looked_at_like_an_element():
    dense = g.Dense(2, initializer=rm.utility.initializer.Constant(3))
    y = dense(normal(1, 2))
    assert str(dense.params["b"]) == "[[0. 0.]]"
    assert str(dense.params["w"] + 1) == "[[4. 4.]\n [4. 4.]]"
    assert y.dtype == dense.params["w"].dtype == np.float32
