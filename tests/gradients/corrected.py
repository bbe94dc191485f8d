"""What onnx 1.23's reference gets wrong, mended, and the operators that it lacks, so that it can be the oracle."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import (
    op_affine_grid,
    op_causal_conv_with_state,
    op_dynamic_quantize_linear,
    op_erf,
    op_grid_sample,
    op_linear_attention,
    op_loop,
    op_lp_normalization,
    op_pad,
    op_scan,
    op_sequence_insert,
)

Array = np.ndarray[Any, Any]


class Scan(op_scan.Scan):
    """The reference's Scan, which knows no axes and directions, over what was turned before and is turned after it."""

    op_domain = ""

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        plain = onnx.NodeProto()
        plain.CopyFrom(onnx_node)
        del plain.attribute[:]
        plain.attribute.extend(a for a in onnx_node.attribute if not a.name.startswith("scan_"))
        super().__init__(plain, run_params)
        self._turns = {a.name: list(a.ints) for a in onnx_node.attribute if a.name.startswith("scan_")}

    def _run(self, *args: Any, **attributes: Any) -> tuple[Array, ...]:
        n = len(args) - self.num_scan_inputs
        scanned = [
            np.flip(x, 0) if direction else x
            for x, axis, direction in self._each("input", args[n:])
            for x in [np.moveaxis(x, axis, 0)]
        ]
        plain = {name: None if name.startswith("scan_") else value for name, value in attributes.items()}
        made = super()._run(*args[:n], *scanned, **plain)
        stacked = [
            np.moveaxis(np.flip(y, 0) if direction else y, 0, axis)
            for y, axis, direction in self._each("output", made[n:])
        ]
        return (*made[:n], *stacked)

    def _each(self, kind: str, values: Any) -> Iterator[tuple[Array, int, int]]:
        axes, directions = (self._turns.get(f"scan_{kind}_{what}") for what in ("axes", "directions"))
        zeros = [0] * len(values)
        yield from zip(values, axes or zeros, directions or zeros, strict=True)


class Loop(op_loop.Loop):
    """The reference's Loop, which takes an absent condition for false."""

    op_domain = ""

    def _run(self, m: Any, cond: Any, *args: Any, **attributes: Any) -> tuple[Array, ...]:
        with mock.patch.object(op_loop, "np", _Stacking()):
            made: tuple[Array, ...] = super()._run(m, np.array(True) if cond is None else cond, *args, **attributes)
        return made


class _Stacking:
    """NumPy for the reference's Loop, which joins what the steps give out along the first axis that they have."""

    vstack = staticmethod(np.stack)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class GlobalLpPool(OpRun):
    """y = (sum over the image of |x|^p)^(1/p)."""

    op_domain = ""

    def _run(self, x: Array, p: int | None = None) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        p = p or 2
        return ((np.abs(x) ** p).sum(axes, keepdims=True) ** (1 / p),)


class MeanVarianceNormalization(OpRun):
    """y = (x - mean) / (standard deviation + 1e-9)."""

    op_domain = ""

    def _run(self, x: Array, axes: list[int] | None = None) -> tuple[Array]:
        over = tuple(axes or (0, 2, 3))
        return ((x - x.mean(over, keepdims=True)) / (x.std(over, keepdims=True) + 1e-9),)


class MaxRoiPool(OpRun):
    """The maxima of the bins of each region, whose bounds are rounded; 0 for an empty bin (arXiv:1504.08083)."""

    op_domain = ""

    def _run(self, x: Array, rois: Array, pooled_shape: Any = None, spatial_scale: float | None = None) -> tuple[Array]:
        scale = 1.0 if spatial_scale is None else spatial_scale
        y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for r, (image, x1, y1, x2, y2) in enumerate(rois):
            rows, columns = (
                self._bins(low * scale, high * scale, n, size)
                for low, high, n, size in zip((y1, x1), (y2, x2), pooled_shape, x.shape[2:], strict=True)
            )
            for (i, a), (j, b) in ((p, q) for p in enumerate(rows) for q in enumerate(columns)):
                bin_ = x[int(image), :, a, b]
                y[r, :, i, j] = bin_.max((1, 2)) if bin_.size else 0
        return (y,)

    @staticmethod
    def _bins(low: float, high: float, n: int, size: int) -> list[slice]:
        start, end = math.floor(low + 0.5), math.floor(high + 0.5)
        length = max(end - start + 1, 1) / n
        bounds = [(math.floor(i * length) + start, math.ceil((i + 1) * length) + start) for i in range(n)]
        return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in bounds]


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Return the reference's evaluator, with Scan and Loop mended and what it lacks."""
    return ReferenceEvaluator(model, new_ops=[Scan, Loop, GlobalLpPool, MaxRoiPool, MeanVarianceNormalization])


def _erf(_: Any, x: Array) -> tuple[Array]:
    return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def _lp_normalization(node: Any, x: Array, **_: Any) -> tuple[Array]:
    norm = np.linalg.norm(x, node.p, node.axis, keepdims=True)
    return (np.where(norm == 0, 0, x / norm),)


_pad = op_pad._pad_impl


def _cropped_and_padded(x: Array, pads: Any, mode: str, constant_values: Any = 0, axes: Any = None) -> Array:
    axes = range(x.ndim) if axes is None else axes
    ends = np.zeros((2, x.ndim), np.int64)
    ends[:, list(axes)] = np.reshape(pads, (2, -1))
    inside = tuple(slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(*ends, x.shape, strict=True))
    return _pad(x[inside], np.maximum(ends, 0).ravel(), mode, constant_values)


def _sequence_insert(sequence: list[Array], tensor: Array, position: Any = None) -> list[Array]:
    n = len(sequence)
    place = n if position is None else int(position[0]) + (n if position[0] < 0 else 0)
    return [*sequence[:place], tensor, *sequence[place:]]


_grid_sample = op_grid_sample.GridSample._run


def _grid_sample_by_old_names(node: Any, x: Array, grid: Array, mode: str = "linear", **attributes: Any) -> Any:
    return _grid_sample(node, x, grid, mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode), **attributes)


class _Wide:
    """NumPy for operators that compute in float32 whatever they are given."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


_NARROW = [op_affine_grid, op_causal_conv_with_state, op_dynamic_quantize_linear, op_grid_sample, op_linear_attention]
_CORRECTIONS = [
    (op_erf.Erf, "_run", _erf),  # rounds to float32
    (op_lp_normalization.LpNormalization, "_run", _lp_normalization),  # for p = 1 it lacks the absolute value
    (op_grid_sample.GridSample, "_run", _grid_sample_by_old_names),  # of opset 16
    (op_sequence_insert, "sequence_insert_reference_implementation", _sequence_insert),  # at the end
    (op_pad, "_pad_impl", _cropped_and_padded),  # negative pads crop
    *((module, "np", _Wide()) for module in _NARROW),
]


@contextlib.contextmanager
def corrected_reference() -> Iterator[None]:
    """Mend the reference while a model in float64 runs."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in _CORRECTIONS:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield
