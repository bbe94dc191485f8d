"""`Tensor`: onnxruntime's memory, with every write checked."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import renom_onnx as rm
from renom_onnx.runtime import Device
from renom_onnx.runtime.tensor import Tensor

CPU = Device("cpu")
DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(arrays)
def test_what_is_written_is_read(array: np.ndarray):
    tensor = Tensor.from_array(array, CPU)
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(tensor.read(), array, strict=True)


@given(arrays.filter(lambda a: a.ndim >= 2), st.randoms())
def test_the_order_and_stride_of_an_array_do_not_matter(array: np.ndarray, random: Any):
    axes = list(range(array.ndim))
    random.shuffle(axes)
    view = array.transpose(axes)[::2, ::-1]
    np.testing.assert_array_equal(Tensor.from_array(view, CPU).read(), view, strict=True)


@pytest.mark.parametrize(
    "array",
    [np.array(3.5, np.float32), np.zeros((0, 3), np.float32), np.zeros((2, 0), np.int64), np.asfortranarray(np.eye(3))],
    ids=["0-d", "no rows", "no columns", "Fortran"],
)
def test_odd_arrays_are_written_and_read(array: np.ndarray):
    tensor = Tensor(array.shape, array.dtype, CPU)
    tensor.write(array)
    np.testing.assert_array_equal(tensor.read(), array, strict=True)


WRONG: dict[str, tuple[np.ndarray, type[rm.RenomError], str]] = {
    "float64 into float32": (
        np.zeros((2, 3)), rm.DTypeError, "dense1.w: an array must be float32, got float64.",
    ),
    "int32 into float32": (
        np.zeros((2, 3), np.int32), rm.DTypeError, "dense1.w: an array must be float32, got int32.",
    ),
    "as many elements in another shape": (
        np.zeros((3, 2), np.float32), rm.ShapeError, "dense1.w: an array must have shape [2, 3], got [3, 2].",
    ),
    "a row that would broadcast": (
        np.zeros((1, 3), np.float32), rm.ShapeError, "dense1.w: an array must have shape [2, 3], got [1, 3].",
    ),
    "a number": (
        np.zeros((), np.float32), rm.ShapeError, "dense1.w: an array must have shape [2, 3], got [].",
    ),
    "too many rows": (
        np.zeros((4, 3), np.float32), rm.ShapeError, "dense1.w: an array must have shape [2, 3], got [4, 3].",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_an_array_that_does_not_fit_is_refused_and_changes_nothing(kind: str):
    array, error_kind, message = WRONG[kind]
    tensor = Tensor.from_array(np.ones((2, 3), np.float32), CPU, "dense1.w")
    with pytest.raises(error_kind) as error:
        tensor.write(array)
    assert str(error.value) == message
    np.testing.assert_array_equal(tensor.read(), np.ones((2, 3), np.float32), strict=True)


def test_the_tensor_keeps_a_copy_of_what_was_written():
    array = np.ones(4, np.float32)
    tensor = Tensor.from_array(array, CPU)
    array[:] = 2
    np.testing.assert_array_equal(tensor.read(), np.ones(4, np.float32))


def test_what_was_read_is_a_copy_that_outlives_the_tensor():
    tensor = Tensor.from_array(np.arange(1000, dtype=np.float32), CPU)
    first = tensor.read()
    tensor.write(np.zeros(1000, np.float32))
    np.testing.assert_array_equal(first, np.arange(1000))
    last = tensor.read()
    del tensor
    gc.collect()
    others = [Tensor.from_array(np.full(1000, i, np.float32), CPU) for i in range(20)]  # take the freed memory
    np.testing.assert_array_equal(first, np.arange(1000))
    np.testing.assert_array_equal(last, np.zeros(1000))
    assert others[3].read()[0] == 3


def test_a_temporary_array_may_go_at_once():
    tensors = [Tensor.from_array(np.full((100, 100), i, np.float32), CPU) for i in range(20)]
    gc.collect()
    for i, tensor in enumerate(tensors):
        np.testing.assert_array_equal(tensor.read(), np.full((100, 100), i, np.float32))
