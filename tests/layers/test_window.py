"""Convolution, pooling and unpooling against PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from renom_onnx.graph.element import static
from tests.layers.oracle import assert_close, check, normal

g = rm.graph
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
DECONV = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVG = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
SHAPES = {1: (3, 4, 9), 2: (3, 4, 9, 8), 3: (2, 4, 6, 5, 7)}


def test_bias_is_added_per_channel():
    check(g.Bias(), [normal(3, 4)], lambda p, x: x + p["b"])
    check(g.Bias(activation="relu"), [normal(3, 4, 2, 2)], lambda p, x: functional.relu(x + p["b"]))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, dict(padding=1, stride=2, dilation=2), dict(groups=2, bias=False)], ids=str)
def test_conv(rank, options):
    groups = options.get("groups", 1)
    arguments = {k: v for k, v in options.items() if k in ("padding", "stride", "dilation", "groups")}
    layer = g.Conv(6, kernel=2, **options)
    check(layer, [normal(*SHAPES[rank])], lambda p, x: CONV[rank](x, p["w"], p.get("b"), **arguments))
    assert layer.params["w"].shape == (6, 4 // groups, *[2] * rank)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kernel, dilation", [(3, 1), (4, 1), (2, 3)])
def test_conv_of_the_same_size(rank, kernel, dilation):
    layer = g.Conv(6, kernel, "same", dilation=dilation)
    arguments = dict(padding="same", dilation=dilation)
    check(layer, [normal(*SHAPES[rank])], lambda p, x: CONV[rank](x, p["w"], p["b"], **arguments))


def test_padding_may_differ_at_the_two_ends():
    def padded(x, value):
        return functional.pad(x, (1, 1, 2, 0), value=value)  # from the last axis on

    image, pairs = normal(*SHAPES[2]), [(2, 0), 1]
    check(g.Conv(6, 3, pairs), [image], lambda p, x: CONV[2](padded(x, 0), p["w"], p["b"]))
    check(g.MaxPool(3, pairs), [image], lambda p, x: MAX[2](padded(x, -np.inf), 3, 1))
    check(g.AvgPool(3, pairs), [image], lambda p, x: AVG[2](padded(x, 0), 3, 1))


def test_causal_convolution_does_not_see_what_comes():
    x = normal(2, 3, 8)
    later = np.where(np.arange(8) < 5, x, 9).astype(np.float32)
    layer = g.Conv(4, 3, [(4, 0)], dilation=2)
    assert_close(layer(later).as_ndarray()[..., :5], layer(x).as_ndarray()[..., :5], "the first five")
    assert layer(x).shape == ("N", 4, 8)


MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_pad(rank, mode):
    pairs = [(2, 1), (0, 2), (1, 1)][:rank]
    flat = [n for pair in reversed(pairs) for n in pair]
    value = dict(value=0.5) if mode == "constant" else {}
    layer = g.Pad(pairs, mode, **value)
    check(layer, [normal(*SHAPES[rank])], lambda p, x: functional.pad(x, flat, MODES[mode], **value))


def test_pad_before_a_convolution_is_its_padding_mode():
    model = g.Sequential([g.Pad(1, "wrap"), g.Conv(4, 3)])
    torch_conv = torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")

    def formula(p, x):
        return torch.func.functional_call(torch_conv, {"weight": p["conv1.w"], "bias": p["conv1.b"]}, (x,))

    check(model, [normal(*SHAPES[2])], formula)


def test_bad_padding_is_said(message):
    text = "Pad: mode must be one of 'constant', 'reflect', 'edge', 'wrap', got 'zeros'."
    with message(rm.ConversionError, text + " Created at test_window.py:{line}."):
        g.Pad(1, "zeros")
    text = "Pad: padding must be one number or 2, one or a pair per spatial axis, got [(1, 2, 3), 0]."
    with message(rm.ShapeError, text + " Created at test_window.py:{line}."):
        g.Pad([(1, 2, 3), 0])(normal(1, 1, 4, 4))
    text = "Conv: padding must be one number or 2, one or a pair per spatial axis, got [1]."
    with message(rm.ShapeError, text + " Created at test_window.py:{line}."):
        g.Conv(2, padding=[1])(normal(1, 1, 4, 4))
    text = "Conv: padding must be pixels, or \"same\" with stride 1, got 'same' with stride [2, 2]."
    with message(rm.ShapeError, text + " Created at test_window.py:{line}."):
        g.Conv(2, padding="same", stride=2)(normal(1, 1, 4, 4))
    text = "Conv: padding must be pixels, or \"same\" with stride 1, got 'valid' with stride [1, 1]."
    with message(rm.ShapeError, text + " Created at test_window.py:{line}."):
        g.Conv(2, padding="valid")(normal(1, 1, 4, 4))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, dict(padding=1, stride=2, output_padding=1), dict(dilation=2, stride=2), dict(groups=2, bias=False)],
    ids=str,
)
def test_deconv(rank, options):
    arguments = {k: v for k, v in options.items() if k != "bias"}
    layer = g.Deconv(6, kernel=3, **options)
    check(layer, [normal(*SHAPES[rank])], lambda p, x: DECONV[rank](x, p["w"], p.get("b"), **arguments))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, dict(kernel=2, stride=2), dict(padding=1, stride=2, ceil=True), dict(kernel=2, dilation=2)], ids=str
)
def test_max_pool(rank, options):
    o = {"kernel": 3, "stride": 1, **options}
    arguments = dict(kernel_size=o.pop("kernel"), ceil_mode=o.pop("ceil", False), **o)
    check(g.MaxPool(**options), [normal(*SHAPES[rank])], lambda p, x: MAX[rank](x, **arguments))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, dict(kernel=2, stride=2), dict(padding=1, stride=2), dict(padding=1, stride=2, count_padding=False),
     dict(kernel=2, stride=2, ceil=True)],
    ids=str,
)  # fmt: skip
def test_avg_pool(rank, options):
    o = {"kernel": 3, "stride": 1, **options}
    arguments = dict(
        kernel_size=o.pop("kernel"),
        ceil_mode=o.pop("ceil", False),
        count_include_pad=o.pop("count_padding", True),
        **o,
    )
    check(g.AvgPool(**options), [normal(*SHAPES[rank])], lambda p, x: AVG[rank](x, **arguments))


def test_global_pools():
    check(g.GlobalAvgPool(), [normal(3, 4, 5, 6)], lambda p, x: x.mean((2, 3), keepdim=True))
    check(g.GlobalMaxPool(), [normal(3, 4, 5, 6)], lambda p, x: x.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 1)], ids=["disjoint", "overlapping"])
def test_unpool_adds_where_windows_overlap(kernel, stride):
    x = normal(2, 3, 6, 6)
    image = static(x, is_batch=True)
    pooled = g.MaxPool(kernel=kernel, stride=stride)(image)
    _, indices = functional.max_pool2d(torch.tensor(x), kernel, stride, return_indices=True)

    def formula(p, z):
        flat = torch.zeros(2, 3, 36).scatter_add(2, indices.flatten(2), z.flatten(2))
        return flat.reshape(2, 3, 6, 6)

    z = normal(*indices.shape, seed=3)
    y = g.UnPool(pooled)(z)
    assert_close(y.as_ndarray(), formula(None, torch.tensor(z)), "value")
    source = static(z, is_batch=True)
    loss = g.ConstantLoss()(g.UnPool(pooled)(source) * g.StaticVariable(x))
    wanted = torch.tensor(x).flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)
    assert_close(loss.backward().get_gradient(source).as_ndarray(), wanted, "gradient")


def roi_pool(x, rois, outh, outw, scale):
    """The definition, in loops."""
    out = []
    for index, *corners in rois.tolist():
        x0, y0, x1, y1 = (int(np.floor(c * scale + 0.5)) for c in corners)
        h, w = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
        rows = []
        for i in range(outh):
            for j in range(outw):
                top, bottom = np.clip([y0 + i * h // outh, y0 - (-(i + 1) * h // outh)], 0, x.shape[2])
                left, right = np.clip([x0 + j * w // outw, x0 - (-(j + 1) * w // outw)], 0, x.shape[3])
                area = x[int(index), :, top:bottom, left:right]
                rows.append(area.amax((1, 2)) if area.numel() else torch.zeros(x.shape[1]))
        out.append(torch.stack(rows, 1).reshape(-1, outh, outw))
    return torch.stack(out)


def test_roi_pool_is_its_definition():
    rois = np.array([[0, 1, 1, 6, 6], [2, 6, 2, 7, 11], [1, 3, 1, 5, 10], [0, 3, 3, 3, 3]], np.float32)
    x = np.random.default_rng(0).permutation(3 * 2 * 12 * 8).reshape(3, 2, 12, 8).astype(np.float32) / 100
    layer = g.RoiPool(outw=5, outh=7, spatial_scale=0.6)
    source = static(x, is_batch=True)
    y = layer(source, rois)
    leaf = torch.tensor(x, requires_grad=True)
    wanted = roi_pool(leaf, rois, 7, 5, 0.6)
    assert_close(y.as_ndarray(), wanted.detach(), "value")
    weights = normal(*wanted.shape)
    loss = g.ConstantLoss()(y * weights)
    (wanted * torch.tensor(weights)).sum().backward()
    assert_close(loss.backward().get_gradient(source).as_ndarray(), leaf.grad, "gradient")
