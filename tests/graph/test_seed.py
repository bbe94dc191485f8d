"""Seeds: parameters are drawn by (seed, ordinal), whatever else the program draws; initializers follow the field."""

import subprocess
import sys

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.utility import initializer

g = rm.graph


def drawn(*units: int) -> list[np.ndarray]:
    layers = [g.Dense(n) for n in units]
    for layer in layers:
        layer(np.ones((1, 3)))
    return [layer.params["w"].as_ndarray() for layer in layers]


def test_the_same_seed_gives_the_same_parameters():
    rm.set_seed(7)
    first = drawn(4, 5)
    rm.set_seed(7)
    np.testing.assert_equal(drawn(4, 5), first)


def test_another_seed_gives_others():
    rm.set_seed(7)
    (first,) = drawn(4)
    rm.set_seed(8)
    assert not np.array_equal(drawn(4)[0], first)


def test_the_seed_is_0_until_it_is_set():
    program = "import numpy as np, renom_onnx as rm; d = rm.graph.Dense(2); d(np.ones((1, 2))); print(d.params['w'])"
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    dense = g.Dense(2)
    dense(np.ones((1, 2)))
    assert fresh == f"{dense.params['w']}\n"


def test_parameters_of_one_program_differ():
    first, second = drawn(4, 4)
    assert not np.array_equal(first, second)


def test_draws_do_not_depend_on_the_sizes_drawn_before():
    rm.set_seed(1)
    _, second = drawn(4, 5)
    rm.set_seed(1)
    _, again = drawn(100, 5)
    np.testing.assert_array_equal(second, again)


def test_draws_do_not_depend_on_numpys_state_and_leave_it_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    (first,) = drawn(4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(99)
    rm.set_seed(0)
    np.testing.assert_array_equal(drawn(4)[0], first)


def test_set_renom_seed_is_another_name():
    rm.set_seed(7)
    first = drawn(4)[0]
    rm.set_renom_seed(7, all_devices=True)
    np.testing.assert_array_equal(drawn(4)[0], first)


INITIALIZERS = {
    "GlorotNormal": (initializer.GlorotNormal, lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))),
    "GlorotUniform": (initializer.GlorotUniform, lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))),
    "HeNormal": (initializer.HeNormal, lambda fan_in, fan_out: np.sqrt(2 / fan_in)),
    "HeUniform": (initializer.HeUniform, lambda fan_in, fan_out: np.sqrt(2 / fan_in)),
}
SHAPES = {"matrix": ((300, 200), 300, 200), "kernel": ((40, 30, 5, 3), 30 * 15, 40 * 15)}


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("make", "deviation"), INITIALIZERS.values(), ids=INITIALIZERS)
def test_an_initializer_has_the_spread_of_its_paper(make, deviation, shape, fan_in, fan_out):
    array = make()(shape, np.random.default_rng(0), np.float32)
    assert (array.shape, array.dtype) == (shape, np.float32)
    np.testing.assert_allclose([array.mean(), array.std()], [0, deviation(fan_in, fan_out)], rtol=0.02, atol=1e-3)


def test_a_uniform_initializer_stays_in_its_limits():
    array = initializer.GlorotUniform()((300, 200), np.random.default_rng(0))
    assert np.abs(array).max() <= np.sqrt(6 / 500)


def test_bias_starts_at_zero_and_weights_with_glorot_normal():
    dense = g.Dense(200)
    dense(np.ones((1, 300)))
    assert not dense.params["b"].as_ndarray().any()
    np.testing.assert_allclose(dense.params["w"].as_ndarray().std(), np.sqrt(2 / 500), rtol=0.02)
