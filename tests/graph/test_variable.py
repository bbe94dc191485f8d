"""Leaves that are assigned to: static variables and parameters, in values, gradients and executors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from tests.messages import Cases, message_of

g = rm.graph
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_elements_made_before_see_the_new_value():
    x = g.StaticVariable(np.array([1, 2]))
    y, z = x * 2, x + 1
    x.value = np.array([3, 4])
    assert y.as_ndarray().tolist() == [6, 8]
    assert (y + z).as_ndarray().tolist() == [10, 13]
    assert y.as_ndarray().dtype == np.int64


def test_the_value_is_a_copy():
    array = np.array([1, 2])
    x = g.StaticVariable(array)
    x.value[0] = 5
    assert x.value.tolist() == [1, 2]


def test_the_gradient_is_that_at_the_new_value():
    x = g.StaticVariable(np.array([1.0, 2.0]))
    y = (x * x).sum().backward()
    x.value = [3, 4]
    assert y.get_gradient(x).as_ndarray().tolist() == [6, 8]


def test_an_executor_reads_the_value_of_the_epoch():
    x, dense = g.StaticVariable(X), g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    executor = g.ConstantLoss()(dense(x)).get_inference_executor(device="cpu")
    first = executor.execute(progress=False).losses
    x.value = X * 2
    second = executor.execute(progress=False).losses
    assert (first, second) == ([15.0], [30.0])


def test_a_parameter_is_set_and_keeps_its_type():
    dense = g.Dense(1, bias=False)
    y = dense(X)
    dense["w"].set_value([[1], [2], [3]])
    assert y.as_ndarray().tolist() == [[8], [26]]
    assert dense["w"].as_ndarray().dtype == np.float32


def test_a_training_executor_goes_on_from_a_parameter_that_was_set():
    dense = g.Dense(1, bias=False)
    executor = g.ConstantLoss()(dense(X)).get_training_executor(g.Sgd(0.1), ["cpu"])
    executor.execute(progress=False)
    dense["w"].set_value(np.zeros((3, 1)))
    assert executor.execute(progress=False).losses[-1] == 0
    np.testing.assert_allclose(dense["w"].as_ndarray(), -0.1 * X.sum(0)[:, None], rtol=1e-6)


def test_the_settings_of_one_parameter():
    dense = g.Dense(1)
    dense(X)
    dense["w"].set_optimizer("adam")
    dense["w"].set_weight_decay(0.5)
    dense["b"].allow_update(False)
    w, b = dense.parameters()
    assert (type(w.optimizer), w.regularizer.weight_decay, w.trainable) == (g.Adam, 0.5, True)
    assert (b.optimizer, b.regularizer, b.trainable) == (None, None, False)


def set_to(value: Any) -> None:
    g.StaticVariable(np.array([1, 2])).value = value


def parameter() -> Any:
    dense = g.Dense(1)
    dense(X)
    return dense["w"]


ERRORS: Cases = {
    "parameter": (
        lambda: parameter().set_value([1, 2]),
        rm.ShapeError,
        "Variable.set_value: w must be float32[3, 1], got int64[2]. {created}",
    ),
    "parameter of words": (
        lambda: parameter().set_value("w"),
        rm.DTypeError,
        "Variable.set_value: w must hold numbers, got <U1. {created}",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    assert message_of(call, kind) == message


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ([1], rm.ShapeError, "StaticVariable.value: the array must be int64[2], got int64[1]. "),
        (
            [1.5, 2.5],
            rm.DTypeError,
            'StaticVariable.value: the array must be int64[2], got float64[2]. Convert with .astype("int64"). ',
        ),
    ],
    ids=["shape", "type"],
)
def test_a_value_must_fit(value: Any, kind: Any, message: str):
    with pytest.raises(kind) as raised:
        set_to(value)
    assert str(raised.value).startswith(message + "Created at test_variable.py:")
