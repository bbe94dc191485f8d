"""Models of opsets 13 to 18 whose operators had other operands or attributes than today."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import numpy_helper

from tests.gradients.cases import Case, at_opset, case_of, known, sized

_rng = np.random.default_rng(0)
X234, IMAGE = _rng.standard_normal((2, 3, 4)), _rng.standard_normal((2, 4, 5, 6))
CHANNELS = {name: _rng.standard_normal(4) for name in ("s", "b", "m")} | {"v": _rng.uniform(0.5, 2, 4)}


def _models() -> Iterator[tuple[int, Case]]:
    for name in ("Max", "Mean", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"):
        for keep in (0, 1):
            body = f"y = Reduce{name}<axes=[0, -1], keepdims={keep}>(x)"
            yield 13, case_of(f"Reduce{name}-axes-attribute-{keep}", body, x=np.abs(X234) + 0.1)
    rois = np.array([[0.3, 0.4, 3.6, 2.9], [1.2, 0.1, 6.7, 5.2]])
    bins = "output_height=2, output_width=3, sampling_ratio=2, spatial_scale=0.5"
    yield 13, case_of("RoiAlign-no-half-pixel", f"y = RoiAlign<{bins}>(x, r, i)", x=IMAGE, r=rois, i=[0, 1])
    yield 16, case_of("RoiAlign-half-pixel", f"y = RoiAlign<{bins}>(x, r, i)", x=IMAGE, r=rois, i=[0, 1])
    yield 13, case_of("BatchNormalization-no-mode", "y = BatchNormalization(x, s, b, m, v)", x=IMAGE, **CHANNELS)
    body = "y, m2, v2 = BatchNormalization<training_mode=1>(x, s, b, m, v)"
    yield 14, case_of("BatchNormalization-training", body, x=IMAGE, **CHANNELS)
    groups = {"s": CHANNELS["s"][:2], "b": CHANNELS["b"][:2]}
    yield (
        18,
        case_of("GroupNormalization-of-groups", "y = GroupNormalization<num_groups=2>(x, s, b)", x=IMAGE, **groups),
    )
    for inverse in (0, 1):
        body = f"y = DFT<axis=1, inverse={inverse}>(x, n)"
        yield 17, case_of(f"DFT-axis-attribute-{inverse}", body, x=_rng.standard_normal((2, 5, 2)), n=np.int64(6))
    scales = numpy_helper.from_array(np.array([1, 1, 1.5, 0.5], "f"))
    for mode in ("nearest", "linear", "cubic"):
        yield 13, case_of(f"Resize-13-{mode}", f'y = Resize<mode="{mode}">(x, , s)', x=IMAGE, s=scales)
    crop = 'mode="linear", coordinate_transformation_mode="tf_crop_and_resize"'
    roi = numpy_helper.from_array(np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8], "f"))
    yield 13, case_of("Resize-13-crop", f"y = Resize<{crop}>(x, r, , n)", x=IMAGE, r=roi, n=known(2, 4, 3, 4))
    for mode in ("constant", "reflect", "edge"):
        yield 13, case_of(f"Pad-13-{mode}", f'y = Pad<mode="{mode}">(x, p)', x=X234, p=known(0, 1, 2, 1, 0, 1))
    yield 13, case_of("Split-13-even", "a, y = Split<axis=2>(x)", x=X234)
    yield 13, case_of("Split-13-sizes", "y, b = Split<axis=2>(x, s)", x=X234, s=known(1, 3))
    yield 13, case_of("Dropout-13", "y = Dropout(x)", x=X234)
    for how in ("add", "mul"):
        body = f'y = ScatterElements<axis=1, reduction="{how}">(x, i, u)'
        yield 16, case_of(f"ScatterElements-16-{how}", body, x=X234[0], i=[[0, 2]], u=X234[1][:1, :2])
        body = f'y = ScatterND<reduction="{how}">(x, i, u)'
        yield 16, case_of(f"ScatterND-16-{how}", body, x=X234[0], i=[[2], [0]], u=X234[1][:2])
    body = "y = ScatterElements<axis=1>(x, i, u)"
    yield 13, case_of("ScatterElements-13", body, x=X234[0], i=[[0, 2]], u=X234[1][:1, :2])
    grid = _rng.uniform(-1, 1, (2, 3, 2, 2))
    yield 16, case_of("GridSample-16", 'y = GridSample<mode="bicubic">(x, g)', x=IMAGE, g=grid)
    yield 13, case_of("LpPool-11", "y = LpPool<kernel_shape=[2, 3], strides=[2, 1], p=3>(x)", x=IMAGE)
    yield 13, case_of("AveragePool-11", "y = AveragePool<kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]>(x)", x=IMAGE)
    w, r, b = (_rng.standard_normal(shape) for shape in [(1, 8, 3), (1, 8, 2), (1, 16)])
    steps = _rng.standard_normal((4, 2, 3))
    yield 13, sized(case_of("LSTM-7", "y = LSTM<hidden_size=2>(x, w, r, b)", x=steps, w=w, r=r, b=b))
    numbers = {"x": np.arange(-5, 7, dtype=np.int8).reshape(3, 4), "z": np.array(3, np.int8)}
    yield 13, case_of("DequantizeLinear-13", "y = DequantizeLinear(x, s, z)", s=0.3, **numbers)
    body, s = "y = DequantizeLinear<axis=1, block_size=2>(x, s)", np.abs(X234[0, :, :2])
    yield 21, case_of("DequantizeLinear-blocks", body, x=numbers["x"], s=s)
    yield 13, case_of("Add-13", "y = Add(a, b)", a=X234, b=X234[0])
    yield 13, case_of("Cast-13", "y = Cast<to=11>(x)", x=X234)
    yield 13, case_of("PRelu-9", "y = PRelu(x, s)", x=X234, s=X234[0, 0] + 0.01)
    yield 13, case_of("Where-9", "y = Where(c, a, b)", c=X234[0] > 0, a=X234, b=X234[0, 0])


OLD_CASES = [Case(f"{case.name}-opset{opset}", at_opset(case.model, opset), case.feeds) for opset, case in _models()]
