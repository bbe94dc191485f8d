"""Operators against NumPy: values, shapes and element types, with elements, arrays and numbers on both sides."""

import operator

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import renom_onnx as rm

g = rm.graph

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
# What the operators of ONNX take; NumPy's bool arithmetic and small integer powers are refused (test_errors.py).
NUMBERS = frozenset([*INTEGERS, *FLOATS])
WIDE = frozenset(["int32", "int64", *FLOATS])
UFUNCS = {
    "add": (operator.add, NUMBERS),
    "subtract": (operator.sub, NUMBERS),
    "multiply": (operator.mul, NUMBERS),
    "true_divide": (operator.truediv, NUMBERS),
    "power": (operator.pow, WIDE),
    "less": (operator.lt, NUMBERS),
    "less_equal": (operator.le, NUMBERS),
    "greater": (operator.gt, NUMBERS),
    "greater_equal": (operator.ge, NUMBERS),
}
SIDES = ("element-element", "element-array", "array-element")
SCALARS = [2, 1.5, True, np.float32(0.5), np.int64(3), np.float64(2.5)]
RTOL = {np.dtype("float16"): 2e-3, np.dtype("float32"): 1e-6, np.dtype("float64"): 1e-13}


def filled(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Small numbers from 1 on, quarters where the type has them, so that no power or division leaves its type."""
    numbers = np.random.default_rng(seed).integers(1, 4, shape)
    return numbers.astype(dtype) if np.dtype(dtype).kind != "f" else (numbers / 4 + 0.5).astype(dtype)


def assert_same(element: rm.graph.GraphElement, expected: np.ndarray) -> None:
    expected = np.asarray(expected)
    assert (element.dtype, element.shape) == (expected.dtype, expected.shape), "before evaluation"
    value = element.as_ndarray()
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(value, expected, rtol=RTOL.get(expected.dtype, 0))


def combine(apply, side: str, a: np.ndarray, b: np.ndarray) -> rm.graph.GraphElement:
    left = a if side == "array-element" else g.StaticVariable(a)
    right = b if side == "element-array" else g.StaticVariable(b)
    return apply(left, right)


@pytest.mark.parametrize("name", UFUNCS)
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3),
    dtypes=st.tuples(*[st.sampled_from(["bool", *INTEGERS, *FLOATS])] * 2),
    side=st.sampled_from(SIDES),
    seed=st.integers(0, 99),
)
@settings(max_examples=100)
def test_a_binary_operator_is_numpys(name, shapes, dtypes, side, seed):
    apply, types = UFUNCS[name]
    a, b = (
        filled(dtype, shape, seed + i) for i, (dtype, shape) in enumerate(zip(dtypes, shapes.input_shapes, strict=True))
    )
    try:
        loop = getattr(np, name).resolve_dtypes((a.dtype, b.dtype, None))
    except TypeError:  # bool - bool
        assume(False)
    assume(loop[0] == loop[1])  # NumPy alone compares int64 with uint64 as they are
    assume(loop[0].name in types)
    assert_same(combine(apply, side, a, b), apply(a, b))


@given(
    shapes=hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, min_side=1, max_side=3, max_dims=2),
    dtypes=st.tuples(*[st.sampled_from(["int32", "int64", "uint32", "uint64", *FLOATS])] * 2),
    side=st.sampled_from(SIDES),
    seed=st.integers(0, 99),
)
def test_matmul_is_numpys(shapes, dtypes, side, seed):
    a, b = (
        filled(dtype, shape, seed + i) for i, (dtype, shape) in enumerate(zip(dtypes, shapes.input_shapes, strict=True))
    )
    assert_same(combine(operator.matmul, side, a, b), a @ b)


@pytest.mark.parametrize("is_right", [True, False], ids=["right", "left"])
@pytest.mark.parametrize("name", UFUNCS)
@given(dtype=st.sampled_from(INTEGERS + FLOATS), number=st.sampled_from(SCALARS))
@settings(max_examples=15)
def test_a_number_is_promoted_as_numpy_promotes_it(name, is_right, dtype, number):
    apply, types = UFUNCS[name]
    array = filled(dtype, (3,), 0)
    operands = (array, number) if is_right else (number, array)
    weak = [x.dtype if isinstance(x, np.ndarray | np.generic) else type(x) for x in operands]
    loop = getattr(np, name).resolve_dtypes((*[np.dtype(bool) if t is bool else t for t in weak], None))
    assume(loop[0] == loop[1] and loop[0].name in types)
    elements = [g.StaticVariable(x) if x is array else x for x in operands]
    assert_same(apply(*elements), apply(*operands))


UNARY = {
    "neg": (operator.neg, (*INTEGERS[:4], *FLOATS)),
    "pos": (operator.pos, (*INTEGERS, *FLOATS)),
    "abs": (abs, (*INTEGERS, *FLOATS)),
}


@pytest.mark.parametrize(("apply", "dtype"), [(f, d) for f, ds in UNARY.values() for d in ds],
                         ids=[f"{n}-{d}" for n, (_, ds) in UNARY.items() for d in ds])  # fmt: skip
def test_a_unary_operator_is_numpys(apply, dtype):
    array = np.array([[0, 1, 2]], dtype) if dtype.startswith("u") else np.array([[-2, 0, 3]], dtype)
    assert_same(apply(g.StaticVariable(array)), apply(array))


FUNCTIONS = {name: (getattr(g, name), getattr(np, name)) for name in ("exp", "log", "sqrt", "tanh", "square")}


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize(("ours", "numpys"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_is_numpys(ours, numpys, dtype):
    array = np.array([1, 2, 3], dtype)
    assert_same(ours(g.StaticVariable(array)), numpys(array))


AXES = [None, 0, -1, (0, 2), (), np.int64(1)]


@pytest.mark.parametrize("keepdims", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "int64", *FLOATS])
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_a_reduction_is_numpys(name, dtype, axis, keepdims):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    expected = getattr(array, name)(axis=axis, keepdims=keepdims)
    assert_same(getattr(g.StaticVariable(array), name)(axis, keepdims), expected)
    assert_same(getattr(g, name)(array, axis=axis, keepdims=keepdims), expected)


SHAPING = {
    "reshape-numbers": (lambda x: x.reshape(4, 6), lambda x: x.reshape(4, 6)),
    "reshape-tuple": (lambda x: x.reshape((-1, 2)), lambda x: x.reshape(-1, 2)),
    "reshape-flat": (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
    "reshape-zero-keeps": (lambda x: g.reshape(x, [0, -1]), lambda x: x.reshape(2, -1)),
    "transpose": (g.transpose, np.transpose),
    "transpose-axes": (lambda x: g.transpose(x, (1, 2, 0)), lambda x: np.transpose(x, (1, 2, 0))),
    "concatenate": (lambda x: g.concatenate([x, x * 2.5], axis=1), lambda x: np.concatenate([x, x * 2.5], axis=1)),
}


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize(("ours", "numpys"), SHAPING.values(), ids=SHAPING)
def test_a_change_of_shape_is_numpys(ours, numpys, dtype):
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    assert_same(ours(g.StaticVariable(array)), numpys(array))


ACTIVATIONS = {
    "sigmoid": (g.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softmax-last": (g.softmax, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "softmax-first": (lambda x: g.softmax(x, axis=0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    "relu": (g.relu, lambda x: np.maximum(x, 0)),
    "stop-gradient": (g.stop_gradient, lambda x: x),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("ours", "formula"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_is_its_formula(ours, formula, dtype):
    array = np.array([[-1.5, 0, 2], [0.5, -3, 1]], dtype)
    np.testing.assert_allclose(ours(g.StaticVariable(array)).as_ndarray(), formula(array), rtol=1e-6)


# What an element is not


NUMPY_CALLS = {
    "asarray": np.asarray,
    "array": lambda e: np.array([e, e]),
    "mean": np.mean,
    "concatenate": lambda e: np.concatenate([e, e]),
    "sum-of-a-list": lambda e: np.sum([e]),
    "float64": np.float64,
}


@pytest.mark.parametrize("call", NUMPY_CALLS.values(), ids=NUMPY_CALLS)
def test_numpy_functions_name_as_ndarray(call):
    with pytest.raises(TypeError, match=r"Use \.as_ndarray\(\) for its value"):
        call(g.StaticVariable(np.ones(2)))


PYTHON_CALLS = {
    "ufunc": np.exp,
    "binary-ufunc": lambda e: np.add(np.ones(2), e),
    "in-place": lambda e: operator.iadd(np.ones(2), e),
    "bool": bool,
    "float": float,
    "len": len,
    "iter": list,
    "floor-division": lambda e: e // 2,
    "remainder": lambda e: 7 % e,
    "list": lambda e: e * [1, 2],
    "string": lambda e: "a" * e,
    "complex": lambda e: e * 1j,
    "none": lambda e: None - e,
}


@pytest.mark.parametrize("call", PYTHON_CALLS.values(), ids=PYTHON_CALLS)
def test_what_is_not_defined_is_a_type_error(call):
    with pytest.raises(TypeError):
        call(g.StaticVariable(np.ones(2)))


def test_np_sum_gives_the_element_back():
    element = g.StaticVariable(np.array([[1.0, 2.0]]))
    assert np.sum(element) is element
    assert np.sum(element, axis=0) is element


def test_an_element_is_hashable_and_equal_to_itself_alone():
    a, b = g.StaticVariable(np.ones(1)), g.StaticVariable(np.ones(1))
    assert len({a, b, a}) == 2
    assert a == a and a != b  # noqa: PLR0124  (that is the question)


def test_repr_and_str_are_the_bare_array():
    array = np.array([[1.5, 2], [3, 4]])
    assert repr(g.StaticVariable(array)) == str(g.StaticVariable(array)) == str(array)


def test_as_ndarray_is_a_new_array_every_time():
    array = np.ones(2)
    element = g.StaticVariable(array)
    element.as_ndarray()[:] = 7
    np.testing.assert_array_equal(element.as_ndarray(), array)


ARRAYS = {
    "list": ([1, 2], np.array([1, 2])),
    "number": (2.5, np.array(2.5)),
    "bool": (True, np.array(True)),
    "column-major": (np.asfortranarray(np.arange(6.0).reshape(2, 3)),) * 2,
    "view": (np.arange(6)[::2],) * 2,
    "big-endian": (np.array([1.5, 2], ">f4"), np.array([1.5, 2], np.float32)),
}


@pytest.mark.parametrize(("given_array", "expected"), ARRAYS.values(), ids=ARRAYS)
def test_a_static_variable_keeps_value_shape_and_type(given_array, expected):
    element = g.StaticVariable(given_array)
    assert_same(element, expected)
    np.testing.assert_array_equal((element * 1).as_ndarray(), expected * 1)
