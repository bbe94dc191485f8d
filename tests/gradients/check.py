"""The gradient check: vector-Jacobian products in onnxruntime against differences in float64 in onnx's reference.

For a float input x with direction v and a cotangent u of the outputs, <vjp(u), v> must equal the derivative of
<u, f(x + h v)> at h = 0. The left side is computed by the model that `vjp` writes, in its own float type on
onnxruntime; the right side by differences, in float64, from the given model (`reference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from renom_onnx.converters import vjp
from tests.gradients.reference import Array, Feeds, Reference, UncheckableError, is_float, wide
from tests.gradients.session import ReferenceSession, Session

RTOL = 3e-4  # by how much the differences to both sides may disagree at a smooth point
STEP = 1e-6
N_REDRAWS = 8


@dataclass(frozen=True)
class Tolerance:
    """How far a gradient may be off.

    Attributes:
        relative: of the directional derivative.
        noise: of the sum of |gradient * direction|: what the float type may lose to cancellation.
        value: of the outputs, which must be those of the reference.
    """

    relative: float
    noise: float
    value: float = 1e-2


FLOAT32 = Tolerance(3e-4, 2e-6)  # a gradient wrong by 0.1 % fails
TOLERANCES = {  # the shortest type first
    TensorProto.BFLOAT16: Tolerance(8e-2, 2e-2, 5e-2),
    TensorProto.FLOAT16: Tolerance(1e-2, 2e-3),
    TensorProto.FLOAT: FLOAT32,
    TensorProto.DOUBLE: Tolerance(1e-5, 1e-8, 1e-6),
}


def tolerance_of(model: onnx.ModelProto) -> Tolerance:
    """Return the tolerance that fits the shortest float type of the inputs and outputs."""
    types = {info.type.tensor_type.elem_type for info in [*model.graph.input, *model.graph.output]}
    return next((tolerance for element, tolerance in TOLERANCES.items() if element in types), FLOAT32)


class WrongGradientError(AssertionError):
    """The gradient is not the derivative."""


class OtherValueError(AssertionError):
    """The model of the gradients computes other outputs than the reference."""


@dataclass
class Result:
    """What a check found: how many directional derivatives agreed, and how often the point was moved off a kink."""

    n_proved: int = 0
    n_redrawn: int = 0


def check_gradient(
    model: onnx.ModelProto,
    feeds: Feeds,
    sessions: Sequence[Session | ReferenceSession] | None = None,
    *,
    held: Collection[str] = (),
    step: float = STEP,
    seed: int = 0,
    n_cotangents: int = 2,
    tolerance: Tolerance | None = None,
    reference: Callable[[Feeds], dict[str, Array]] | None = None,
) -> Result:
    """Check the gradients of a model at a point.

    Args:
        model: the model.
        feeds: the point, one array for each input.
        sessions: run the models of the gradients; default: `vjp(model)` in onnxruntime.
        held: names of inputs that stay where they are, and whose gradients are not checked.
        step: of the differences; 1 is exact for an operator that is linear in each input.
        seed: of directions, cotangents and redrawn points.
        n_cotangents: how many are drawn; each is checked along one direction for every input.
        tolerance: that fits the float type of the sessions; default: of the model.
        reference: computes the outputs in float64; default: onnx's reference.

    Raises:
        WrongGradientError: a gradient differs from the differences.
        OtherValueError: a session computes other outputs than the reference.
        UncheckableError: the reference cannot say.
    """
    rng = np.random.default_rng(seed)
    reference = reference or Reference(model)
    sessions = sessions if sessions is not None else [Session(vjp(model))]
    wanted = [name for name in sessions[0].gradients if name in feeds and feeds[name].size and name not in held]
    result = Result()
    for _ in range(n_cotangents):
        case = _draw(rng, reference, feeds, wanted, step, result)
        for session in sessions:
            result.n_proved += _check(case, session, tolerance or tolerance_of(model))
    return result


@dataclass
class _Case:
    """A smooth point, a cotangent for every float output, and a direction with its derivative for every float input."""

    point: Feeds
    values: dict[str, Array]
    cotangents: dict[str, Array]
    directions: dict[str, Array]
    derivatives: dict[str, float]


def _draw(
    rng: np.random.Generator,
    reference: Callable[[Feeds], dict[str, Array]],
    feeds: Feeds,
    wanted: list[str],
    step: float,
    result: Result,
) -> _Case:
    point: Feeds = feeds
    for i in range(N_REDRAWS + 1):
        if i:
            point = _moved(rng, feeds, wanted, 0.01 * 2 ** (i - 1), positive=2 * i > N_REDRAWS)
            result.n_redrawn += 1
        values = reference(wide(point))
        cotangents = {name: _cotangent(rng, y) for name, y in values.items() if is_float(y)}
        if any(values[name].dtype != np.float64 for name in cotangents):
            raise UncheckableError("the reference computes it in less than float64")
        directions = {name: rng.standard_normal(feeds[name].shape) for name in wanted}
        derivatives = {
            name: _difference(reference, point, values, cotangents, name, directions[name], step) for name in wanted
        }
        smooth = {name: d for name, d in derivatives.items() if d is not None}
        if len(smooth) == len(wanted):
            return _Case(point, values, cotangents, directions, smooth)
    raise UncheckableError(f"no smooth point was found in {N_REDRAWS} draws")


def _cotangent(rng: np.random.Generator, y: Array) -> Array:
    """Return random numbers of few digits, which every float type can hold; 0 where y is infinite (a masked score)."""
    return np.where(np.isfinite(y), np.round(rng.standard_normal(y.shape) * 32) / 32, 0)


def _check(case: _Case, session: Session | ReferenceSession, tolerance: Tolerance) -> int:
    got = session({**case.point, **{f"{name}_grad": u for name, u in case.cotangents.items()}})
    for name in case.cotangents:
        y, bound = np.asarray(got[name], np.float64), tolerance.value
        finite = np.isfinite(case.values[name])  # a masked score is -inf in ONNX, in onnxruntime the lowest number
        if not np.allclose(y[finite], case.values[name][finite], rtol=bound, atol=bound / 10):
            raise OtherValueError(f"{name}: the reference computes something else than onnxruntime.")
    for name, direction in case.directions.items():
        _compare(name, got[f"{name}_grad"], direction, case.derivatives[name], tolerance)
    return len(case.directions)


def _moved(
    rng: np.random.Generator, feeds: Feeds, moving: Collection[str], distance: float, positive: bool
) -> dict[str, Array]:
    """Return a point nearby, without the ties and kinks of the sample inputs, or one where all is positive."""

    def move(x: Array) -> Array:
        wide_x = np.asarray(x, np.float64)
        wide_x = np.where(np.isfinite(wide_x), np.abs(wide_x) if positive else wide_x, 1)
        factor, shift = distance * rng.standard_normal((2, *x.shape))
        return np.asarray(wide_x * (1 + factor) + shift, x.dtype)

    return {name: move(x) if name in moving else x for name, x in feeds.items()}


def _difference(
    reference: Callable[[Feeds], dict[str, Array]],
    point: Feeds,
    values: Mapping[str, Array],
    cotangents: Mapping[str, Array],
    name: str,
    direction: Array,
    step: float,
) -> float | None:
    """Return the directional derivative, or None at a jump or kink, where the differences to both sides disagree.

    The steps differ in length, so that the sides of a symmetric jump (Sign at 0) disagree too.
    """
    forward, backward = step, -step / 2
    slopes = []
    for h in (forward, backward):
        moved = reference({**wide(point), name: point[name].astype(np.float64) + h * direction})
        if any(moved[k].shape != values[k].shape for k in cotangents):
            return None
        slopes.append(sum(_product(u, moved[k], values[k]) for k, u in cotangents.items()) / h)
    if not np.isfinite(slopes).all():
        return None
    derivative = (slopes[0] + 2 * slopes[1]) / 3  # the second derivative cancels
    is_smooth = abs(slopes[0] - slopes[1]) <= RTOL * abs(derivative) + 1e-6
    return derivative if is_smooth or step == 1 else None


def _product(u: Array, moved: Array, value: Array) -> float:
    """Return <u, moved - value> over the finite elements; infinite ones must stay, and NaN is outside of the domain."""
    finite = np.isfinite(value)
    if np.isnan(value).any() or not np.array_equal(moved[~finite], value[~finite], equal_nan=True):
        return np.nan
    return float(np.sum(u[finite] * (moved[finite] - value[finite])))


def _compare(name: str, gradient: Array, direction: Array, numeric: float | None, tolerance: Tolerance) -> None:
    assert numeric is not None
    if gradient.shape != direction.shape:
        raise WrongGradientError(f"{name}: the gradient must have shape {direction.shape}, got {gradient.shape}.")
    terms: Any = gradient.astype(np.float64) * direction
    got = float(terms.sum())
    noise = tolerance.noise * float(np.abs(terms).sum()) + 1e-6
    if not abs(got - numeric) <= tolerance.relative * abs(numeric) + noise:
        raise WrongGradientError(
            f"{name}: the directional derivative must be {numeric:.7g}, got {got:.7g} (noise {noise:.2g})."
        )
