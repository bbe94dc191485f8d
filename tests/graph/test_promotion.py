"""Arithmetic of every pair of types against NumPy: values, types, and what NumPy refuses too."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime.evaluation import evaluate
from tests.messages import message_of

g = rm.graph
TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "lt", "le", "gt", "ge")
}
UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "neg": (operator.neg, operator.neg),
    "abs": (abs, abs),
    "square": (np.square, g.square),
    "sum": (np.sum, g.sum),
    "sum over an axis": (lambda a: np.sum(a, axis=0), lambda a: g.sum(a, axis=0)),
    "mean": (np.mean, g.mean),
    "max": (lambda a: np.max(a, axis=1), lambda a: g.max(a, axis=1)),
    "min": (np.min, g.min),
    "clip": (lambda a: np.clip(a, 0, 1), lambda a: g.clip(a, 0, 1)),
    "clip to fractions": (lambda a: np.clip(a, 0.25, 1.5), lambda a: g.clip(a, 0.25, 1.5)),
}


def array(dtype: str, which: int) -> np.ndarray[Any, Any]:
    """Return small numbers, powers of which no type overflows, and a negative one where the type has it."""
    values = np.array([[[-1, 0], [3, 2]], [[2, 1], [1, 0]]][which])
    return (values if np.dtype(dtype).kind in "if" else abs(values)).astype(dtype)


def by_numpy(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1 / 0
        try:
            return np.asarray(call())
        except TypeError as e:
            return e


def assert_same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], what: str) -> None:
    assert found.dtype == wanted.dtype, what
    np.testing.assert_allclose(found, wanted, rtol=1e-2 if wanted.dtype == np.float16 else 1e-6, err_msg=what)


@pytest.mark.parametrize("b_type", TYPES)
@pytest.mark.parametrize("a_type", TYPES)
def test_binary_arithmetic_is_numpys(a_type: str, b_type: str):
    a, b = array(a_type, 0), array(b_type, 1)
    wanted = {name: by_numpy(lambda f=f: f(a, b)) for name, f in BINARY.items()}
    x, y = g.StaticVariable(a), g.StaticVariable(b)
    made = {}
    for name, f in BINARY.items():
        if isinstance(wanted[name], TypeError):
            with pytest.raises(rm.DTypeError):
                f(x, y)
        else:
            made[name] = f(x, y)
    found = evaluate([element.output for element in made.values()])
    for name, value in zip(made, found, strict=True):
        assert_same(value, wanted[name], name)


@pytest.mark.parametrize("dtype", TYPES)
def test_unary_arithmetic_is_numpys(dtype: str):
    a = array(dtype, 0)
    wanted = {name: by_numpy(lambda f=f: f(a)) for name, (f, _) in UNARY.items()}
    made = {}
    for name, (_, f) in UNARY.items():
        if isinstance(wanted[name], TypeError):
            with pytest.raises(rm.DTypeError):
                f(g.StaticVariable(a))
        else:
            made[name] = f(g.StaticVariable(a))
    found = evaluate([element.output for element in made.values()])
    for name, value in zip(made, found, strict=True):
        assert_same(value, wanted[name], name)


LARGE = {
    name: np.array([[np.iinfo(name).max, np.iinfo(name).min], [np.iinfo(name).max - 1, np.iinfo(name).max // 2]], name)
    for name in TYPES
    if np.dtype(name).kind in "iu"
}


@pytest.mark.parametrize("dtype", LARGE)
def test_the_largest_numbers_wrap_around_as_numpys_do(dtype: str):
    a = LARGE[dtype]
    x = g.StaticVariable(a)
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [a + a, a * a, a @ a, -a, np.max(a), np.min(a, axis=0), np.square(a)]
    made = [x + x, x * x, x @ x, -x, g.max(x), g.min(x, axis=0), g.square(x)]
    if a.itemsize < 8:  # onnxruntime's sum of 64-bit integers is exact up to 2^53 only
        wanted.append(np.sum(a))
        made.append(g.sum(x))
    for value, expected in zip(evaluate([element.output for element in made]), wanted, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def test_comparisons_of_signed_and_unsigned_64_bits_are_exact():
    signed = np.array([-1, 0, 2**62, 2**63 - 1])
    unsigned = np.array([[0], [2**62 + 1], [2**63 - 1], [2**63], [2**64 - 1]], np.uint64)
    x, y = g.StaticVariable(signed), g.StaticVariable(unsigned)
    for f in (operator.lt, operator.le, operator.gt, operator.ge):
        np.testing.assert_array_equal(f(x, y).as_ndarray(), f(signed, unsigned))
        np.testing.assert_array_equal(f(y, x).as_ndarray(), f(unsigned, signed))


def test_booleans_and_numbers_of_python_follow_numpy_too():
    flags = np.array([True, False])
    x = g.StaticVariable(flags)
    for f in (lambda a: a + 1, lambda a: a * 2.5, lambda a: True + a, lambda a: a * True, lambda a: 3 - a):
        assert_same(f(x).as_ndarray(), np.asarray(f(flags)), "flags")


def test_the_gradient_of_a_clip_of_integers_that_becomes_a_number():
    x = g.StaticVariable(np.array([1, 2, 3]))
    assert g.clip(x, 1.5, 2.5).sum().backward().get_gradient(x).as_ndarray().tolist() == [0, 1, 0]


def test_what_numpy_refuses_is_said_in_its_words():
    x = g.StaticVariable(np.array([True]))
    message = message_of(lambda: x - x, rm.DTypeError)
    assert message.startswith("Sub: numpy boolean subtract, the `-` operator, is not supported")
    assert message.endswith("got bool, bool. {created}")
