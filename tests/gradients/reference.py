"""What onnx 1.23's reference gets wrong, mended, so that it can be the oracle."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_erf, op_loop, op_lp_normalization, op_scan

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


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Return the reference's evaluator with Scan and Loop mended."""
    return ReferenceEvaluator(model, new_ops=[Scan, Loop])


def _erf(_: Any, x: Array) -> tuple[Array]:
    return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def _lp_normalization(node: Any, x: Array, **_: Any) -> tuple[Array]:
    norm = np.linalg.norm(x, node.p, node.axis, keepdims=True)
    return (np.where(norm == 0, 0, x / norm),)


@contextlib.contextmanager
def corrected_reference() -> Iterator[None]:
    """Mend two operators: Erf, which rounds to float32, and the norm for p = 1, which lacks the absolute value."""
    with (
        mock.patch.object(op_erf.Erf, "_run", _erf),
        mock.patch.object(op_lp_normalization.LpNormalization, "_run", _lp_normalization),
    ):
        yield
