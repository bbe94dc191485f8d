"""Optimizers: graph fragments (parameter, gradient, state) -> (parameter, state).

Definitions are PyTorch's; `learning_rate` is fed at every step, so it may be changed while training.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function
from renom_onnx.graph.loss_scale import LossScale
from renom_onnx.graph.node import UPDATE, Input, Mutable, Node, State, Value
from renom_onnx.graph.parameter import Parameter

__all__ = ["Adam", "Optimizer", "Sgd"]


class Options(TypedDict, total=False):
    """What every optimizer takes besides its own arguments; see `Optimizer`."""

    clip_value: float | tuple[float, float] | None
    clip_norm: float | None
    accumulate: int
    loss_scale: LossScale | str | None


class Optimizer:
    """Base of optimizers.

    A subclass says what state a parameter has (`state_names`), whether it counts steps (`counts_steps`) and how a
    parameter is updated (`fragment`). State is kept per parameter, however often the graph is built again.

    Args:
        learning_rate: step size; may be assigned to while training.
        clip_value: limits of every element of a gradient, one number for both signs.
        clip_norm: limit of the Euclidean norm of all gradients together.
        accumulate: batches whose mean gradient makes one update.
        loss_scale: for float16: a `LossScale`, or "dynamic".
    """

    name = "Optimizer"
    state_names: tuple[str, ...] = ()
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
        if not learning_rate >= 0:
            raise ConversionError(f"{kind}: learning_rate must be 0 or more, got {learning_rate}.")
        if accumulate < 1:
            raise ConversionError(f"{kind}: accumulate must be 1 or more, got {accumulate}.")
        if loss_scale not in (None, "dynamic") and not isinstance(loss_scale, LossScale):
            raise ConversionError(f"{kind}: loss_scale must be a LossScale or 'dynamic', got {loss_scale!r}.")
        self.clip_value = (-clip_value, clip_value) if isinstance(clip_value, int | float) else clip_value
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.loss_scale = LossScale() if isinstance(loss_scale, str) else loss_scale
        self.batch_counter = State(np.array(0, np.int64), "batches", None)
        self._accumulated: weakref.WeakKeyDictionary[Parameter, tuple[State, ...]] = weakref.WeakKeyDictionary()
        self.rate = Mutable(np.array(learning_rate, np.float32), name="learning_rate")
        self.step = State(np.array(0, np.int64), "step", None)
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

    def accumulated(self, parameter: Parameter) -> tuple[State, ...]:
        """Return the sum of the gradients since the last update, for `accumulate`."""
        return _zeros(self._accumulated, parameter, ("accumulated",))

    def hyperparameters(self) -> dict[str, float | int]:
        """Return the attributes that a call carries."""
        return {}

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return numbers that all parameters share, computed once per step."""
        return (rate,)

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return the next parameter and the next state.

        Args:
            op: builder; every attribute is an ONNX operator.
            p: parameter.
            g: its gradient.
            scalars: what `scalars` returned.
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
    rate, step = optimizer.rate.output, optimizer.step.output
    r, t = Input(rate.dtype, (), name="R").output, Input(step.dtype, (), name="T").output
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
    outputs = optimizer.fragment(op, p, g, scalars, *state)
    names = ("P_next", *(f"{name.upper()}_next" for name in optimizer.state_names))
    doc = (type(optimizer).__doc__ or "").split("\n")[0]
    attributes = tuple(optimizer.hyperparameters())
    return Function(optimizer.name, DOMAIN, opset, (p, g, *scalars, *state), outputs, names, attributes, doc)


class Sgd(Optimizer):
    """p' = p - learning_rate * v', with v' = momentum * v + g.

    Args:
        learning_rate: step size.
        momentum: 0 for none (then v' = g and there is no state). PyTorch's form, without dampening.
        nesterov: p' = p - learning_rate * (g + momentum * v').
        options: see `Optimizer`.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Sgd(0.1, momentum=0.9).state_names
        ('momentum',)
    """

    name = "SGD"

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.momentum = momentum
        self.nesterov = nesterov
        self.state_names = ("momentum",) if momentum else ()

    def hyperparameters(self) -> dict[str, float | int]:
        """Return momentum and nesterov."""
        return {"momentum": float(self.momentum), "nesterov": int(self.nesterov)}

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p' and, with momentum, v'."""
        rate = scalars[0] if scalars[0].dtype == p.dtype else op.Cast(scalars[0], to=p.dtype)
        if not state:
            return (op.Sub(p, op.Mul(rate, g)),)
        v = op.Add(op.Mul(state[0], self.momentum), g)
        step = op.Add(op.Mul(v, self.momentum), g) if self.nesterov else v
        return op.Sub(p, op.Mul(rate, step)), v


class Adam(Optimizer):
    """p' = p - learning_rate / (1 - beta1^t) * m' / (sqrt(v' / (1 - beta2^t)) + epsilon).

    m' = m + (g - m) (1 - beta1), v' = v + (g^2 - v) (1 - beta2), t counts the steps from 1.

    Args:
        learning_rate: step size.
        beta1, beta2: decay of the mean and of the mean square, in [0, 1).
        epsilon: added after the bias correction, as PyTorch does (Kingma & Ba add it before; ONNX's preview Adam too).
        options: see `Optimizer`.

    Source: Kingma & Ba 2015, arXiv:1412.6980; https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html.

    Example:
        >>> import renom_onnx as rm
        >>> rm.graph.Adam().learning_rate
        0.0010000000474974513
    """

    name = "Adam"
    state_names = ("adam_m", "adam_v")
    counts_steps = True

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, float | int]:
        """Return beta1, beta2 and epsilon."""
        return {"beta1": float(self.beta1), "beta2": float(self.beta2), "epsilon": float(self.epsilon)}

    def scalars(self, op: Builder, rate: Value, step: Value) -> tuple[Value, ...]:
        """Return learning_rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t), computed in float64 as PyTorch does."""
        t = op.Cast(step, to=np.float64)
        first = op.Sub(1.0, op.Pow(op.constant(self.beta1, np.float64), t))
        second = op.Sub(1.0, op.Pow(op.constant(self.beta2, np.float64), t))
        size = op.Div(op.Cast(rate, to=np.float64), first)
        return op.Cast(size, to=np.float32), op.Cast(op.Reciprocal(op.Sqrt(second)), to=np.float32)

    def fragment(self, op: Builder, p: Value, g: Value, scalars: tuple[Value, ...], *state: Value) -> tuple[Value, ...]:
        """Return p', m' and v'."""
        size, scale = (s if s.dtype == p.dtype else op.Cast(s, to=p.dtype) for s in scalars)
        m = op.Add(state[0], op.Mul(op.Sub(g, state[0]), 1 - self.beta1))
        v = op.Add(state[1], op.Mul(op.Sub(op.Mul(g, g), state[1]), 1 - self.beta2))
        denominator = op.Add(op.Mul(op.Sqrt(v), scale), self.epsilon)
        return op.Sub(p, op.Mul(size, op.Div(m, denominator))), m, v


_defaults: weakref.WeakKeyDictionary[Node, Sgd] = weakref.WeakKeyDictionary()


def default_optimizer(root: Node) -> Sgd:
    """Return the optimizer of a root that was given none: the seed's ``Sgd(0.01, momentum=0.4)``."""
    if root not in _defaults:
        _defaults[root] = sgd_update()
    return _defaults[root]


def sgd_update(learning_rate: float = 0.01, momentum: float = 0.4) -> Sgd:
    """Return ``Sgd`` with the seed's defaults."""
    return Sgd(learning_rate, momentum)
