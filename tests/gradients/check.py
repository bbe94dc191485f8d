"""The gradient check: vector-Jacobian products in onnxruntime against differences in float64 in onnx's reference.

For a float input x with direction v and a cotangent u of the outputs, <vjp(u), v> must equal the derivative of
<u, f(x + h v)> at h = 0. The left side is computed by the model that `vjp` writes, in float32 on onnxruntime's CPU
provider; the right side by differences, in float64, by `onnx.reference.ReferenceEvaluator` from the given model.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from renom_onnx.converters import vjp
from tests.gradients.reference import corrected_reference, evaluator

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

RTOL = 3e-4  # of the directional derivative: a gradient wrong by 0.1 % fails
NOISE = 2e-6  # of the sum of |gradient * direction|: what float32 may lose to cancellation
STEP = 1e-6
N_REDRAWS = 8

_NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_TYPE_ATTRIBUTES = {"to", "dtype", "stash_type", "output_dtype", "softmax_precision"}


class UncheckableError(Exception):
    """The model is outside what this check can say something about; the message says why."""


class WrongGradientError(AssertionError):
    """The gradient is not the derivative."""


@dataclass
class Result:
    """What a check found: how many directional derivatives agreed, and how often the point was moved off a kink."""

    n_proved: int = 0
    n_redrawn: int = 0


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every float type replaced by double."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        tensor = info.type.tensor_type
        if tensor.elem_type in _NARROW:
            tensor.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        tensor.CopyFrom(_widened(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(node, attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type not in _NARROW:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)


def _widen_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if attribute.type == onnx.AttributeProto.GRAPH:
        _widen_graph(attribute.g)
    elif attribute.type == onnx.AttributeProto.TENSOR:
        attribute.t.CopyFrom(_widened(attribute.t))
    elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
        value = np.array(helper.get_attribute_value(attribute), np.float64)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))


def is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


class Reference:
    """The model in float64."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(in_float64(model))
        self.names = [output.name for output in model.graph.output]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        with corrected_reference(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                outputs = self._evaluator.run(None, dict(feeds))
            except Exception as e:
                raise UncheckableError(f"the reference does not compute it in float64: {type(e).__name__}: {e}") from e
        return dict(zip(self.names, outputs, strict=True))


def wide(feeds: Feeds) -> dict[str, Array]:
    return {name: x.astype(np.float64) if is_float(x) else x for name, x in feeds.items()}


class Session:
    """A model in onnxruntime, on one thread; feeds are converted to the types of the inputs.

    Raises:
        UncheckableError: onnxruntime does not load or run the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as e:
            raise UncheckableError(f"onnxruntime does not load it: {type(e).__name__}: {e}") from e
        self._types = _input_types(model)
        self._outputs = [output.name for output in model.graph.output]
        self.gradients = [name.removesuffix("_grad") for name in self._outputs if name.endswith("_grad")]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        typed = {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            outputs = self._session.run(self._outputs, typed)
        except Exception as e:
            raise UncheckableError(f"onnxruntime does not run it: {type(e).__name__}: {e}") from e
        return dict(zip(self._outputs, outputs, strict=True))


class ReferenceSession:
    """A model of gradients in onnx's reference, for models that onnxruntime does not know."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(model)
        self._outputs = [output.name for output in model.graph.output]
        self._types = _input_types(model)
        self.gradients = [name.removesuffix("_grad") for name in self._outputs if name.endswith("_grad")]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        typed = {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            outputs = self._evaluator.run(None, typed)
        except Exception as e:
            raise UncheckableError(f"the reference does not run the gradient: {type(e).__name__}: {e}") from e
        return dict(zip(self._outputs, outputs, strict=True))


def _input_types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    return {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}


def check_gradient(
    model: onnx.ModelProto,
    feeds: Feeds,
    sessions: Sequence[Session | ReferenceSession] | None = None,
    *,
    held: Collection[str] = (),
    step: float = STEP,
    seed: int = 0,
    n_cotangents: int = 2,
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

    Raises:
        WrongGradientError: a gradient differs from the differences.
        UncheckableError: the reference cannot say.
    """
    rng = np.random.default_rng(seed)
    reference = Reference(model)
    sessions = sessions if sessions is not None else [Session(vjp(model))]
    wanted = [name for name in sessions[0].gradients if name in feeds and feeds[name].size and name not in held]
    result = Result()
    for _ in range(n_cotangents):
        case = _draw(rng, reference, feeds, wanted, step, result)
        for session in sessions:
            result.n_proved += _check(case, session)
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
    rng: np.random.Generator, reference: Reference, feeds: Feeds, wanted: list[str], step: float, result: Result
) -> _Case:
    point: Feeds = feeds
    shapes = {name: np.shape(y) for name, y in reference(wide(feeds)).items()}
    for i in range(N_REDRAWS + 1):
        if i:
            point = _moved(rng, feeds, wanted, 0.01 * 2 ** (i - 1), positive=2 * i > N_REDRAWS)
            result.n_redrawn += 1
        values = reference(wide(point))
        if any(np.shape(y) != shapes[name] for name, y in values.items()):
            continue
        cotangents = {name: _cotangent(rng, y.shape) for name, y in values.items() if is_float(y)}
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


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return random numbers of few digits, which every float type can hold."""
    return np.round(rng.standard_normal(shape) * 32) / 32


def _check(case: _Case, session: Session | ReferenceSession) -> int:
    got = session({**case.point, **{f"{name}_grad": u for name, u in case.cotangents.items()}})
    for name in case.cotangents:
        if not np.allclose(got[name], case.values[name], rtol=1e-2, atol=1e-3, equal_nan=True):
            raise UncheckableError("the reference computes something else than onnxruntime")
    for name, direction in case.directions.items():
        _compare(name, got[f"{name}_grad"], direction, case.derivatives[name])
    return len(case.directions)


def _moved(
    rng: np.random.Generator, feeds: Feeds, moving: Collection[str], distance: float, positive: bool
) -> dict[str, Array]:
    """Return a point nearby, without the ties and kinks of the sample inputs, or one where all is positive."""

    def move(x: Array) -> Array:
        x = np.where(np.isfinite(x), np.abs(x) if positive else x, 1)
        factor, shift = distance * rng.standard_normal((2, *x.shape))
        return np.asarray(x * (1 + factor) + shift, x.dtype)

    return {name: move(x) if name in moving else x for name, x in feeds.items()}


def _difference(
    reference: Reference,
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
        with np.errstate(invalid="ignore"):
            slopes.append(sum(float(np.sum(u * (moved[k] - values[k]))) for k, u in cotangents.items()) / h)
    if not np.isfinite(slopes).all():
        return None
    derivative = (slopes[0] + 2 * slopes[1]) / 3  # the second derivative cancels
    is_smooth = abs(slopes[0] - slopes[1]) <= RTOL * abs(derivative) + 1e-6
    return derivative if is_smooth or step == 1 else None


def _compare(name: str, gradient: Array, direction: Array, numeric: float | None) -> None:
    assert numeric is not None
    if gradient.shape != direction.shape:
        raise WrongGradientError(f"{name}: the gradient must have shape {direction.shape}, got {gradient.shape}.")
    terms = gradient.astype(np.float64) * direction
    got = float(terms.sum())
    noise = NOISE * float(np.abs(terms).sum()) + 1e-6
    if not abs(got - numeric) <= RTOL * abs(numeric) + noise:
        raise WrongGradientError(
            f"{name}: the directional derivative must be {numeric:.7g}, got {got:.7g} (noise {noise:.2g})."
        )
