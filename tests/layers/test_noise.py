"""Random arrays."""

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.converters import lint, to_training_onnx
from renom_onnx.graph.element import static
from renom_onnx.runtime import TrainingSession

g = rm.graph


@pytest.mark.parametrize("draw, mean, std", [(g.rand_normal, 2.0, 0.5), (g.rand_uniform, 2.0, 3.0)])
def test_random_arrays_are_new_at_each_evaluation(draw, mean, std):
    element = draw((100, 200), mean, std)
    first, second = element.as_ndarray(), element.as_ndarray()
    wanted = (mean, std) if draw is g.rand_normal else ((mean + std) / 2, (std - mean) / np.sqrt(12))
    assert abs(first.mean() - wanted[0]) < 0.02 and abs(first.std() - wanted[1]) < 0.02
    assert (first != second).mean() > 0.9


def test_spatial_dropout_drops_whole_channels():
    x = np.ones((50, 40, 3, 4), np.float32)
    source = static(x, is_batch=True)
    loss = g.ConstantLoss()(g.SpatialDropout(0.25)(source))
    assert loss.as_ndarray() == x.sum()
    gradient = loss.backward().get_gradient(source).as_ndarray()
    assert (gradient == gradient[:, :, :1, :1]).all()
    kept = gradient[:, :, 0, 0]
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75])
    assert abs((kept > 0).mean() - 0.75) < 0.03


AXES = {"rows": 0, "channels": (0, 1), "features": (0, -1), "alike in all rows": (1, 2), "places": 2}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_dropout_along_axes_drops_the_same_along_the_others(axis):
    x = np.ones((40, 30, 20), np.float32)
    source = static(x, is_batch=True)
    loss = g.ConstantLoss()(g.Dropout(0.25, axis=axis)(source))
    gradient = loss.backward().get_gradient(source).as_ndarray()
    own = {a % 3 for a in np.atleast_1d(axis)}
    first = gradient[tuple(slice(None) if a in own else slice(0, 1) for a in range(3))]
    assert (gradient == first).all()
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.75])
    assert abs((first > 0).mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / first.size)


def test_dropout_with_all_axes_is_dropout_without_one():
    x = np.ones((4, 3), np.float32)

    def gradient(**options):
        rm.set_seed(5)
        source = static(x, is_batch=True)
        return g.ConstantLoss()(g.Dropout(0.5, **options)(source)).backward().get_gradient(source).as_ndarray()

    np.testing.assert_array_equal(gradient(axis=(0, 1)), gradient())


def test_an_axis_that_x_lacks_is_refused(message):
    text = "Dropout: axis must name axes of x, got (0, 2): x is float32[N, 3]. Created at test_noise.py:{line}."
    with message(rm.ShapeError, text):
        g.Dropout(0.5, axis=(0, 2))(np.ones((4, 3), np.float32))


@pytest.mark.parametrize("draw", [g.rand_normal, g.rand_uniform])
def test_random_arrays_of_a_training_are_a_function_of_seed_and_step(draw):
    def session():
        rm.set_seed(3)
        noise = draw((3000, 4))
        dense = g.Dense(4, initializer=rm.utility.initializer.Constant(0))
        x = np.ones((3000, 2), np.float32)
        loss = g.ConstantLoss()(g.square(noise) + g.stop_gradient(noise) * dense(x))
        file = to_training_onnx(loss, g.Sgd(0.0))
        assert lint(file) == []
        return TrainingSession(file, device="cpu")

    x = np.ones((3000, 2), np.float32)
    one, two = session(), session()
    losses = [float(one.step({"x": x})) for _ in range(3)]
    assert losses == [float(two.step({"x": x})) for _ in range(3)]
    assert len(set(losses)) == 3
    wanted = 1.0 if draw is g.rand_normal else 1 / 3
    assert abs(losses[0] / 12000 - wanted) < 0.05
