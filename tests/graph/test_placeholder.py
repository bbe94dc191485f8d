"""Placeholders: fed with arrays, numbers and elements, again and again, in values, gradients, training and exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.runtime.evaluation import sessions
from tests.graph.printed import lines, short
from tests.messages import Cases, message_of

g = rm.graph
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 3)).astype(np.float32), RNG.normal(size=(6, 2)).astype(np.float32)


def perceptron() -> Any:
    """Return a model whose weights are the same every time."""
    rm.set_seed(0)
    model = g.Sequential([g.Dense(4, activation="tanh"), g.Dense(2)])
    model(X)
    return model


def test_an_array_is_fed_and_fed_again_with_other_rows():
    x = g.Placeholder((2, 3))
    y = x * 2
    assert y.shape == ("N", 3)
    for rows in (X[:2], X[2:5], X[:0]):
        np.testing.assert_array_equal(y.feed(x, rows).as_ndarray(), rows * 2)


def test_an_array_is_fed_again_with_another_size_where_none_is_known():
    x = rm.graph.Placeholder((None, "T"))
    y = (x * x).sum(1)
    for length in (1, 4, 2):
        assert y.feed(x, np.full((3, length), 2.0)).as_ndarray().tolist() == [4.0 * length] * 3


def test_every_element_made_of_it_sees_the_value():
    x = g.Placeholder((None, 3))
    first = x + 1
    second = first * 2
    second.feed(x, X)
    np.testing.assert_allclose(first.as_ndarray(), X + 1)
    np.testing.assert_allclose((x - first).as_ndarray(), X - (X + 1), atol=1e-6)


def test_a_number_is_one_row_filled_with_it():
    x = g.Placeholder((2, 3))
    np.testing.assert_array_equal((x + 1).feed(x, 4).as_ndarray(), [[5, 5, 5]])
    scalar = g.Placeholder(())
    assert (scalar + 1).feed(scalar, 4).as_ndarray() == 5


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float16, np.float64, np.bool_])
def test_an_array_of_another_type_is_converted(dtype: Any):
    x = g.Placeholder((None, 2))
    y = (x * 1).feed(x, np.ones((1, 2), dtype))
    assert y.as_ndarray().dtype == np.float32


def test_an_element_is_fed_and_its_tree_is_joined():
    x, y = g.Placeholder((None, 3)), g.Placeholder((None, 2), name="target")
    first, second = g.Dense(3), g.Dense(2)
    loss = g.MeanSquared()(second(x), y)
    data = g.StaticVariable(X)
    loss.feed(x, first(data)).feed(y, Y)
    expected = g.MeanSquared()(second(first(data)), Y)
    np.testing.assert_allclose(loss.as_ndarray(), expected.as_ndarray(), rtol=1e-6)
    loss.backward()
    expected.backward()
    for handle in (first.params["w"], first.params["b"], second.params["w"], data):
        found = loss.get_gradient(handle.output).as_ndarray()
        np.testing.assert_allclose(found, expected.get_gradient(handle.output).as_ndarray(), rtol=1e-5, atol=1e-6)


def test_after_another_feed_the_gradients_are_of_the_new_value():
    x = g.Placeholder((None, 3))
    a, b = g.StaticVariable(X), g.StaticVariable(2 * X)
    total = (x * x).sum()
    total.feed(x, a).backward()
    np.testing.assert_allclose(total.get_gradient(a).as_ndarray(), 2 * X, rtol=1e-6)
    total.feed(x, b).backward()
    np.testing.assert_allclose(total.get_gradient(b).as_ndarray(), 4 * X, rtol=1e-6)
    with pytest.raises(rm.GradientError, match="which is none"):
        total.get_gradient(a)


def test_an_element_of_another_type_is_converted_and_gets_its_gradient():
    x = g.Placeholder((None, 3))
    data = g.StaticVariable(X.astype(np.float64))
    total = (x * x).sum().feed(x, data).backward()
    gradient = total.get_gradient(data).as_ndarray()
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, 2 * X, rtol=1e-6)


def test_feeding_arrays_keeps_the_gradients_and_opens_no_session():
    x, y = g.Placeholder((None, 3)), g.Placeholder((None, 2))
    model, same = perceptron(), perceptron()
    loss = g.MeanSquared()(model(x), y)
    optimizers = g.Adam(0.01), g.Adam(0.01)
    for step in range(4):
        rows = slice(step, step + 3)
        loss.feed(x, X[rows]).feed(y, Y[rows]).backward().update(optimizers[0])
        g.MeanSquared()(same(X[rows]), Y[rows]).backward().update(optimizers[1])
        if step == 0:
            opened, held = sessions.opened, loss.output.node.backward_pass
    assert loss.output.node.backward_pass is held
    assert sessions.opened == opened
    for (name, a), (_, b) in zip(model.named_parameters(), same.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.array, b.array, err_msg=name)


def test_the_outputs_of_a_distributor_are_fed():
    x, y = g.Placeholder((None, 3)), g.Placeholder((None, 2))
    model, same = perceptron(), perceptron()
    data = g.DistributorElement(X, Y, batch_size=4, shuffle=False).get_output_graphs()
    loss = g.MeanSquared()(model(x), y).feed(x, data[0])
    loss.feed(y, data[1])
    history = loss.get_training_executor(g.Sgd(0.1), ["cpu"]).execute(3, progress=False)
    plain = g.MeanSquared()(same(data[0]), data[1])
    assert history.losses == plain.get_training_executor(g.Sgd(0.1), ["cpu"]).execute(3, progress=False).losses


def test_depths_are_those_of_the_value():
    x = g.Placeholder((None, 3))
    y = x + 1
    z = y * 2
    assert [e.depth for e in (x, y, z)] == [0, 1, 2]
    y.feed(x, g.StaticVariable(X) * 3)
    assert [e.depth for e in (x, y, z)] == [2, 3, 4]
    y.feed(x, X)
    assert [e.depth for e in (x, y, z)] == [1, 2, 3]


def test_the_tree_is_printed_with_the_placeholder():
    x = g.Placeholder((None, 3))
    y = x + x
    assert short(y) == lines("""
        Placeholder 0
        Add (F) 1
    """)
    y.feed(x, g.StaticVariable(X)).backward()
    assert short(y) == lines("""
        Static Variable 0
        Placeholder 1
        Add (F) 2
        Sum (F) 3
        Constant (B) 4
        Add (B) 5
        Add (B) 5
        Sum (B) 6
        Placeholder (B) 7
    """)


def test_a_value_that_is_no_longer_fed_does_not_reach_the_tree():
    x = g.Placeholder((None, 3))
    old = g.StaticVariable(X)
    y = (x + 1).feed(x, old)
    y.feed(x, X)
    assert short(old) == ["Static Variable 0"]


def test_a_file_has_an_input_of_the_placeholders_name():
    x, y = g.Placeholder((None, 3), name="image"), g.Placeholder((None,), np.int64, name="label")
    model = perceptron()
    loss = g.SoftmaxCrossEntropy()(model(x), y)
    file = rm.converters.to_onnx(loss)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("image", "tensor(float)", ["N", 3])]
    np.testing.assert_allclose(session.run(None, {"image": X})[0], model(X).as_ndarray(), rtol=1e-5, atol=1e-6)
    training = rm.runtime.TrainingSession(rm.converters.to_training_onnx(loss, g.Sgd(0.1)), "cpu")
    losses = [float(training.step({"image": X, "label": np.arange(6) % 2})) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[2]


def test_it_must_be_fed():
    x = g.Placeholder((None, 3), name="x")
    y = x + 1
    message = message_of(lambda: print(y), rm.RunError, line_before=2)
    assert message == "evaluate: every placeholder must be fed, got x (float32[N, 3]) without a value. {created}"


def fed(value: Any, dtype: Any = np.float32) -> Any:
    x = g.Placeholder((None, 3), dtype, name="x")
    return (x + 1).feed(x, value(x) if callable(value) else value)


ERRORS: Cases = {
    "another element": (
        lambda: g.StaticVariable(X).feed(g.StaticVariable(X) + 1, X),
        rm.ConversionError,
        "feed: a Placeholder must be fed, got Add (F). {created}",
    ),
    "no element": (
        lambda: g.StaticVariable(X).feed("x", X),
        rm.ConversionError,
        "feed: a Placeholder must be fed, got str. {created}",
    ),
    "a stranger": (
        lambda: g.StaticVariable(X).feed(g.Placeholder((None, 3), name="x"), X),
        rm.ConversionError,
        "feed: the element must depend on the placeholder, got Static Variable, which does not depend on 'x'. "
        "{created}",
    ),
    "a size": (
        lambda: g.Placeholder((2, -1)),
        rm.ShapeError,
        "Placeholder: a size must be 0 or more, None or a symbol, got [2, -1]. {created}",
    ),
    "no size": (
        lambda: g.Placeholder((2, 0.5)),
        rm.ShapeError,
        "Placeholder: a size must be 0 or more, None or a symbol, got [2, 0.5]. {created}",
    ),
}
FED: Cases = {
    "itself": (
        lambda: fed(lambda x: x * 2),
        rm.ConversionError,
        "feed: the value must not depend on the placeholder, got Mul (F), which depends on 'x'. ",
    ),
    "sizes": (
        lambda: fed(X[:, :2]),
        rm.ShapeError,
        "feed: placeholder 'x' must be given float32[N, 3], got float32[6, 2]. ",
    ),
    "axes": (
        lambda: fed(X[0]),
        rm.ShapeError,
        "feed: placeholder 'x' must be given float32[N, 3], got float32[3]. ",
    ),
    "sizes of an element": (
        lambda: fed(g.StaticVariable(Y)),
        rm.ShapeError,
        "feed: placeholder 'x' must be given float32[N, 3], got float32[6, 2]. ",
    ),
    "type": (
        lambda: fed(X, np.int64),
        rm.DTypeError,
        "feed: placeholder 'x' must be given int64[N, 3], got float32[6, 3]. Convert with .astype(\"int64\"). ",
    ),
    "no numbers": (
        lambda: fed(np.array([["a"]])),
        rm.DTypeError,
        "feed: placeholder 'x' must hold numbers, got <U1. ",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    assert message_of(call, kind) == message


@pytest.mark.parametrize(("call", "kind", "message"), FED.values(), ids=FED)
def test_an_error_of_a_value_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(message + "Created at test_placeholder.py:")
