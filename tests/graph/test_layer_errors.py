"""Errors of layers, losses, optimizers and their kin, word for word.

Every call stands on one line, which is the one that the message must name.
"""

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.graph.node import Input
from renom_onnx.graph.optimizers import OPTIMIZERS
from renom_onnx.graph.regularizer import Regularizer
from renom_onnx.utility import initializer
from tests.messages import Cases, message_of

g = rm.graph


def called(layer, shape):
    layer(np.ones(shape))
    return layer


def sequence(*shape):
    return g.GraphElement(Input(np.dtype(np.float32), shape, name="x").output)


def f32(*shape):
    return np.ones(shape, np.float32)


def dense():
    return called(g.Dense(2), (1, 3))


CASES: Cases = {
    "unknown-size": (
        lambda: g.Dense(2)(sequence("N", "F")),
        rm.ShapeError,
        "Dense: every size of w must be known, got w is [F, 2]. Give the input a fixed size there.",
    ),
    "negative-size": (
        lambda: g.Dense(-1)(np.ones((1, 3))),
        rm.ShapeError,
        "Dense: every size of w must be 0 or more, got w is [3, -1].",
    ),
    "initializer": (
        lambda: g.Dense(2, initializer=np.ones((3, 2)))(np.ones((1, 3))),
        rm.ConversionError,
        "Dense: the initializer of w must be one of renom_onnx.utility.initializer or a function, got ndarray.",
    ),
    "sequential-of-classes": (
        lambda: g.Sequential([g.Dense(2), g.Relu]),
        rm.ConversionError,
        "Sequential: layers must be a list of layers, such as [Dense(8), Relu()], got the class Relu.",
    ),
    "sequential-without-list": (
        lambda: g.Sequential(g.Dense(2)),
        rm.ConversionError,
        "Sequential: layers must be a list of layers, such as [Dense(8), Relu()], got Dense.",
    ),
    "labels-of-other-rows": (
        lambda: g.SoftmaxCrossEntropy()(dense()(f32(8, 3)), np.zeros(4, np.int64)).as_ndarray(),
        rm.ShapeError,
        "evaluate: N must be one size in a tree, got 8 in float32[N, 3] and 4 in int64[N]. Give inputs and labels the "
        "same rows.",
    ),
    "labels-of-other-rows-in-a-step": (
        lambda: g.MeanSquared()(dense()(f32(8, 3)), f32(1, 2)).update(),
        rm.ShapeError,
        "evaluate: N must be one size in a tree, got 8 in float32[N, 3] and 1 in float32[N, 2]. Give inputs and labels "
        "the same rows.",
    ),
    "optimizer-class": (
        lambda: dense().last_output().get_training_executor(g.Adam),
        rm.ConversionError,
        f"get_training_executor: an optimizer must be an Optimizer or one of {', '.join(sorted(OPTIMIZERS))}, got "
        f"{g.Adam!r}.",
    ),
    "optimizer-of-an-update": (
        lambda: dense().last_output().update("adam"),
        rm.ConversionError,
        "update: the optimizer must be an Optimizer, which keeps its state from step to step, got 'adam'.",
    ),
    "other-size": (
        lambda: called(g.Dense(2), (1, 3))(np.ones((1, 4))),
        rm.ShapeError,
        "Dense: an input must fit the parameters of the first call, got one that needs w of shape [4, 2], "
        "but w is float32[3, 2]. Use a new Dense for it.",
    ),
    "dense-axes": (
        lambda: g.Dense(2)(np.ones(3)),
        rm.ShapeError,
        "Dense: x must have two axes or more, (N, F), got x is float64[N]. Reshape it first.",
    ),
    "conv-axes": (
        lambda: g.Conv(2)(np.ones((3, 4))),
        rm.ShapeError,
        "Conv: x must have three axes or more, (N, C, *S), got x is float64[N, 4]. Reshape it first.",
    ),
    "max-pool-axes": (
        lambda: g.MaxPool()(np.ones((3, 4))),
        rm.ShapeError,
        "MaxPool: x must have three axes or more, (N, C, *S), got x is float64[N, 4]. Reshape it first.",
    ),
    "conv-groups": (
        lambda: g.Conv(4, groups=2)(np.ones((1, 3, 5))),
        rm.ShapeError,
        "Conv: groups must divide the channels of x and y, got groups 2, 3 channels of x and 4 of y.",
    ),
    "conv-unknown-channels": (
        lambda: g.Conv(4)(sequence("N", "C", 5)),
        rm.ShapeError,
        "Conv: the sizes of axes [1] of x must be known, got x is float32[N, C, 5]. Give the input fixed sizes there.",
    ),
    "conv-kernel": (
        lambda: g.Conv(4, kernel=(3, 3))(np.ones((1, 3, 5))),
        rm.ShapeError,
        "Conv: kernel must be one number or 1, one per spatial axis, got [3, 3].",
    ),
    "max-pool-stride": (
        lambda: g.MaxPool(stride=(1, 2, 3))(np.ones((1, 3, 5, 5))),
        rm.ShapeError,
        "MaxPool: stride must be one number or 2, one per spatial axis, got [1, 2, 3].",
    ),
    "kernel-exceeds-input": (
        lambda: g.Conv(1, kernel=5)(np.ones((1, 1, 2))),
        rm.ShapeError,
        "Conv: every size must be 0 or more, got x is float32[N, 1, 2], w is float32[1, 1, 5], b is float32[1].",
    ),
    # losses
    "reduction": (
        lambda: g.MeanSquared("average"),
        rm.ConversionError,
        "MeanSquared: reduction must be 'mean', 'sum' or None, got 'average'.",
    ),
    "mean-squared-shapes": (
        lambda: g.MeanSquared()(np.ones((2, 3)), np.ones((2, 1))),
        rm.ShapeError,
        "MeanSquared: x and t must have the same shape, got x is float64[N, 3], t is float64[N, 1].",
    ),
    "cross-entropy-shapes": (
        lambda: g.SoftmaxCrossEntropy()(np.ones((2, 3)), np.ones((2, 2))),
        rm.ShapeError,
        "SoftmaxCrossEntropy: t must be class indices (N,) or (N, 1), or probabilities of x's shape (N, K), "
        "got x is float64[N, 3], t is float64[N, 2].",
    ),
    "cross-entropy-types": (
        lambda: g.SoftmaxCrossEntropy()(np.ones((2, 3)), np.ones(2)),
        rm.DTypeError,
        "SoftmaxCrossEntropy: class indices must be integers, got x is float64[N, 3], t is float64[N]. "
        "Convert them with astype('int64'), or give rows of probabilities.",
    ),
    "delta": (
        lambda: g.SmoothL1(0),
        rm.ShapeError,
        "SmoothL1: delta must be positive, got 0.",
    ),
    "clip": (
        lambda: g.ClippedMeanSquared(-1),
        rm.ShapeError,
        "ClippedMeanSquared: clip must be positive, got -1.",
    ),
    "dropout-rate": (
        lambda: g.Dropout(1.0),
        rm.ShapeError,
        "Dropout: the rate must be in [0, 1), got 1.0.",
    ),
}


WITHOUT_LINE: Cases = {
    "base-layer": (
        lambda: g.Layer()(np.ones(1)),
        NotImplementedError,
        "Layer.forward: a layer must define it, got the base class's.",
    ),
    "base-optimizer": (
        lambda: dense().last_output().update(g.Optimizer(0.1)),
        NotImplementedError,
        "Optimizer.fragment: an optimizer must define it, got the base class's.",
    ),
    "base-regularizer": (
        lambda: regularized(Regularizer()).update(g.Sgd(0.1)),
        NotImplementedError,
        "Regularizer.penalty: a regularizer must define it, got the base class's.",
    ),
    "base-schedule": (
        lambda: g.schedule.Schedule()(0),
        NotImplementedError,
        "Schedule: a schedule must define __call__, got the base class's.",
    ),
    "base-initializer": (
        lambda: initializer.Initializer()((1,), np.random.default_rng(0)),
        NotImplementedError,
        "Initializer.draw: an initializer must define it, got the base class's.",
    ),
    "fans": (
        lambda: initializer.HeNormal()((3,), np.random.default_rng(0)),
        rm.ShapeError,
        "HeNormal: a shape must have two axes or more, got [3]. Use Constant for a vector.",
    ),
    "learning-rate": (
        lambda: g.Sgd(-1),
        rm.ConversionError,
        "Sgd: learning_rate must be 0 or more, got -1.",
    ),
    "nan-learning-rate": (
        lambda: g.Adam(float("nan")),
        rm.ConversionError,
        "Adam: learning_rate must be 0 or more, got nan.",
    ),
    "learning-rate-of-no-number": (
        lambda: g.Adam("0.1"),
        rm.ConversionError,
        "Adam: learning_rate must be 0 or more, got '0.1'.",
    ),
    "accumulate": (
        lambda: g.Sgd(0.1, accumulate=0),
        rm.ConversionError,
        "Sgd: accumulate must be 1 or more, got 0.",
    ),
    "loss-scale": (
        lambda: g.Sgd(0.1, loss_scale=2),
        rm.ConversionError,
        "Sgd: loss_scale must be a LossScale or 'dynamic', got 2.",
    ),
    "save-before-a-call": (
        lambda: g.Dense(2).save("nowhere.npz"),
        rm.ConversionError,
        "Dense.save: a layer must have been called, got one without parameters. Call it with data.",
    ),
}


def regularized(regularizer):
    layer = dense()
    layer.set_regularizer(regularizer)
    return layer.last_output()


@pytest.mark.parametrize(("call", "kind", "message"), CASES.values(), ids=CASES)
def test_a_layer_says_the_rule_and_what_was_got_and_names_the_users_line(call, kind, message):
    assert message_of(call, kind) == f"{message} {{created}}"


@pytest.mark.parametrize(("call", "kind", "message"), WITHOUT_LINE.values(), ids=WITHOUT_LINE)
def test_what_concerns_no_element_says_the_rule_and_what_was_got(call, kind, message):
    assert message_of(call, kind) == message


FILES = {
    "damaged": (
        b"no file of numpy",
        rm.ConversionError,
        "Dense.load: the file must be one that save wrote, got w.npz: ",
    ),
    "another-layer": (
        {"b": np.zeros((1, 2), np.float32)},
        rm.ConversionError,
        "Dense.load: the file must hold every parameter, got w.npz without w.",
    ),
    "another-size": (
        {"w": np.zeros((4, 2), np.float32), "b": np.zeros((1, 2), np.float32)},
        rm.ShapeError,
        "load: w must be float32[3, 2], got float32[4, 2]. Load it into the model that wrote it.",
    ),
}


@pytest.mark.parametrize(("content", "kind", "message"), FILES.values(), ids=FILES)
def test_a_file_that_does_not_fit_is_refused_and_nothing_changed(tmp_path, content, kind, message):
    path, layer = tmp_path / "w.npz", dense()
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    before = layer["w"].as_ndarray()
    assert message_of(lambda: layer.load(path), kind).startswith(message)
    np.testing.assert_array_equal(layer["w"].as_ndarray(), before)
