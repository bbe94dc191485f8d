"""Operations and indexing against NumPy and PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import renom_onnx as rm
from renom_onnx.graph.element import static
from tests.layers.oracle import assert_close, normal

g = rm.graph
A = np.abs(normal(2, 3, 4)) + 0.5

INDICES = {
    "row": 1,
    "last": -1,
    "numpy-integer": np.int64(1),
    "slice": slice(1, None),
    "middle": np.s_[:, 1:3],
    "step": np.s_[:, ::2, 1],
    "reversed": np.s_[..., ::-1],
    "reversed-part": np.s_[0, :, 2:0:-1],
    "ellipsis": np.s_[..., 0],
    "new-axis": np.s_[:, None, 1],
    "only-new-axis": None,
    "array": np.array([2, 0, 0]),
    "list": np.s_[:, [2, 0, 0]],
    "matrix": np.s_[:, np.array([[0, 1], [2, 2]])],
    "everything": Ellipsis,
}


@pytest.mark.parametrize("name", INDICES)
def test_index_gives_what_numpy_gives(name):
    index = INDICES[name]
    a = normal(4, 3) if name == "array" else A
    element = g.StaticVariable(a)
    leaf = torch.tensor(a, requires_grad=True)
    wanted = a[index]
    y = element[index]
    assert_close(y.as_ndarray(), wanted, "value")
    assert y.shape == wanted.shape
    weights = normal(*wanted.shape)
    positions = torch.arange(a.size).reshape(a.shape).numpy()[index].copy()
    (leaf.flatten()[torch.tensor(positions)] * torch.tensor(weights)).sum().backward()
    loss = g.ConstantLoss()(y * weights)
    assert_close(loss.backward().get_gradient(element).as_ndarray(), leaf.grad, "gradient")
    assert_close(g.GetItem(index)(element).as_ndarray(), wanted, "layer")


@given(st.integers(-5, 5) | st.none(), st.integers(-5, 5) | st.none(), st.integers(-3, 3).filter(bool) | st.none())
def test_any_slice_gives_what_numpy_gives(start, stop, step):
    a = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(g.StaticVariable(a)[start:stop:step].as_ndarray(), a[start:stop:step])


def test_index_can_be_an_element_and_keeps_the_batch():
    x = static(A, is_batch=True)
    assert x[:, 0].shape == ("N", 4)
    positions = g.StaticVariable(np.array([1, 1, 0], np.int32))
    np.testing.assert_array_equal(g.StaticVariable(A)[positions].as_ndarray(), A[[1, 1, 0]])


def test_element_is_no_sequence():
    with pytest.raises(TypeError, match="not iterable"):
        iter(g.StaticVariable(A))


def test_errors_of_an_index(message):
    a = g.StaticVariable(np.zeros((2, 3), np.float32))
    end = "Created at test_operator.py:{line}."
    text = f"GetItem: an index must be -3 to 2 on axis 1, got 3 for float32[2, 3]. {end}"
    with message(rm.ShapeError, text):
        a[0, 3]
    text = (
        "GetItem: an index must have at most one part per axis and one Ellipsis, got 3 parts and 0 Ellipses for "
        f"float32[2, 3]. {end}"
    )
    with message(rm.ShapeError, text):
        a[0, 0, 0]
    text = (
        "GetItem: an index must be made of integers, slices, None, Ellipsis and arrays of integers, got an array of "
        f"bool on axis 0 of float32[2, 3]. {end}"
    )
    with message(rm.DTypeError, text):
        a[np.array([True, False])]
    text = (
        "GetItem: an index must hold one array at most, got a second on axis 1 of float32[2, 3]. Index in two steps. "
        f"{end}"
    )
    with message(rm.ShapeError, text):
        a[[0], [0]]
    with message(rm.ShapeError, f"GetItem: the step of a slice must not be 0, got slice(None, None, 0). {end}"):
        a[::0]


FUNCTIONS = {
    "exp": (np.exp, ()),
    "log": (np.log, ()),
    "sqrt": (np.sqrt, ()),
    "square": (np.square, ()),
    "clip": (np.clip, (0.7, 1.2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unary_function_method_and_factory(name):
    function, arguments = FUNCTIONS[name]
    wanted = function(A, *arguments)
    element = g.StaticVariable(A)
    assert_close(getattr(g, name)(A, *arguments).as_ndarray(), wanted, "function")
    assert_close(getattr(element, name)(*arguments).as_ndarray(), wanted, "method")
    assert_close(getattr(g, name.title())(*arguments)(element).as_ndarray(), wanted, "factory")
    leaf = torch.tensor(A, requires_grad=True)
    (leaf.clip(0.7, 1.2) if name == "clip" else getattr(torch, name)(leaf)).sum().backward()
    gradient = getattr(g, name)(element, *arguments).backward().get_gradient(element)
    assert_close(gradient.as_ndarray(), leaf.grad, "gradient")


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("axis", [None, 1, (0, 2)], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reduction_function_method_and_factory(name, axis, keepdims):
    wanted = getattr(np, name)(A, axis=axis, keepdims=keepdims)
    element = g.StaticVariable(A)
    assert_close(getattr(g, name)(A, axis, keepdims).as_ndarray(), wanted, "function")
    assert_close(getattr(element, name)(axis, keepdims).as_ndarray(), wanted, "method")
    assert_close(getattr(g, name.title())(axis, keepdims)(element).as_ndarray(), wanted, "factory")
    leaf = torch.tensor(A, requires_grad=True)
    axes = tuple(range(3)) if axis is None else axis
    getattr(torch, {"max": "amax", "min": "amin"}.get(name, name))(leaf, axes).sum().backward()
    gradient = getattr(g, name)(element, axis, keepdims).backward().get_gradient(element)
    assert_close(gradient.as_ndarray(), leaf.grad, "gradient")


def test_numpy_sum_gives_the_element_back():
    element = g.StaticVariable(A)
    assert np.sum(element, axis=0) is element


def test_binary_factories_keep_the_order_of_their_operands():
    a, b = np.array([2.0, 3.0]), np.array([[4.0], [5.0]])
    for name, wanted in dict(Add=a + b, Sub=a - b, Mul=a * b, Div=a / b, Pow=a**b).items():
        np.testing.assert_allclose(getattr(g, name)()(a, b).as_ndarray(), wanted)


def test_reshape_and_concatenate_factories():
    x = static(A, is_batch=True)
    assert g.Reshape([0, -1])(x).as_ndarray().shape == (2, 12)
    np.testing.assert_array_equal(g.Concatenate(axis=1)(x, x).as_ndarray(), np.concatenate([A, A], 1))
    np.testing.assert_array_equal(g.concatenate([x, x]).as_ndarray(), np.concatenate([A, A]))
