"""Resizing against PyTorch's interpolate."""

import numpy as np
import pytest
from torch.nn import functional

import renom_onnx as rm
from tests.layers.oracle import check, normal

g = rm.graph
SHAPES = {1: (3, 4, 7), 2: (3, 4, 7, 5), 3: (2, 4, 5, 3, 6)}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
CASES = {
    "nearest": dict(scale=2),
    "nearest-fraction": dict(scale=1.5),
    "nearest-fewer": dict(scale=0.6),
    "nearest-size": dict(size=9),
    "linear": dict(scale=2, mode="linear"),
    "linear-corners": dict(scale=2, mode="linear", align_corners=True),
    "linear-fewer": dict(scale=0.6, mode="linear"),
    "linear-size": dict(size=4, mode="linear"),
    "linear-size-corners": dict(size=8, mode="linear", align_corners=True),
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_resize_is_torchs_interpolate(name, rank):
    options = CASES[name]
    mode = "nearest" if "mode" not in options else LINEAR[rank]
    arguments = dict(size=options.get("size"), scale_factor=options.get("scale"), mode=mode)
    if mode != "nearest":
        arguments["align_corners"] = options.get("align_corners", False)
    check(g.Resize(**options), [normal(*SHAPES[rank])], lambda p, x: functional.interpolate(x, **arguments))


@pytest.mark.parametrize(
    "options",
    [dict(scale=(2, 3)), dict(scale=0.7), dict(size=(4, 9)), dict(size=8, align_corners=True)],
    ids=str,
)
def test_cubic_resize_is_torchs_bicubic(options):
    arguments = dict(size=options.get("size"), scale_factor=options.get("scale"), mode="bicubic")
    arguments["align_corners"] = options.get("align_corners", False)
    layer = g.Resize(**options, mode="cubic")
    check(layer, [normal(*SHAPES[2])], lambda p, x: functional.interpolate(x, **arguments), tolerance=2e-5)


def test_resized_shape_is_known_before_a_run():
    x = normal(2, 3, 5, 4)
    assert g.Resize()(x).shape == ("N", 3, 10, 8)
    assert g.Resize((1, 2.5))(x).shape == ("N", 3, 5, 10)
    assert g.Resize(size=7)(x).shape == ("N", 3, 7, 7)


def test_size_that_only_the_run_knows_is_scaled_by_the_run():
    x = g.StaticVariable(normal(2, 3, 5, 4))
    x.output.shape = ("N", 3, "H", 4)
    y = g.Resize()(x)
    assert y.shape[:2] == ("N", 3) and y.shape[3] == 8
    assert y.as_ndarray().shape == (2, 3, 10, 8)


@pytest.mark.parametrize(
    "kind, arguments, text",
    [
        (rm.ConversionError, dict(mode="area"),
         "Resize: mode must be one of 'nearest', 'linear', 'cubic', got 'area'."),
        (rm.ConversionError, dict(align_corners=True),
         "Resize: corners can be aligned by 'linear' and 'cubic', got mode 'nearest'."),
        (rm.ShapeError, dict(scale=2, size=9), "Resize: scale or size must be given, got scale 2 and size 9."),
        (rm.ShapeError, dict(scale=(2, 0.0)), "Resize: scale must be positive, got [2, 0.0]."),
        (rm.ShapeError, dict(size=0), "Resize: size must be positive, got [0, 0]."),
        (rm.ShapeError, dict(scale=(2, 2, 2)),
         "Resize: scale must be one number or 2, one per spatial axis, got [2, 2, 2]."),
    ],
    ids=str,
)  # fmt: skip
def test_bad_argument_is_said(kind, arguments, text, message):
    with message(kind, text + " Created at test_resize.py:{line}."):
        g.Resize(**arguments)(np.zeros((1, 1, 2, 2), np.float32))


def test_other_ranks_are_refused(message):
    text = "Resize: x must have three axes or more, (N, C, *S), got x is float32[N, 3]. Reshape it first."
    with message(rm.ShapeError, text + " Created at test_resize.py:{line}."):
        g.Resize()(normal(2, 3))
    text = "Resize: x must have 4 axes, (N, C, H, W), with mode 'cubic', got x is float32[N, 3, 4]."
    with message(rm.ShapeError, text + " Created at test_resize.py:{line}."):
        g.Resize(mode="cubic")(normal(2, 3, 4))
