"""Activations against PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from renom_onnx.converters import lint, to_onnx
from tests.layers.oracle import check, normal

g = rm.graph
X = normal(5, 6) * 3

CASES = {
    "relu": (g.Relu(), functional.relu),
    "relu6": (g.Relu6(), functional.relu6),
    "leaky_relu": (g.LeakyRelu(0.2), lambda x: functional.leaky_relu(x, 0.2)),
    "elu": (g.Elu(), functional.elu),
    "elu-alpha": (g.Elu(0.3), lambda x: functional.elu(x, 0.3)),
    "selu": (g.Selu(), functional.selu),
    "celu": (g.Celu(0.7), lambda x: functional.celu(x, 0.7)),
    "sigmoid": (g.Sigmoid(), torch.sigmoid),
    "tanh": (g.Tanh(), torch.tanh),
    "softmax": (g.Softmax(), lambda x: functional.softmax(x, 1)),
    "softplus": (g.Softplus(), functional.softplus),
    "softsign": (g.Softsign(), functional.softsign),
    "hard_sigmoid": (g.HardSigmoid(), lambda x: torch.clamp(0.2 * x + 0.5, 0, 1)),
    "hard_sigmoid-sixth": (g.HardSigmoid(1 / 6), functional.hardsigmoid),
    "hard_swish": (g.HardSwish(), functional.hardswish),
    "gelu": (g.Gelu(), functional.gelu),
    "gelu-tanh": (g.Gelu("tanh"), lambda x: functional.gelu(x, approximate="tanh")),
    "silu": (g.Silu(), functional.silu),
    "swish": (g.Swish(1.5), lambda x: x * torch.sigmoid(1.5 * x)),
    "mish": (g.Mish(), functional.mish),
    "maxout-1": (g.Maxout(), lambda x: x),
    "maxout-3": (g.Maxout(3), lambda x: x.reshape(-1, 2, 3).amax(2)),
    "maxout-4": (g.Maxout(4), lambda x: torch.stack([x[:, :4].amax(1), x[:, 4:].amax(1)], 1)),
    "maxout-short": (g.Maxout(9), lambda x: x.amax(1, keepdim=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_activation_is_that_of_torch(name):
    layer, formula = CASES[name]
    check(layer, [X], lambda p, x: formula(x))


def test_prelu_has_one_slope_or_one_per_channel():
    check(g.PRelu(), [X], lambda p, x: functional.prelu(x, p["slope"]))
    x = normal(2, 3, 4, 4)
    check(g.PRelu(per_channel=True), [x], lambda p, x: functional.prelu(x, p["slope"].reshape(-1)))


def test_maxout_takes_images():
    check(g.Maxout(2), [normal(2, 6, 3, 4)], lambda p, x: x.reshape(-1, 3, 2, 3, 4).amax(2))


NAMED = {"relu": g.Relu, "leaky relu": g.LeakyRelu, "Leaky_ReLU": g.LeakyRelu, "elu": g.Elu, "GELU": g.Gelu}


@pytest.mark.parametrize("name", NAMED)
def test_activation_is_found_by_name(name):
    assert type(g.Activation(name)) is NAMED[name]


FUNCTIONS = """
elu selu leaky_relu softplus softsign maxout relu6 celu gelu silu swish mish hard_sigmoid hard_swish
"""


@pytest.mark.parametrize("name", FUNCTIONS.split())
def test_function_is_its_layer(name):
    kind = "".join(part.title() for part in name.split("_"))
    np.testing.assert_array_equal(getattr(g, name)(X).as_ndarray(), getattr(g, kind)()(X).as_ndarray())


def test_softplus_of_large_numbers_is_finite():
    np.testing.assert_allclose(g.softplus(np.array([[100.0, -100.0]])).as_ndarray(), [[100.0, 0.0]], atol=1e-6)


def test_operators_newer_than_the_opset_are_functions_of_their_name():
    model = to_onnx(g.Gelu()(X))
    assert [(f.domain, f.name) for f in model.functions] == [("renom_onnx", "Gelu")]
    model = to_onnx(g.Gelu()(X), opset=21)
    assert lint(model) == []


def test_activation_argument_is_applied_to_the_output():
    check(g.Dense(3, activation="tanh"), [normal(4, 2)], lambda p, x: torch.tanh(x @ p["w"] + p["b"]))
    dense = g.Dense(3, activation=g.PRelu())
    check(dense, [normal(4, 2)], lambda p, x: functional.prelu(x @ p["w"] + p["b"], p["p_relu1.slope"]))
