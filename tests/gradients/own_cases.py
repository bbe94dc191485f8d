"""Cases that ONNX's node tests lack: axes, positions and sizes known at run time only, zeros in products, all modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from onnx import numpy_helper

from tests.gradients.cases import NEWEST_OPSET, Case, at_opset, case_of, known, sized

_rng = np.random.default_rng(0)
X23, X34, X45, X234 = (_rng.standard_normal(shape) for shape in [(2, 3), (3, 4), (4, 5), (2, 3, 4)])
X235, X245, X2823 = (_rng.standard_normal(shape) for shape in [(2, 3, 5), (2, 4, 5), (2, 8, 2, 3)])
POSITIVE = np.abs(X23) + 0.5


def _arithmetic() -> Iterator[Case]:
    for n in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 2.5):
        yield case_of(f"Pow-constant{n}", "y = Pow(x, p)", x=POSITIVE if n % 1 else X23, p=known(n))
    yield case_of("Pow-integers", "y = Pow(x, p)", x=-POSITIVE, p=[0, 1, 3])
    for op, x in {"Asinh": X23, "Acosh": POSITIVE + 1, "Cosh": X23, "Sinh": X23}.items():
        yield case_of(op, f"y = {op}(x)", x=x)
    yield case_of("Clip-low", "y = Clip(x, low)", x=X23, low=0.1)
    yield case_of("Clip-high", "y = Clip(x, , high)", x=X23, high=0.1)
    yield case_of("Clip-both", "y = Clip(x, low, high)", x=X23, low=-0.2, high=0.3)
    yield case_of("Where-broadcast", "y = Where(c, a, b)", c=np.array([[True], [False]]), a=X23[0], b=X23)
    yield case_of("Cast-there-and-back", "d = Cast<to=11>(x) e = Mul(d, d) y = Cast<to=1>(e)", x=X23)
    yield case_of("Sum-broadcast", "y = Sum(a, b, c)", a=X23[:, :1], b=X23[0], c=0.5)
    yield case_of("Mean-broadcast", "y = Mean(a, b)", a=X23, b=X23[0])
    yield case_of("Max-broadcast", "y = Max(a, b, c)", a=X23, b=X23[0] + 0.1, c=0.0)
    yield case_of("Mul-one-operand-twice", "y = Mul(x, x)", x=X23)
    yield case_of("Elu-negative-alpha", "y = Elu<alpha=-0.5>(x)", x=X23)
    yield case_of("Range-float", "y = Range(start, limit, delta)", start=0.5, limit=3.2, delta=0.7)


def _products() -> Iterator[Case]:
    yield case_of("MatMul-rows-of-matrices", "y = MatMul(a, b)", a=X234, b=X45)
    yield case_of("MatMul-broadcast-batch", "y = MatMul(a, b)", a=X234[:1], b=X245)
    yield case_of("MatMul-wide-left", "y = MatMul(a, b)", a=X245, b=X245.reshape(2, 5, 4))
    yield case_of(
        "MatMul-wide-left-broadcast", "y = MatMul(a, b)", a=X245[:1], b=X235[..., :2].repeat(2, 0)[:, [0, 1, 2, 0, 1]]
    )
    yield case_of("MatMul-wide-matrix", "y = MatMul(a, b)", a=X45, b=X235[:, [0, 1, 2, 0, 1], :3])
    yield case_of("Einsum-labels-of-one-operand", 'y = Einsum<equation="ijk,kl->il">(a, b)', a=X234, b=X45)
    yield case_of("Einsum-ellipsis", 'y = Einsum<equation="...ij,jk->...ik">(a, b)', a=X234, b=X45)
    yield case_of("Einsum-three", 'y = Einsum<equation="bij,jk,bik->bk">(a, b, c)', a=X234, b=X45, c=X235)
    yield case_of("MatMul-broadcast-two-ways", "y = MatMul(a, b)", a=X234[:, None], b=X245[None])


def _reductions() -> Iterator[Case]:
    x = np.abs(X234) + 0.1
    names = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
    for op in (f"Reduce{name}" for name in names):
        for keep in (0, 1):
            call = f"{op}<keepdims={keep}>"
            yield case_of(f"{op}-keepdims{keep}-dynamic-axes", f"y = {call}(x, axes)", x=x, axes=[0, -1])
            yield case_of(f"{op}-keepdims{keep}-known-axes", f"y = {call}(x, axes)", x=x, axes=known(0, -1))
            yield case_of(f"{op}-keepdims{keep}-all-axes", f"y = {call}(x)", x=x)
        empty = np.zeros(0, np.int64)
        yield case_of(f"{op}-noop", f"y = {op}<noop_with_empty_axes=1>(x, axes)", x=x, axes=empty)
        yield case_of(f"{op}-empty-axes", f"y = {op}<keepdims=0>(x, axes)", x=x, axes=empty)
    zeros = X34 * [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1]]
    yield case_of("ReduceProd-zeros", "y = ReduceProd<keepdims=0>(x, axes)", x=zeros, axes=known(1))


def _shapes() -> Iterator[Case]:
    yield case_of("Tile-dynamic", "y = Tile(x, r)", x=X34, r=[2, 3])
    yield case_of("Tile-known", "y = Tile(x, r)", x=X34, r=known(2, 1))
    yield case_of("Expand-dynamic", "y = Expand(x, s)", x=X34[:, None], s=[2, 3, 5, 1])
    yield case_of("Concat-symbols", "y = Concat<axis=-2>(a, b, c)", a=X34, b=X45[:, :4], c=X34 + 1)
    yield case_of("Concat-one", "y = Concat<axis=0>(a)", a=X34)
    yield case_of("Split-unused-part", "a, b, c = Split<axis=1>(x, s) y = Mul(a, c)", x=X34, s=[1, 2, 1])
    yield case_of("Reshape-symbol", "y = Reshape(x, s)", x=X234, s=known(0, -1))
    yield case_of("Squeeze-dynamic", "y = Squeeze(x, axes)", x=X34[:, None], axes=[-2])
    yield case_of("Unsqueeze-dynamic", "y = Unsqueeze(x, axes)", x=X34, axes=[0, -1])
    yield case_of("DepthToSpace-CRD", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', x=X2823)
    yield case_of("ReverseSequence", "y = ReverseSequence<time_axis=0, batch_axis=1>(x, n)", x=X23.T, n=[3, 2])
    yield case_of("CumSum-exclusive-reverse", "y = CumSum<exclusive=1, reverse=1>(x, a)", x=X34, a=np.int64(-1))
    yield case_of("Trilu-lower", "y = Trilu<upper=0>(x, k)", x=X34, k=np.int64(1))
    yield case_of("Trilu-upper", "y = Trilu(x)", x=X34)
    for mode in ("constant", "reflect", "edge"):
        yield case_of(f"Pad-{mode}", f'y = Pad<mode="{mode}">(x, pads)', x=X34, pads=[1, 0, 2, 1])
    yield case_of("Pad-value", "y = Pad(x, pads, v)", x=X34, v=0.5, pads=[1, 0, 2, 1])
    yield case_of("Pad-axes", "y = Pad(x, pads, , axes)", x=X34, pads=[1, 2], axes=[1])


def _slices() -> Iterator[Case]:
    vectors = {
        "forwards": ([1, 0], [3, 2], [0, 1], [1, 1]),
        "from-the-end": ([-2, -3], [-1, 100], [0, -1], [1, 1]),
        "past-both-ends": ([-100], [100], [1], [1]),
        "backwards": ([-1, 3], [-100, 0], [0, 1], [-1, -2]),
        "every-second": ([0], [4], [0], [2]),
        "nothing": ([2], [2], [0], [1]),
    }
    for name, values in vectors.items():
        operands = dict(zip(("starts", "ends", "axes", "steps"), values, strict=True))
        body = "y = Slice(x, starts, ends, axes, steps)"
        yield case_of(f"Slice-{name}", body, x=X34, **{key: known(*v) for key, v in operands.items()})
        for kind in ("int32", "int64"):
            dynamic = {key: np.array(v, kind) for key, v in operands.items()}
            yield case_of(f"Slice-{name}-dynamic-{kind}", body, x=X34, **dynamic)
    yield case_of("Slice-dynamic-starts", "y = Slice(x, s, e)", x=X34, s=[-2, 1], e=[-1, 3])
    yield case_of("Slice-known-axes", "y = Slice(x, s, e, a)", x=X34, s=[-2], e=[4], a=known(1))


def _positions() -> Iterator[Case]:
    indices = {"scalar": np.int64(1), "vector": np.array([1, 0, 1, 1, -1], np.int32), "matrix": [[0, 1], [1, 1]]}
    for axis in (0, 1, -1):
        for name, i in indices.items():
            yield case_of(f"Gather-{name}-axis{axis}", f"y = Gather<axis={axis}>(x, i)", x=X234, i=i)
    twice = [[0, 2, 2], [-1, 0, 0]]
    yield case_of("GatherElements-twice", "y = GatherElements<axis=1>(x, i)", x=X23, i=twice)
    yield case_of("GatherND-twice", "y = GatherND(x, i)", x=X234, i=[[0, 1], [1, 2], [0, 1]])
    yield case_of("GatherND-batch", "y = GatherND<batch_dims=1>(x, i)", x=X234, i=[[1], [2]])
    yield case_of("Compress-axis", "y = Compress<axis=1>(x, c)", x=X234, c=np.array([True, False, True]))
    yield case_of("Compress-flat", "y = Compress(x, c)", x=X23, c=np.array([True, False, True, True, False]))
    yield case_of("TopK-smallest", "y, i = TopK<axis=0, largest=0>(x, k)", x=X34, k=[2])
    yield case_of("OneHot-values", "d = Constant<value=int64 {3}>() y = OneHot(i, d, v)", i=[0, 2, 1, 1], v=[0.5, 2.0])
    x, u = X23 * [[1, 0, 1], [1, 1, 0]], np.array([[1.5, 0, -2], [2, 3, 0]])
    once = [[0, 1, 2], [2, 1, 0]]
    for how in ("none", "add", "mul", "max", "min"):
        body = f'y = ScatterElements<axis=1, reduction="{how}">(x, i, u)'
        yield case_of(f"ScatterElements-{how}", body, x=x, i=once if how == "none" else twice, u=u)
        body = f'y = ScatterND<reduction="{how}">(x, i, u)'
        yield case_of(f"ScatterND-{how}", body, x=X34[:, :3], i=[[2], [0]] if how == "none" else [[1], [1]], u=u)


def _matrices() -> Iterator[Case]:
    yield case_of("Det-1", "y = Det(x)", x=X23[:1, :1])
    yield case_of("Det-batch", "y = Det(x)", x=_rng.standard_normal((2, 4, 4)))
    zeros = X34 * [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0]]
    for name, x in {"": X34, "-zeros": zeros}.items():
        for exclusive in (0, 1):
            for reverse in (0, 1):
                call = f"CumProd<exclusive={exclusive}, reverse={reverse}>"
                case = case_of(f"CumProd{name}-{exclusive}{reverse}", f"y = {call}(x, a)", x=x, a=np.int64(1))
                yield Case(case.name, at_opset(case.model, NEWEST_OPSET), case.feeds)
    for mode in ("linear", "circular"):
        case = case_of("", f'y = TensorScatter<axis=1, mode="{mode}">(x, u, i)', x=X245, u=X245[:, :2] + 1, i=[1, 2])
        yield Case(f"TensorScatter-{mode}", at_opset(case.model, NEWEST_OPSET), case.feeds)
    yield case_of("Unique", "y = Unique(x)", x=X34)
    yield case_of("Unique-axis", "y = Unique<axis=1>(x)", x=X34)
    yield case_of("Unique-sorted", "y, i = Unique<axis=0, sorted=0>(x)", x=X34)


def _signals() -> Iterator[Case]:
    for onesided in (0, 1):
        for n in (0, 3, 6):
            given, operands = ("x, n", {"n": np.int64(n)}) if n else ("x", {})
            body = f"y = DFT<axis=1, onesided={onesided}>({given})"
            yield case_of(f"DFT-onesided{onesided}-{n}", body, x=_rng.standard_normal((2, 5, 1)), **operands)
    yield case_of("DFT-inverse", "y = DFT<axis=1, inverse=1>(x)", x=_rng.standard_normal((2, 5, 2)))
    signal, window = _rng.standard_normal((2, 16, 1)), np.hanning(6)[1:]
    for onesided in (0, 1):
        body = f"y = STFT<onesided={onesided}>(x, s, w)"
        yield case_of(f"STFT-onesided{onesided}", body, x=signal, s=np.int64(3), w=window)
    yield case_of("STFT-no-window", "y = STFT(x, s, , n)", x=signal, s=np.int64(3), n=np.int64(4))


def _resizes() -> Iterator[Case]:
    image = _rng.standard_normal((2, 3, 4, 5))
    for mode in ("nearest", "linear", "cubic"):
        for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"):
            call = f'Resize<mode="{mode}", coordinate_transformation_mode="{how}">'
            scales = numpy_helper.from_array(np.array([1, 1, 1.5, 0.7], "f"))
            yield case_of(f"Resize-{mode}-{how}", f"y = {call}(x, , s)", x=image, s=scales)
    for how, floor in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "ceil")):
        call = f'Resize<coordinate_transformation_mode="{how}", nearest_mode="{floor}">'
        scales = numpy_helper.from_array(np.array([1, 1, 2, 3], "f"))
        yield case_of(f"Resize-integer-{how}-{floor}", f"y = {call}(x, , s)", x=image, s=scales)
    scales = numpy_helper.from_array(np.array([2, 3], "f"))
    yield case_of("Resize-channels", "y = Resize<axes=[1, 3]>(x, , s)", x=image, s=scales)
    yield case_of("Resize-sizes", 'y = Resize<mode="linear">(x, , , n)', x=image, n=known(2, 3, 7, 3))
    for name in ("not_larger", "not_smaller"):
        call = f'Resize<mode="linear", axes=[2, 3], keep_aspect_ratio_policy="{name}">'
        yield case_of(f"Resize-{name}", f"y = {call}(x, , , n)", x=image, n=known(7, 9))


def _images() -> Iterator[Case]:
    image = _rng.standard_normal((2, 3, 4, 5))
    for p in (1, 2, 3):
        yield case_of(f"GlobalLpPool-{p}", f"y = GlobalLpPool<p={p}>(x)", x=image)
    rois = np.array([[0, 1, 0, 7, 6], [1, 2, 2, 11, 9], [1, 0, 4, 3, 5]], float)
    yield sized(case_of("MaxRoiPool", "y = MaxRoiPool<pooled_shape=[2, 3], spatial_scale=0.4>(x, r)", x=image, r=rois))
    for axes in ([0, 2, 3], [1], [-1, 0]):
        body = f"y = MeanVarianceNormalization<axes={axes}>(x)"
        yield case_of(f"MeanVarianceNormalization-{len(axes)}", body, x=image)


def _bodies() -> Iterator[Case]:
    for c in (True, False):
        yes, no = "f () => (float[N2, 3] a) { a = Exp(x) }", "g () => (float[N2, 3] b) { b = Sin(x) }"
        yield case_of(f"If-{c}", f"y = If<then_branch = {yes}, else_branch = {no}>(c)", x=X23, c=np.array(c))
    step = "f (int64 n, bool c, float[2, 3] v) => (bool d, float[2, 3] w) { d = Identity(c) w = Mul(v, x) }"
    yield case_of("Loop", f"y = Loop<body = {step}>(m, , v)", x=X23, v=X23 + 2, m=known(3))


def _sequences() -> Iterator[Case]:
    a, b, i = X23, X23 + 1, "i = Constant<value = int64 {-1}>()"
    pair = f"{i} s = SequenceConstruct(a, b)"
    for about, body in {
        "SequenceConstruct": f"{pair} y = SequenceAt(s, i)",
        "SequenceAt": f"{pair} y = SequenceAt(s, i)",
        "SequenceInsert": f"{pair} t = SequenceInsert(s, a, i) y = ConcatFromSequence<axis=0>(t)",
        "SequenceErase": f"{pair} t = SequenceErase(s, i) y = ConcatFromSequence<axis=0>(t)",
        "ConcatFromSequence": f"{pair} y = ConcatFromSequence<axis=1, new_axis=1>(s)",
        "SequenceMap": f"{pair} t = SequenceMap<body = f (float[N, 3] v) => (float[N, 3] w) {{ w = Exp(v) }}>(s) "
        "y = ConcatFromSequence<axis=-1>(t)",
    }.items():
        yield dataclasses.replace(case_of(about, body, a=a, b=b), about=about)
    for keep in (0, 1):
        body = f"{i} s = SplitToSequence<axis=1, keepdims={keep}>(x) y = SequenceAt(s, i)"
        yield dataclasses.replace(case_of(f"SplitToSequence-{keep}", body, x=X23), about="SplitToSequence")


OWN_CASES = [
    *_sequences(),
    *_images(),
    *_bodies(),
    *_matrices(),
    *_signals(),
    *_resizes(),
    *_arithmetic(),
    *_products(),
    *_reductions(),
    *_shapes(),
    *_slices(),
    *_positions(),
]
