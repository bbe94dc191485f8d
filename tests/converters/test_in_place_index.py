"""What may end a step: an index that a batch changes; what nobody can change keeps no state from being held once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx import graph as g
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.in_place import in_place
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import TrainingSession

FRAME = """<ir_version: 8, opset_import: ["": 18]>
f (float[4, 4] p, float[4, 4] g, float[9, 4] large, float[4, 4] small, int64[N] i, int64[K] sizes,
   float[1, 1, 4, 4] image) => (float[4, 4] p_next, float other) {{ {nodes} }}"""
UPDATE = "step = Add (g, g) p_next = Sub (p, step)"
BESIDE = {
    "an index that is fed": ("other = Gather (g, i)", False),
    "a constant": ("k = Constant <value_ints = [3, 1]> () other = Gather (g, k)", True),
    "a number of sizes and constants": (
        "s = Shape (i) one = Constant <value_ints = [1]> () k = Mod (s, one) l = Add (k, one) other = Gather (g, l)",
        True,
    ),
    "a number that is drawn": (
        "r = RandomUniform <shape = [2]> () k = Cast <to = 7> (r) other = Gather (g, k)",
        False,
    ),
    "a number drawn like a constant": (
        "c = Constant <value_floats = [3.0]> () r = Bernoulli (c) k = Cast <to = 7> (r) other = Gather (g, k)",
        False,
    ),
    "positions of maxima in zeros": (
        "m, k = MaxPool <kernel_shape = [2, 2]> (image) f = Constant <value_ints = [-1]> () "
        "l = Reshape (k, f) n = Reshape (m, f) s = Shape (image) t = ConstantOfShape (s) u = Reshape (t, f) "
        'other = ScatterElements <reduction = "add"> (u, l, n)',
        True,
    ),
    "positions of maxima in anything else": (
        "m, k = MaxPool <kernel_shape = [2, 2]> (image) f = Constant <value_ints = [-1]> () l = Reshape (k, f) "
        "other = Gather (g, l)",
        False,
    ),
}


def model_of(nodes: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(FRAME.format(nodes=nodes))


@pytest.mark.parametrize(("beside", "is_safe"), BESIDE.values(), ids=BESIDE)
def test_what_is_looked_at_beside_an_update(beside: str, is_safe: bool):
    model = model_of(f"{UPDATE} {beside}")
    assert in_place(model, {"p": "p_next"}) == {"p"}
    assert in_place(model, {"p": "p_next"}, survives_errors=True) == ({"p"} if is_safe else set())


@pytest.mark.parametrize(
    ("first", "second", "is_safe"),
    [("small", "large", True), ("large", "small", False), ("small", "g", True), ("g", "small", True)],
)
def test_an_index_is_looked_at_before_by_who_has_no_wider_limit(first: str, second: str, is_safe: bool):
    nodes = f"row = Gather ({first}, i) p_next = Sub (p, row) e = Expand (i, sizes) other = Gather ({second}, e)"
    found = in_place(model_of(nodes), {"p": "p_next"}, survives_errors=True)
    assert found == ({"p"} if is_safe else set())


def image() -> g.GraphElement:
    x = np.random.default_rng(0).standard_normal((4, 3, 9, 9)).astype(np.float32)
    layers = [
        g.Conv(8, kernel=3),
        g.Relu(),
        g.MaxPool(kernel=3, stride=2),
        g.Conv(8, kernel=2),
        g.Flatten(),
        g.Dense(3),
    ]
    return g.SoftmaxCrossEntropy()(g.Sequential(layers)(x), np.arange(4) % 3)


def text() -> g.GraphElement:
    ids = np.random.default_rng(0).integers(0, 7, (4, 5))
    layers = [g.Embedding(6, vocabulary=7), g.Flatten(), g.Dense(3)]
    return g.SoftmaxCrossEntropy()(g.Sequential(layers)(ids), np.arange(4) % 3)


NETWORKS: dict[str, Callable[[], g.GraphElement]] = {"image": image, "text": text}


@pytest.mark.parametrize("network", NETWORKS)
def test_moments_of_networks_that_look_things_up_are_held_once(network: str):
    rm.set_seed(0)
    step = training_step(to_training_onnx(NETWORKS[network](), g.Adam(0.1)))
    found = in_place(step.model, step.bindings, survives_errors=True)
    assert {name for name in step.bindings if name.endswith(("adam_m", "adam_v"))} <= found


def test_a_token_that_is_none_changes_nothing_of_what_is_held_once():
    rm.set_seed(0)
    session = TrainingSession(to_training_onnx(text(), g.Adam(0.1)), "cpu", threads=1)
    feeds = {"x": np.ones((4, 5), np.int64), "y": np.zeros(4, np.int64)}
    session.step(feeds)
    before = {name: session.read(name) for name in session._held()}
    feeds["x"][3, 4] = 7
    with pytest.raises(rm.RunError):
        session.step(feeds)
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value, err_msg=name)
