"""Optimizers: graph fragments (parameter, gradient, state) -> (parameter, state).

Definitions are PyTorch's; `learning_rate` is fed at every step, so it may be changed while training.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function
from renom_onnx.graph.loss_scale import LossScale
from renom_onnx.graph.node import UPDATE, Input, Mutable, State, Value
from renom_onnx.graph.parameter import Parameter

__all__ = ["Optimizer", "Options"]


class Options(TypedDict, total=False):
    """What every optimizer takes besides its own arguments; see `Optimizer`."""

    clip_value: float | tuple[float, float] | None
    clip_norm: float | None
    accumulate: int
    loss_scale: LossScale | str | None


class Optimizer:
    """Base of optimizers.

    A subclass says what state a parameter has (`state_names`), which of its attributes the formula depends on
    (`hyperparameter_names`), whether it counts steps (`counts_steps`) and how a parameter is updated (`fragment`).
    State is kept per parameter, however often the graph is built again.

    Args:
        learning_rate: step size; may be assigned to while training.
        clip_value: limits of every element of a gradient, one number for both signs.
        clip_norm: limit of the Euclidean norm of all gradients together.
        accumulate: batches whose mean gradient makes one update.
        loss_scale: for float16: a `LossScale`, or "dynamic".
    """

    name = "Optimizer"
    state_names: tuple[str, ...] = ()
    hyperparameter_names: tuple[str, ...] = ()
    counts_steps = False

    def __init__(
        self,
        learning_rate: float,
        *,
        clip_value: float | tuple[float, float] | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        loss_scale: LossScale | str | None = None,
    ) -> None:
        kind = type(self).__name__
        given: object = learning_rate
        if not isinstance(given, int | float | np.number) or not learning_rate >= 0:
            raise ConversionError(f"{kind}: learning_rate must be 0 or more, got {learning_rate!r}.")
        if accumulate < 1:
            raise ConversionError(f"{kind}: accumulate must be 1 or more, got {accumulate}.")
        if loss_scale not in (None, "dynamic") and not isinstance(loss_scale, LossScale):
            raise ConversionError(f"{kind}: loss_scale must be a LossScale or 'dynamic', got {loss_scale!r}.")
        self.clip_value = (-clip_value, clip_value) if isinstance(clip_value, int | float) else clip_value
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.loss_scale = LossScale() if isinstance(loss_scale, str) else loss_scale
        self._counters: weakref.WeakKeyDictionary[Parameter, tuple[State, State]] = weakref.WeakKeyDictionary()
        self._accumulated: weakref.WeakKeyDictionary[Parameter, tuple[State, ...]] = weakref.WeakKeyDictionary()
        self.rate = Mutable(np.array(learning_rate, np.float32), name="learning_rate")
        self._states: weakref.WeakKeyDictionary[Parameter, tuple[State, ...]] = weakref.WeakKeyDictionary()

    @property
    def learning_rate(self) -> float:
        """Step size of the next update."""
        return float(self.rate.array)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.rate.array = np.array(value, np.float32)

    def states(self, parameter: Parameter) -> tuple[State, ...]:
        """Return the state of a parameter, zeros at first."""
        return _zeros(self._states, parameter, self.state_names)

    def counters(self, first: Parameter) -> tuple[State, State]:
        """Return the counts of steps and of accumulated batches of the model whose first parameter this is.

        An optimizer that serves two models counts the steps of each.
        """
        if first not in self._counters:
            self._counters[first] = (
                State(np.array(0, np.int64), "step", None),
                State(np.array(0, np.int64), "batches", None),
            )
        return self._counters[first]

    def accumulated(self, parameter: Parameter) -> tuple[State, ...]:
        """Return the sum of the gradients since the last update, for `accumulate`."""
        return _zeros(self._accumulated, parameter, ("accumulated",))

    def hyperparameters(self) -> dict[str, float | int]:
        """Return the attributes that a call carries: everything that its formula depends on."""
        values = {name: getattr(self, name) for name in self.hyperparameter_names}
        return {name: int(value) if isinstance(value, bool) else float(value) for name, value in values.items()}

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return numbers that all parameters share, computed once per step."""
        return (rate,)

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return the next parameter and the next state.

        Args:
            op: builder; every attribute is an ONNX operator.
            p: parameter.
            g: its gradient.
            scalars: what `scalars` returned, in the parameter's type.
            state: in the order of `state_names`.
        """
        raise NotImplementedError(f"{type(self).__name__}.fragment: an optimizer must define it, got the base class's.")

    def function(self, parameter: Parameter, opset: int, scalar_types: tuple[np.dtype[Any], ...]) -> Function:
        """Return the function that updates parameters of this type."""
        key = (type(self), tuple(self.hyperparameters().items()), parameter.output.dtype, parameter.array.shape, opset)
        function = _cached(key, lambda: _build(self, parameter, opset, scalar_types))
        assert function is not None
        return function

    def scalar_function(self, opset: int) -> Function | None:
        """Return the function that computes `scalars`; None where they are the learning rate alone."""
        key = (type(self), tuple(self.hyperparameters().items()), opset)
        return _cached(key, lambda: _build_scalars(self, opset))


def _zeros(
    held: weakref.WeakKeyDictionary[Parameter, tuple[State, ...]], parameter: Parameter, names: tuple[str, ...]
) -> tuple[State, ...]:
    if parameter not in held:
        zeros = np.zeros(parameter.array.shape, parameter.array.dtype)
        held[parameter] = tuple(State(zeros, name, parameter) for name in names)
    return held[parameter]


_functions: dict[Any, Function | None] = {}


def _cached(key: Any, build: Callable[[], Function | None]) -> Function | None:
    """Return the function of a key; whatever it was built from is not kept alive."""
    if key not in _functions:
        if len(_functions) > 1024:
            _functions.clear()
        _functions[key] = build()
    return _functions[key]


def _build_scalars(optimizer: Optimizer, opset: int) -> Function | None:
    op = Builder(opset, tag=UPDATE)
    r, t = Input(np.dtype(np.float32), (), name="R").output, Input(np.dtype(np.int64), (), name="T").output
    outputs = optimizer.scalars(op, r, t)
    if outputs == (r,):
        return None
    names = tuple(f"S{i}" for i in range(len(outputs)))
    doc = (inspect.getdoc(optimizer.scalars) or "").split("\n")[0]
    attributes = tuple(optimizer.hyperparameters())
    return Function(f"{optimizer.name}Step", DOMAIN, opset, (r, t), outputs, names, attributes, doc)


def _build(optimizer: Optimizer, parameter: Parameter, opset: int, scalar_types: tuple[np.dtype[Any], ...]) -> Function:
    op = Builder(opset, tag=UPDATE)
    dtype, shape = parameter.output.dtype, parameter.output.shape

    def formal(name: str, dtype: np.dtype[Any], shape: Any) -> Value:
        return Input(dtype, shape, name=name).output

    p, g = formal("P", dtype, shape), formal("G", dtype, shape)
    scalars = tuple(formal(f"S{i}", t, ()) for i, t in enumerate(scalar_types))
    state = tuple(formal(name.upper(), dtype, shape) for name in optimizer.state_names)
    numbers = tuple(s if s.dtype == dtype else op.Cast(s, to=dtype) for s in scalars)
    outputs = optimizer.fragment(op, p, g, numbers, *state)
    names = ("P_next", *(f"{name.upper()}_next" for name in optimizer.state_names))
    doc = (type(optimizer).__doc__ or "").split("\n")[0]
    attributes = tuple(optimizer.hyperparameters())
    return Function(optimizer.name, DOMAIN, opset, (p, g, *scalars, *state), outputs, names, attributes, doc)
