"""Gradients of pooling against PyTorch's in float64; exact for maxima of whole numbers, which are full of ties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from hypothesis import assume, given, strategies as st

from renom_onnx.converters import vjp
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
    window_counts,
    windows,
)

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
NEWEST_OPSET = onnx.defs.onnx_opset_version()
TOLERANCE = dict(rtol=1e-5, atol=1e-5)
SIZES = [pytest.param(False, id="numbers"), pytest.param(True, id="symbols")]
SAME = ["SAME_UPPER", "SAME_LOWER"]


@dataclass(frozen=True)
class Pool:
    """Where the windows of a pooling lie."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    ceil_mode: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", self.dilations or (1,) * len(self.size))
        object.__setattr__(self, "pads", self.pads or (0,) * 2 * len(self.size))

    @property
    def attributes(self) -> dict[str, Any]:
        names = ("strides", "dilations", "pads", "ceil_mode")
        return {"kernel_shape": self.kernel, **{name: getattr(self, name) for name in names}}

    @property
    def counts(self) -> list[int]:
        return window_counts(self.size, self.kernel, self.strides, self.dilations, self.pads, self.ceil_mode)

    @property
    def opset(self) -> int:
        """18, or the newest where ONNX's inference before opset 22 counts a window that starts in the padding."""
        room = [n + sum(self.pads[i :: len(self.size)]) - 1 for i, n in enumerate(self.size)]
        extents = [(k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True)]
        starts = [math.ceil((r - e) / s) * s for r, e, s in zip(room, extents, self.strides, strict=True)]
        is_outside = any(start >= n + begin for start, n, begin in zip(starts, self.size, self.pads, strict=False))
        return NEWEST_OPSET if self.ceil_mode and is_outside else 18

    def feeds(self, *, has_ties: bool = True) -> dict[str, Array]:
        rng = np.random.default_rng(0)
        shape = (2, 3, *self.size)
        return {"x": integers(rng, *shape) if has_ties else rng.standard_normal(shape).astype(np.float32)}

    def windows(self, x: torch.Tensor, pads: Any = None) -> torch.Tensor:
        return windows(x, self.counts, self.kernel, self.strides, self.dilations, self.pads if pads is None else pads)

    def __str__(self) -> str:
        def text(numbers: tuple[int, ...]) -> str:
            return "x".join(map(str, numbers))

        parts = [f"{len(self.size)}d-size{text(self.size)}-kernel{text(self.kernel)}-strides{text(self.strides)}"]
        parts += [f"dilations{text(self.dilations)}"] if set(self.dilations) != {1} else []
        parts += [f"pads{text(self.pads)}"] if any(self.pads) else []
        return "-".join([*parts, "ceil"] if self.ceil_mode else parts)


def max_pool(pool: Pool, x: torch.Tensor) -> torch.Tensor:
    """PyTorch's max_pool of the padded image, whose windows beyond ONNX's are left out."""
    whole = MAX_POOL[len(pool.size)](
        pad(x, pool.pads, -math.inf), pool.kernel, pool.strides, 0, pool.dilations, bool(pool.ceil_mode)
    )
    return whole[(slice(None), slice(None), *map(slice, pool.counts))]


def average_pool(pool: Pool, x: torch.Tensor, count_include_pad: int) -> torch.Tensor:
    if count_include_pad:
        ones = pad(torch.ones_like(x), pool.pads, 1.0)
        count = pool.windows(ones, pads=[0] * len(pool.pads)).sum(-1)
    else:
        count = pool.windows(torch.ones_like(x)).sum(-1)
    return pool.windows(x).sum(-1) / count


def check_max_pool(pool: Pool, *, has_symbols: bool = False) -> None:
    feeds = pool.feeds()
    operands = in_float64(feeds)
    model = one_node("MaxPool", feeds, has_symbols=has_symbols, opset=pool.opset, **pool.attributes)
    assert_gradients(model, feeds, max_pool(pool, *operands), operands)


def check_average_pool(pool: Pool, count_include_pad: int, *, has_symbols: bool = False) -> None:
    feeds = pool.feeds()
    operands = in_float64(feeds)
    opset = pool.opset if set(pool.dilations) == {1} else NEWEST_OPSET  # 18 has no dilations
    attributes = {**pool.attributes, "dilations": pool.dilations if opset > 18 else None}
    model = one_node(
        "AveragePool", feeds, has_symbols=has_symbols, opset=opset, count_include_pad=count_include_pad, **attributes
    )
    assert_gradients(model, feeds, average_pool(pool, *operands, count_include_pad), operands, **TOLERANCE)


def check_lp_pool(pool: Pool, p: int, *, has_symbols: bool = False) -> None:
    feeds = pool.feeds(has_ties=False)
    operands = in_float64(feeds)
    model = one_node("LpPool", feeds, has_symbols=has_symbols, opset=pool.opset, p=p, **pool.attributes)
    y = (pool.windows(operands[0]).abs() ** p).sum(-1) ** (1 / p)
    assert_gradients(model, feeds, y, operands, **TOLERANCE)


DISJOINT = [
    Pool((8,), (2,), (2,)),
    Pool((9, 8), (2, 2), (2, 2)),
    Pool((9, 8), (2, 1), (3, 4)),
    Pool((9, 8), (2, 3), (3, 5), dilations=(2, 2)),
    Pool((9, 8), (3, 2), (3, 2), pads=(1, 1, 1, 0)),
    Pool((9, 7), (2, 2), (2, 2), ceil_mode=1),
    Pool((4, 9), (3, 2), (5, 2), pads=(2, 0, 2, 0)),
    Pool((4, 6, 5), (2, 3, 2), (2, 3, 2)),
]
OVERLAPPING = [
    Pool((9,), (3,), (1,), pads=(1, 1)),
    Pool((9, 8), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    Pool((9, 8), (3, 3), (1, 1), pads=(1, 1, 1, 1)),
    Pool((9, 8), (3, 2), (2, 1), dilations=(1, 2), pads=(0, 1, 2, 0)),
    Pool((10, 9), (3, 3), (2, 2), ceil_mode=1),
    Pool((10, 9), (4, 3), (3, 2), pads=(1, 1, 0, 1), ceil_mode=1),
    Pool((5, 6, 7), (2, 3, 3), (1, 2, 2), pads=(0, 1, 0, 1, 1, 1)),
]
POOLS = DISJOINT + OVERLAPPING


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool(pool: Pool, has_symbols: bool):
    check_max_pool(pool, has_symbols=has_symbols)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_average_pool(pool: Pool, count_include_pad: int, has_symbols: bool):
    check_average_pool(pool, count_include_pad, has_symbols=has_symbols)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("pool", POOLS[::3], ids=str)
def test_lp_pool(pool: Pool, p: int, has_symbols: bool):
    check_lp_pool(pool, p, has_symbols=has_symbols)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel = each(1, 4)
    strides = kernel if draw(st.booleans()) else each(1, 4)
    pads = tuple(min(n, kernel[i % rank] - 1, 1) for i, n in enumerate((*each(0, 1), *each(0, 1))))
    pool = Pool(each(7, 11), kernel, strides, each(1, 2), pads, draw(st.integers(0, 1)))
    assume(min(pool.counts) > 0)
    return pool


@given(pool=pools(), has_symbols=st.booleans())
def test_any_max_pool(pool: Pool, has_symbols: bool):
    check_max_pool(pool, has_symbols=has_symbols)


@given(pool=pools(), count_include_pad=st.integers(0, 1), has_symbols=st.booleans())
def test_any_average_pool(pool: Pool, count_include_pad: int, has_symbols: bool):
    check_average_pool(pool, count_include_pad, has_symbols=has_symbols)


@given(pool=pools(), p=st.integers(1, 3), has_symbols=st.booleans())
def test_any_lp_pool(pool: Pool, p: int, has_symbols: bool):
    check_lp_pool(pool, p, has_symbols=has_symbols)


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("auto_pad", [*SAME, "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "LpPool"])
def test_auto_pad(op_type: str, strides: tuple[int, ...], auto_pad: str, has_symbols: bool):
    kernel = (3, 4)
    pads = () if auto_pad == "VALID" else tuple(same_pads((8, 7), kernel, strides, auto_pad))
    pool = Pool((8, 7), kernel, strides, pads=pads)
    feeds = pool.feeds(has_ties=False)
    operands = in_float64(feeds)
    model = one_node(op_type, feeds, has_symbols=has_symbols, kernel_shape=kernel, strides=strides, auto_pad=auto_pad)
    y = {
        "MaxPool": lambda x: max_pool(pool, x),
        "AveragePool": lambda x: average_pool(pool, x, 0),
        "LpPool": lambda x: (pool.windows(x) ** 2).sum(-1).sqrt(),
    }[op_type](*operands)
    assert_gradients(model, feeds, y, operands, **TOLERANCE)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool_is_pytorchs(count_include_pad: int, ceil_mode: int):
    pool = Pool((10, 9), (3, 3), (2, 2), pads=(1, 1, 1, 1), ceil_mode=ceil_mode)
    feeds = pool.feeds()
    operands = in_float64(feeds)
    attributes = {**pool.attributes, "dilations": None}
    model = one_node("AveragePool", feeds, count_include_pad=count_include_pad, **attributes)
    y = F.avg_pool2d(operands[0], 3, 2, 1, bool(ceil_mode), bool(count_include_pad))
    assert_gradients(model, feeds, y, operands, **TOLERANCE)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_maxima_are_unpooled_where_windows_are_disjoint_and_else_added(pool: Pool):
    operators = operators_of_gradient(one_node("MaxPool", pool.feeds(), opset=pool.opset, **pool.attributes), "x")
    assert operators[-1] == ("MaxUnpool" if pool in DISJOINT else "ScatterElements")


@pytest.mark.parametrize("pool", [DISJOINT[1], OVERLAPPING[1]], ids=str)
def test_max_pool_of_an_empty_batch(pool: Pool):
    model = vjp(one_node("MaxPool", pool.feeds(), **pool.attributes))
    got = Session(model)({"x": np.zeros((0, 3, *pool.size)), "y_grad": np.zeros((0, 3, *pool.counts))})
    assert got["x_grad"].shape == (0, 3, *pool.size)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("pool", [DISJOINT[1], OVERLAPPING[1]], ids=str)
def test_max_pool_that_gives_its_indices(pool: Pool, storage_order: int):
    feeds = pool.feeds()
    operands = in_float64(feeds)
    model = one_node("MaxPool", feeds, outputs=["y", "i"], storage_order=storage_order, **pool.attributes)
    assert_gradients(model, feeds, max_pool(pool, *operands), operands)
    product = vjp(model, wrt=["x"], inline=True)
    count = sum(node.op_type == "MaxPool" for node in product.graph.node)
    assert count == 1 + storage_order  # row-major indices are used, others recomputed


def test_max_unpool():
    pool = DISJOINT[1]
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.standard_normal((2, 3, *pool.size)))
    _, planes = F.max_pool2d(image, pool.kernel, pool.strides, return_indices=True)
    indices = planes + torch.arange(6).reshape(2, 3, 1, 1) * math.prod(pool.size)
    x = integers(rng, *planes.shape)
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]>'
        "f (float[N, 3, 4, 4] x, int64[N, 3, 4, 4] i, int64[4] s) => (float[N, 3, 9, 8] y)"
        "{ y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i, s) }"
    )
    operand = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = F.max_unpool2d(operand, planes, pool.kernel, pool.strides, output_size=pool.size)
    feeds = {"x": x, "i": indices.numpy(), "s": np.array(y.shape)}
    assert_gradients(graph, feeds, y, [operand])


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize("size", [(5,), (4, 5), (2, 3, 4)], ids=str)
class TestGlobal:
    def test_average(self, size: tuple[int, ...], has_symbols: bool):
        feeds = Pool(size, size, size).feeds()
        operands = in_float64(feeds)
        y = operands[0].mean(tuple(range(2, 2 + len(size))), keepdim=True)
        model = one_node("GlobalAveragePool", feeds, has_symbols=has_symbols)
        assert_gradients(model, feeds, y, operands, **TOLERANCE)

    def test_maximum(self, size: tuple[int, ...], has_symbols: bool):
        feeds = Pool(size, size, size).feeds()
        operands = in_float64(feeds)
        adaptive = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(size)]
        model = one_node("GlobalMaxPool", feeds, has_symbols=has_symbols)
        assert_gradients(model, feeds, adaptive(operands[0], 1), operands)

    @pytest.mark.parametrize("p", [1, 2, 3])
    def test_norm(self, size: tuple[int, ...], has_symbols: bool, p: int):
        feeds = Pool(size, size, size).feeds(has_ties=False)
        operands = in_float64(feeds)
        y = (operands[0].abs() ** p).sum(tuple(range(2, 2 + len(size))), keepdim=True) ** (1 / p)
        model = one_node("GlobalLpPool", feeds, has_symbols=has_symbols, p=p)
        assert_gradients(model, feeds, y, operands, **TOLERANCE)


@pytest.mark.parametrize("op_type", ["LpPool", "GlobalLpPool"])
def test_the_norm_of_zeros_has_gradient_zero(op_type: str):
    x = np.zeros((1, 1, 4, 4), "f")
    kernel = [2, 2] if op_type == "LpPool" else None
    got = Session(vjp(one_node(op_type, {"x": x}, kernel_shape=kernel)))
    shape = (1, 1, 3, 3) if kernel else (1, 1, 1, 1)
    np.testing.assert_array_equal(got({"x": x, "y_grad": np.ones(shape)})["x_grad"], x)


@pytest.mark.parametrize("op_type", ["AveragePool", "LpPool", "MaxPool"])
def test_an_image_with_a_symbol_for_its_channels(op_type: str):
    pool = OVERLAPPING[1]
    feeds = pool.feeds(has_ties=False)
    attributes = {**pool.attributes, "dilations": None}
    product = vjp(one_node(op_type, feeds, **attributes))
    model = one_node(op_type, feeds, has_symbols=True, **attributes)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    feeds["y_grad"] = integers(np.random.default_rng(1), 2, 3, *pool.counts)
    np.testing.assert_allclose(Session(vjp(model))(feeds)["x_grad"], Session(product)(feeds)["x_grad"], rtol=1e-5)
