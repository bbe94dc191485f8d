"""Initializers: their moments, and what they are of the shape."""

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.utility import initializer as init

RNG = np.random.default_rng


@pytest.mark.parametrize("shape, fan_in, fan_out", [((300, 200), 300, 200), ((40, 20, 3, 5), 300, 600)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_scaled_initializers_have_the_spread_of_their_fans(shape, fan_in, fan_out, gain):
    glorot, he = gain * np.sqrt(2 / (fan_in + fan_out)), gain * np.sqrt(2 / fan_in)
    for kind, std in (
        (init.GlorotNormal, glorot),
        (init.GlorotUniform, glorot),
        (init.HeNormal, he),
        (init.HeUniform, he),
    ):
        drawn = kind(gain=gain)(shape, RNG(0))
        assert drawn.dtype == np.float32
        assert abs(drawn.std() / std - 1) < 0.05
        assert abs(drawn.mean()) < 0.05 * std
        if "Uniform" in kind.__name__:
            assert np.abs(drawn).max() <= std * np.sqrt(3)


def test_gaussian_and_uniform_are_as_named():
    drawn = init.Gaussian(2.0, 0.5, gain=3.0)((200, 200), RNG(0))
    assert abs(drawn.mean() - 6) < 0.05 and abs(drawn.std() - 1.5) < 0.05
    drawn = init.Uniform(-2.0, 1.0, gain=2.0)((200, 200), RNG(0))
    assert drawn.min() >= -4 and drawn.max() <= 2 and abs(drawn.mean() + 1) < 0.05
    assert abs(init.Gaussian()((200, 200), RNG(0)).std() - 0.1) < 0.01
    assert init.Uniform()((7,), RNG(0)).shape == (7,)


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (4, 2, 3, 3), (30, 2, 3, 3)], ids=str)
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    q = init.Orthogonal(gain=2.0)(shape, RNG(0), np.float64).reshape(shape[0], -1) / 2
    smaller = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(smaller, np.eye(len(smaller)), atol=1e-12)


def test_same_seed_draws_the_same_weights():
    def draw():
        rm.set_seed(7)
        layers = [rm.graph.Dense(3, initializer=init.Orthogonal()), rm.graph.Lstm(2), rm.graph.Embedding(2, 5)]
        layers[0](np.zeros((1, 4)))
        layers[1](np.zeros((1, 2, 4)))
        layers[2](np.zeros(1, int))
        return np.concatenate([p.array.ravel() for layer in layers for p in layer.parameters()])

    np.testing.assert_array_equal(draw(), draw())


def test_error_of_a_vector_names_the_initializer():
    for kind in (init.GlorotNormal, init.GlorotUniform, init.HeNormal, init.HeUniform, init.Orthogonal):
        with pytest.raises(rm.ShapeError) as found:
            kind()((3,), RNG(0))
        assert str(found.value) == (
            f"{kind.__name__}: a shape must have two axes or more, got [3]. Use Constant for a vector."
        )
