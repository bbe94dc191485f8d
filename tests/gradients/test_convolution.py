"""Gradients of Conv and ConvTranspose, equal to PyTorch's in float64: on whole numbers float32 is exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from hypothesis import given, strategies as st
from onnx import TensorProto, helper

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from tests.gradients.session import Session
from tests.gradients.window_case import (
    Array,
    assert_gradients,
    in_float64,
    integers,
    one_node,
    operators_of_gradient,
    pad,
    same_pads,
    split,
)

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
SIZES = [pytest.param(False, id="numbers"), pytest.param(True, id="symbols")]
SAME = ["SAME_UPPER", "SAME_LOWER"]


@dataclass(frozen=True)
class Shape:
    """Of one convolution: channels C and M, pixels, kernel and where its windows lie."""

    channels: tuple[int, int]
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1
    output_padding: tuple[int, ...] = ()
    n: int = 2

    def __post_init__(self) -> None:
        ones = (1,) * len(self.size)
        object.__setattr__(self, "strides", self.strides or ones)
        object.__setattr__(self, "dilations", self.dilations or ones)
        object.__setattr__(self, "pads", self.pads or (0,) * 2 * len(self.size))

    @property
    def attributes(self) -> dict[str, Any]:
        given = dict(strides=self.strides, dilations=self.dilations, pads=self.pads, group=self.group)
        return {**given, "output_padding": self.output_padding or None}

    def feeds(self, *, is_transposed: bool = False, has_bias: bool = True) -> dict[str, Array]:
        rng = np.random.default_rng(0)
        C, M = self.channels
        w = (C, M // self.group) if is_transposed else (M, C // self.group)
        feeds = {"x": integers(rng, self.n, C, *self.size), "w": integers(rng, *w, *self.kernel)}
        return {**feeds, "b": integers(rng, M)} if has_bias else feeds

    def __str__(self) -> str:
        def text(numbers: tuple[int, ...]) -> str:
            return "x".join(map(str, numbers))

        C, M = self.channels
        parts = [f"{len(self.size)}d", f"{C}to{M}", f"size{text(self.size)}", f"kernel{text(self.kernel)}"]
        for name in ("strides", "dilations", "pads", "output_padding"):
            if set(numbers := getattr(self, name)) - {name in ("strides", "dilations")}:
                parts.append(f"{name}{text(numbers)}")
        for name, usual in (("group", 1), ("n", 2)):
            if getattr(self, name) != usual:
                parts.append(f"{name}{getattr(self, name)}")
        return "-".join(parts)


def convolve(shape: Shape, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    conv = CONV[len(shape.size)]
    return conv(pad(x, shape.pads), w, b, shape.strides, dilation=shape.dilations, groups=shape.group)


def convolve_transposed(shape: Shape, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    whole = CONV_TRANSPOSE[len(shape.size)](x, w, None, shape.strides, groups=shape.group, dilation=shape.dilations)
    rank = len(shape.size)
    ends = np.subtract(shape.output_padding or (0,) * rank, shape.pads[rank:])
    y = pad(whole, [*(-n for n in shape.pads[:rank]), *ends])
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def check_conv(shape: Shape, *, has_symbols: bool = False, opset: int = 18) -> None:
    feeds = shape.feeds()
    operands = in_float64(feeds)
    model = one_node("Conv", feeds, has_symbols=has_symbols, opset=opset, **shape.attributes)
    assert_gradients(model, feeds, convolve(shape, *operands), operands)


def check_conv_transpose(shape: Shape, *, has_symbols: bool = False, opset: int = 18) -> None:
    feeds = shape.feeds(is_transposed=True)
    operands = in_float64(feeds)
    model = one_node("ConvTranspose", feeds, has_symbols=has_symbols, opset=opset, **shape.attributes)
    assert_gradients(model, feeds, convolve_transposed(shape, *operands), operands)


SHAPES = [
    Shape((3, 4), (7,), (3,), (2,), (2,), (1, 2)),
    Shape((6, 6), (9,), (5,), (3,), pads=(0, 4), group=6),
    Shape((1, 4), (9, 8), (5, 5)),
    Shape((3, 4), (9, 8), (3, 3), (1, 1), pads=(1, 1, 1, 1)),
    Shape((6, 4), (9, 8), (3, 2), (2, 3), (2, 1), (1, 0, 2, 1)),
    Shape((6, 4), (9, 8), (1, 1)),
    Shape((6, 4), (9, 8), (1, 1), (2, 3)),
    Shape((6, 4), (9, 8), (1, 1), (2, 2), pads=(1, 1, 1, 1)),
    Shape((6, 4), (10, 11), (2, 2), (3, 3)),
    Shape((6, 4), (5, 5), (5, 5), pads=(4, 4, 4, 4)),
    Shape((6, 4), (4, 4), (2, 2), pads=(3, 3, 3, 3)),
    Shape((12, 8), (9, 8), (3, 4), (1, 2), (2, 1), (1, 1, 0, 0), group=2),
    Shape((4, 8), (9, 8), (3, 3), (2, 1), pads=(1, 1, 1, 1), group=4),
    Shape((4, 4), (9, 8), (3, 3), (1, 2), (2, 1), (2, 1, 2, 1), group=4),
    Shape((4, 4), (9, 8), (1, 1), (2, 2), group=4),
    Shape((3, 3), (2, 40), (1, 2), pads=(0, 1, 0, 0), group=3),
    Shape((5, 2), (5, 6, 7), (2, 1, 3), (1, 2, 3), (2, 1, 1), (1, 0, 0, 1, 0, 2)),
    Shape((2, 2), (5, 6, 7), (2, 2, 3), group=2),
]


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv(shape: Shape, has_symbols: bool):
    check_conv(shape, has_symbols=has_symbols)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize(
    "shape",
    [
        Shape((3, 4), (7,), (3,), (2,), (2,), (1, 2), output_padding=(1,)),
        Shape((4, 3), (5, 4), (3, 3), pads=(1, 1, 1, 1)),
        Shape((4, 6), (5, 4), (3, 2), (2, 3), (1, 2), (1, 0, 0, 1)),
        Shape((4, 6), (5, 4), (3, 2), (2, 3), pads=(0, 1, 0, 0), output_padding=(1, 2)),
        Shape((4, 6), (5, 4), (3, 3), (2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1)),
        Shape((4, 6), (5, 4), (1, 1), (3, 3), output_padding=(2, 2)),
        Shape((4, 6), (5, 4), (2, 3), (2, 2), group=2, output_padding=(0, 1)),
        Shape((4, 4), (5, 4), (3, 3), (2, 2), pads=(1, 1, 1, 1), group=4, output_padding=(1, 1)),
        Shape((4, 8), (5, 4), (3, 3), pads=(1, 1, 1, 1), group=4),
        Shape((2, 5), (3, 4, 2), (2, 3, 2), (2, 1, 2), pads=(0, 1, 0, 0, 1, 1), output_padding=(1, 0, 0)),
    ],
    ids=str,
)
def test_conv_transpose(shape: Shape, has_symbols: bool):
    check_conv_transpose(shape, has_symbols=has_symbols)


@pytest.mark.parametrize("shape", SHAPES[::3], ids=str)
def test_the_newest_opset(shape: Shape):
    check_conv(shape, opset=onnx.defs.onnx_opset_version(), has_symbols=True)
    check_conv(shape, opset=onnx.defs.onnx_opset_version())


@st.composite
def shapes(draw: st.DrawFn, *, is_transposed: bool) -> Shape:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    group = draw(st.sampled_from([1, 1, 2, 3]))
    C, M = (group * draw(st.sampled_from([1, 2, 5])) for _ in "CM")
    kernel, strides, dilations = each(1, 4), each(1, 3), each(1, 2)
    size = each(1, 4) if is_transposed else each(7, 9)
    pads = (*each(0, 2), *each(0, 2))
    if is_transposed:  # leave at least one pixel
        room = [(n - 1) * s + (k - 1) * d for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)]
        pads = tuple(min(p, room[i % rank] // 2) for i, p in enumerate(pads))
        extra = tuple(min(e, s - 1) for e, s in zip(each(0, 2), strides, strict=True))
        return Shape((C, M), size, kernel, strides, dilations, pads, group, extra)
    return Shape((C, M), size, kernel, strides, dilations, pads, group)


@given(shape=shapes(is_transposed=False), has_symbols=st.booleans())
def test_any_conv(shape: Shape, has_symbols: bool):
    check_conv(shape, has_symbols=has_symbols)


@given(shape=shapes(is_transposed=True), has_symbols=st.booleans())
def test_any_conv_transpose(shape: Shape, has_symbols: bool):
    check_conv_transpose(shape, has_symbols=has_symbols)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("auto_pad", SAME)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2), (2, 1)], ids=str)
def test_conv_auto_pad(kernel: tuple[int, ...], strides: tuple[int, ...], auto_pad: str, has_symbols: bool):
    pads = tuple(same_pads((8, 7), kernel, strides, auto_pad))
    shape = Shape((5, 2), (8, 7), kernel, strides, pads=pads)
    feeds = shape.feeds()
    operands = in_float64(feeds)
    model = one_node("Conv", feeds, has_symbols=has_symbols, strides=strides, auto_pad=auto_pad)
    assert_gradients(model, feeds, convolve(shape, *operands), operands)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("auto_pad", SAME)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)], ids=str)
def test_conv_transpose_auto_pad(strides: tuple[int, ...], auto_pad: str, has_symbols: bool):
    totals = [k - s for k, s in zip((3, 4), strides, strict=True)]
    shape = Shape((5, 2), (4, 3), (3, 4), strides, pads=tuple(split(totals, auto_pad)))
    feeds = shape.feeds(is_transposed=True)
    operands = in_float64(feeds)
    model = one_node("ConvTranspose", feeds, has_symbols=has_symbols, strides=strides, auto_pad=auto_pad)
    assert_gradients(model, feeds, convolve_transposed(shape, *operands), operands)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("auto_pad", ["NOTSET", *SAME])
def test_conv_transpose_output_shape(auto_pad: str, has_symbols: bool):
    # of 2 * 3 + 4 = 10 by 2 * 2 + 4 = 8 pixels, 3 and 2 are padding
    shape = Shape((5, 2), (4, 3), (4, 4), (2, 2), pads=tuple(split([3, 2], auto_pad)))
    feeds = shape.feeds(is_transposed=True)
    operands = in_float64(feeds)
    model = one_node(
        "ConvTranspose", feeds, has_symbols=has_symbols, strides=[2, 2], auto_pad=auto_pad, output_shape=[7, 6]
    )
    assert_gradients(model, feeds, convolve_transposed(shape, *operands), operands)


def test_valid_is_no_padding():
    shape = Shape((5, 2), (8, 7), (3, 3), (2, 2))
    feeds = shape.feeds(has_bias=False)
    operands = in_float64(feeds)
    model = one_node("Conv", feeds, strides=[2, 2], auto_pad="VALID")
    assert_gradients(model, feeds, convolve(shape, *operands), operands)


GATHERED = ["Pad", "Transpose", "Add", "Mul", "Add", "Add", "Gather", "MatMul", "ReduceSum", "Transpose"]
SLICED = ["Concat", "Transpose", "MatMul", "ReduceSum"]


@pytest.mark.parametrize(
    ("shape", "dx", "dw"),
    [
        (Shape((32, 32), (6, 6), (3, 3), pads=(1, 1, 1, 1)), ["Slice", "Transpose", "Conv"], GATHERED),
        (Shape((32, 32), (6, 6), (1, 1)), ["Transpose", "Conv"], ["Transpose", "MatMul", "ReduceSum"]),
        (Shape((32, 32), (6, 6), (3, 3)), ["ConvTranspose"], GATHERED[1:]),
        (Shape((32, 32), (6, 6), (3, 3), (2, 2), pads=(1, 1, 1, 1)), ["ConvTranspose"], GATHERED),
        (Shape((32, 32), (6, 6), (1, 1), (2, 2)), ["ConvTranspose"], ["Slice", "Transpose", "MatMul", "ReduceSum"]),
        (Shape((3, 32), (6, 6), (2, 2)), ["ConvTranspose"], ["Slice"] * 4 + SLICED),
        (Shape((8, 8), (6, 6), (3, 3), pads=(1, 1, 1, 1), group=8), ["Slice", "Conv"], "by rows"),
        (Shape((8, 8), (6, 40), (1, 2), pads=(0, 1, 0, 1), group=8), ["Slice", "Conv"], "by taps"),
    ],
    ids=str,
)
def test_the_form_that_is_fastest_is_chosen(shape: Shape, dx: list[str], dw: list[str] | str):
    model = one_node("Conv", shape.feeds(has_bias=False), **shape.attributes)
    assert operators_of_gradient(model, "x") == dx
    operators = operators_of_gradient(model, "w")
    if dw == "by rows":
        assert operators.count("MatMul") == shape.kernel[0]
    elif dw == "by taps":
        assert operators.count("Mul") == np.prod(shape.kernel)
    else:
        assert operators == dw
    check_conv(shape)


def test_symbols_need_no_other_gradient_of_the_image():
    model = one_node("Conv", SHAPES[4].feeds(has_bias=False), has_symbols=True, **SHAPES[4].attributes)
    assert operators_of_gradient(model, "x") == ["ConvTranspose", "Slice"]


@pytest.mark.parametrize(
    "shape",
    [SHAPES[3], SHAPES[4], SHAPES[11], SHAPES[13], Shape((8, 4), (34, 33), (3, 3), pads=(1,) * 4, n=3)],
    ids=str,
)
def test_the_gradient_has_a_gradient(shape: Shape):
    feeds = shape.feeds(has_bias=False)
    x, w = in_float64(feeds)
    y = convolve(shape, x, w)
    rng = np.random.default_rng(2)
    dy = torch.tensor(integers(rng, *y.shape), dtype=torch.float64, requires_grad=True)
    dx, dw = torch.autograd.grad(y, (x, w), dy, create_graph=True)
    cotangents = [integers(rng, *v.shape) for v in (y, dx, dw)]
    wanted = torch.autograd.grad((y, dx, dw), (x, w, dy), [torch.tensor(u, dtype=torch.float64) for u in cotangents])
    second = vjp(vjp(one_node("Conv", feeds, **shape.attributes)))
    names = [i.name for i in second.graph.input]
    arrays = [*feeds.values(), dy.detach().numpy(), *cotangents]
    got = Session(second)(dict(zip(names, arrays, strict=True)))
    for want, name in zip(wanted, list(got)[3:], strict=True):
        np.testing.assert_array_equal(got[name], want, err_msg=name)


@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[4], SHAPES[13]], ids=str)
def test_an_empty_batch_has_no_gradient_of_the_kernel(shape: Shape):
    feeds = shape.feeds()
    y = convolve(shape, *in_float64(feeds))
    empty = {**feeds, "x": feeds["x"][:0], "y_grad": np.zeros((0, *y.shape[1:]), "f")}
    got = Session(vjp(one_node("Conv", feeds, **shape.attributes)))(empty)
    assert got["x_grad"].shape == (0, *feeds["x"].shape[1:])
    assert not got["w_grad"].any() and not got["b_grad"].any()


def test_an_image_of_unknown_rank():
    shape = replace(SHAPES[4])
    feeds = shape.feeds()
    operands = in_float64(feeds)
    model = one_node("Conv", feeds, **shape.attributes)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert_gradients(model, feeds, convolve(shape, *operands), operands)


def test_a_kernel_of_unknown_size_is_refused():
    model = one_node("Conv", SHAPES[4].feeds(has_bias=False))
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, ["M", 6, 3, 3]))
    with pytest.raises(GradientError) as error:
        vjp(model)
    assert str(error.value) == (
        "Conv: the gradient must know the sizes of w, got w is float32[M, 6, 3, 3]. "
        "Give w a shape of numbers in the model."
    )
