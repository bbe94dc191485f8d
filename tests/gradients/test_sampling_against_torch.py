"""Gradients of sampling, resizing and normalization against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from onnx import numpy_helper

from renom_onnx.converters import vjp
from tests.gradients.cases import Case, at_opset, case_of, known
from tests.gradients.session import Session
from tests.gradients.test_against_torch import assert_same

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 3, 5, 6))
C = {name: RNG.standard_normal(3) for name in ("s", "b", "m")} | {"v": RNG.uniform(0.5, 2, 3)}


def scales_of(*values: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, "f"))


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode: str, padding: str, align_corners: int, record_property: Callable[[str, str], None]):
    record_property("proved", "GridSample")
    attributes = f'mode="{mode}", padding_mode="{padding}", align_corners={align_corners}'
    grid = np.random.default_rng(5).uniform(-1.6, 1.6, (2, 4, 3, 2))
    case = case_of("", f"y = GridSample<{attributes}>(x, g)", x=IMAGE, g=grid)
    options = dict(mode=mode, padding_mode=padding, align_corners=bool(align_corners))
    assert_same(case, lambda x, g: F.grid_sample(x, g, **options), atol=2e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample_of_volumes(align_corners: bool):
    x, grid = RNG.standard_normal((2, 3, 4, 5, 6)), RNG.uniform(-1.2, 1.2, (2, 3, 2, 4, 3))
    case = case_of("", f'y = GridSample<mode="linear", align_corners={int(align_corners)}>(x, g)', x=x, g=grid)
    case = Case("", at_opset(case.model, 20), case.feeds)
    assert_same(case, lambda x, g: F.grid_sample(x, g, align_corners=align_corners))


@pytest.mark.parametrize(
    ("attributes", "sizes", "options"),
    [
        ('mode="linear"', (10, 9), dict(mode="bilinear")),
        ('mode="linear"', (3, 4), dict(mode="bilinear")),
        ('mode="linear", antialias=1, exclude_outside=1', (3, 4), dict(mode="bilinear", antialias=True)),
        (
            'mode="linear", coordinate_transformation_mode="align_corners"',
            (8, 4),
            dict(mode="bilinear", align_corners=True),
        ),
        ('mode="cubic", cubic_coeff_a=-0.75', (8, 13), dict(mode="bicubic")),
        ('coordinate_transformation_mode="asymmetric", nearest_mode="floor"', (10, 18), dict(mode="nearest")),
        ('coordinate_transformation_mode="asymmetric", nearest_mode="floor"', (7, 4), dict(mode="nearest")),
    ],
)
def test_resize(attributes: str, sizes: tuple[int, int], options: dict[str, Any]):
    case = case_of("", f"y = Resize<{attributes}>(x, , , n)", x=IMAGE, n=known(2, 3, *sizes))
    assert_same(case, lambda x: F.interpolate(x, sizes, **options))


@pytest.mark.parametrize("as_initializer", [False, True])
def test_resize_by_constant_integers_needs_no_matrix(as_initializer: bool):
    call = 'Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
    case = case_of("", f"y = {call}(x, , s)", x=IMAGE, s=scales_of(1, 1, 2, 3))
    if as_initializer:
        tensor = numpy_helper.from_array(np.array([1, 1, 2, 3], "f"), "s")
        del case.model.graph.node[0]
        case.model.graph.initializer.append(tensor)
    model = vjp(case.model, "x", inline=True)
    assert "AveragePool" in {node.op_type for node in model.graph.node}
    got = Session(model)({**case.feeds, "y_grad": np.ones((2, 3, 10, 18), "f")})
    np.testing.assert_allclose(got["x_grad"], np.full(IMAGE.shape, 6), rtol=1e-6)


def test_batch_normalization_in_training():
    body = "y, m2, v2 = BatchNormalization<training_mode=1>(x, s, b, m, v)"
    case = case_of("", body, x=IMAGE, **C)
    assert_same(case, lambda x, s, b, m, v: F.batch_norm(x, None, None, s, b, training=True))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_batch_normalization_in_inference(shape: tuple[int, ...]):
    case = case_of("", "y = BatchNormalization(x, s, b, m, v)", x=RNG.standard_normal(shape), **C)

    def torch_norm(x: Any, s: Any, b: Any, m: Any, v: Any) -> Any:
        s, b, m, v = (p.reshape(1, -1, *[1] * (x.ndim - 2)) for p in (s, b, m, v))
        return (x - m) / torch.sqrt(v + 1e-5) * s + b

    assert_same(case, torch_norm)


def test_instance_normalization():
    case = case_of("", "y = InstanceNormalization(x, s, b)", x=IMAGE, s=C["s"], b=C["b"])
    assert_same(case, lambda x, s, b: F.instance_norm(x, weight=s, bias=b))


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset: int, record_property: Callable[[str, str], None]):
    record_property("proved", "GroupNormalization")
    x = RNG.standard_normal((2, 6, 4, 3))
    s, b = RNG.standard_normal((2, 3 if opset == 18 else 6))
    case = case_of("", "y = GroupNormalization<num_groups=3>(x, s, b)", x=x, s=s, b=b)
    case = Case("", at_opset(case.model, opset), case.feeds)
    n = 2 if opset == 18 else 1
    assert_same(case, lambda x, s, b: F.group_norm(x, 3, s.repeat_interleave(n), b.repeat_interleave(n)))


@pytest.mark.parametrize("axis", [-1, 2, -2])
def test_layer_and_rms_normalization(axis: int):
    shape = IMAGE.shape[axis:]
    s, b = RNG.standard_normal((2, *shape))
    case = case_of("", f"y = LayerNormalization<axis={axis}>(x, s, b)", x=IMAGE, s=s, b=b)
    assert_same(case, lambda x, s, b: F.layer_norm(x, shape, s, b))
    case = case_of("", f"y = RMSNormalization<axis={axis}>(x, s)", x=IMAGE, s=s)
    assert_same(Case("", at_opset(case.model, 23), case.feeds), lambda x, s: F.rms_norm(x, shape, s, 1e-5))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(size: int):
    x = RNG.standard_normal((2, 7, 3, 4))
    case = case_of("", f"y = LRN<size={size}, alpha=0.3, beta=0.6, bias=1.5>(x)", x=x)

    def torch_norm(x: Any) -> Any:
        padded = F.pad((x * x)[:, None], (0, 0, 0, 0, (size - 1) // 2, size // 2))[:, 0]
        total = sum(padded[:, k : k + 7] for k in range(size))
        return x / (1.5 + 0.3 / size * total) ** 0.6

    assert_same(case, torch_norm)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention(causal: int):
    q, k, v = RNG.standard_normal((3, 2, 4, 5, 6))
    case = case_of("", f"y = Attention<is_causal={causal}>(q, k, v)", q=q, k=k, v=v)
    function: Callable[..., Any] = lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=bool(causal))  # noqa: E731
    assert_same(Case("", at_opset(case.model, 23), case.feeds), function)


@pytest.mark.parametrize("name", ["elastic", "ratio"])
def test_dropout_in_training_passes_what_its_mask_kept(name: str):
    case = case_of("", "t = Constant<value = bool {1}>() y, m = Dropout<seed=1>(x, r, t)", x=IMAGE, r=np.float32(0.4))
    got = Session(vjp(case.model, "x"))({**case.feeds, "y_grad": np.ones(IMAGE.shape, "f")})
    np.testing.assert_allclose(got["x_grad"] * case.feeds["x"], got["y"], rtol=1e-5)
    assert 0.3 < (got["y"] == 0).mean() < 0.5


def bilinear(image: Any, y: Any, x: Any) -> Any:
    """Return (C,): the image (C, H, W) at one point, 0 more than a pixel outside."""
    _, height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return image[:, 0, 0] * 0
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    i, j = int(y), int(x)
    i2, j2 = min(i + 1, height - 1), min(j + 1, width - 1)
    u, v = y - i, x - j
    top = image[:, i, j] * (1 - v) + image[:, i, j2] * v
    return top * (1 - u) + (image[:, i2, j] * (1 - v) + image[:, i2, j2] * v) * u


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("half", [True, False])
def test_roi_align(ratio: int, half: bool, record_property: Callable[[str, str], None]):
    record_property("proved", "RoiAlign")
    rois = np.array([[0.3, 0.4, 3.6, 2.9], [1.2, 0.1, 9.7, 8.2], [-4.3, -3.1, 2.2, 3.3]])
    how = "half_pixel" if half else "output_half_pixel"
    bins = f"output_height=2, output_width=3, sampling_ratio={ratio}, spatial_scale=0.5"
    attributes = f'{bins}, coordinate_transformation_mode="{how}"'
    case = case_of("", f"y = RoiAlign<{attributes}>(x, r, i)", x=IMAGE, r=rois, i=[0, 1, 1])

    def torch_align(x: Any, rois: Any, i: Any) -> Any:
        results = []
        for roi, image in zip(rois * 0.5 - (0.5 if half else 0), x[i], strict=True):
            extents = [roi[3] - roi[1], roi[2] - roi[0]]
            bins = [(e if half else e.clamp(min=1)) / n for e, n in zip(extents, (2, 3), strict=True)]
            counts = [ratio or max(int(np.ceil(b.item())), 1) for b in bins]
            for a in range(2):
                for b in range(3):
                    samples = [
                        bilinear(image, roi[1] + (a + (m + 0.5) / counts[0]) * bins[0],
                                 roi[0] + (b + (n + 0.5) / counts[1]) * bins[1])
                        for m in range(counts[0]) for n in range(counts[1])
                    ]  # fmt: skip
                    results.append(torch.stack(samples).mean(0))
        return torch.stack(results).reshape(len(rois), 2, 3, -1).permute(0, 3, 1, 2)

    assert_same(case, torch_align)


def test_max_roi_pool(record_property: Callable[[str, str], None]):
    record_property("proved", "MaxRoiPool")
    rois = np.array([[0, 1, 0, 7, 6], [1, 2, 2, 11, 9], [1, 0, 4, 3, 5]], float)
    case = case_of("", "y = MaxRoiPool<pooled_shape=[2, 3], spatial_scale=0.5>(x, r)", x=IMAGE, r=rois)

    def edges(low: float, high: float, n: int, size: int) -> list[slice]:
        start, end = (int(np.floor(v * 0.5 + 0.5)) for v in (low, high))
        length = max(end - start + 1, 1) / n
        bounds = [(int(np.floor(i * length)) + start, int(np.ceil((i + 1) * length)) + start) for i in range(n)]
        return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in bounds]

    def torch_pool(x: Any, r: Any) -> Any:
        rows = []
        for i, x1, y1, x2, y2 in r.tolist():
            for a in edges(y1, y2, 2, 5):
                for b in edges(x1, x2, 3, 6):
                    patch = x[int(i), :, a, b].flatten(1)
                    rows.append(patch.max(1).values if patch.shape[1] else x[0, :, 0, 0] * 0)
        return torch.stack(rows).reshape(len(r), 2, 3, 3).permute(0, 3, 1, 2)

    assert_same(case, torch_pool)


def test_mean_variance_normalization(record_property: Callable[[str, str], None]):
    record_property("proved", "MeanVarianceNormalization")
    for axes in ([0, 2, 3], [1], [-1, 0]):
        case = case_of("", f"y = MeanVarianceNormalization<axes={axes}>(x)", x=IMAGE)
        assert_same(
            case, lambda x, axes=axes: (x - x.mean(axes, True)) / (x.std(axes, correction=0, keepdim=True) + 1e-9)
        )


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 3, 3, 4, 5)])
def test_affine_grid(sizes: tuple[int, ...], align_corners: int, record_property: Callable[[str, str], None]):
    record_property("proved", "AffineGrid")
    n = len(sizes) - 2
    theta = RNG.standard_normal((2, n, n + 1))
    case = case_of("", f"y = AffineGrid<align_corners={align_corners}>(t, n)", t=theta, n=known(*sizes))
    case = Case("", at_opset(case.model, 20), case.feeds)
    assert_same(case, lambda t: F.affine_grid(t, list(sizes), bool(align_corners)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("dilations", [(1, 1), (1, 2)])
def test_deform_conv(
    groups: int, strides: tuple[int, int], dilations: tuple[int, int], record_property: Callable[[str, str], None]
):
    record_property("proved", "DeformConv")
    pads, kernel = (1, 0, 1, 2), (2, 3)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(n + pads[i] + pads[i + 2] - extents[i]) // strides[i] + 1 for i, n in enumerate((5, 6))]
    x, w, b = RNG.standard_normal((2, 4, 5, 6)), RNG.standard_normal((6, 2, *kernel)), RNG.standard_normal(6)
    offset, mask = RNG.uniform(-1.3, 1.3, (2, groups * 12, *out)), RNG.uniform(0, 1, (2, groups * 6, *out))
    attributes = (
        f"group=2, offset_group={groups}, pads={list(pads)}, strides={list(strides)}, dilations={list(dilations)}"
    )
    case = case_of("", f"y = DeformConv<{attributes}>(x, w, o, b, m)", x=x, w=w, o=offset, b=b, m=mask)
    for position, size in ((1, 6), (3, 6)):
        case.model.graph.input[position].type.tensor_type.shape.dim[0].dim_value = size
    case = Case("", at_opset(case.model, 19), case.feeds)

    def torch_conv(x: Any, w: Any, o: Any, b: Any, m: Any) -> Any:
        o, m = o.reshape(2 * groups, 6, 2, *out), m.reshape(2 * groups, 1, 6, *out)
        parts = x.reshape(2 * groups, 4 // groups, 5, 6)
        taps = []
        for k, (i, j) in enumerate(np.ndindex(*kernel)):
            rows = torch.arange(out[0])[:, None] * strides[0] - pads[0] + i * dilations[0] + o[:, k, 0]
            columns = torch.arange(out[1]) * strides[1] - pads[1] + j * dilations[1] + o[:, k, 1]
            grid = torch.stack([columns / 2.5 - 1, rows / 2 - 1], -1)
            taps.append(F.grid_sample(parts, grid, align_corners=True) * m[:, :, k])
        columns = torch.stack(taps, 2).reshape(2, 2, 2 * 6, -1)
        y = w.reshape(2, 3, -1) @ columns
        return y.reshape(2, 6, *out) + b[:, None, None]

    assert_same(case, torch_conv, atol=2e-5)
