"""The specification's own training form: Gradient, Momentum, Adam and Adagrad in place of our nodes.

The update elements of a step are written anew: one Gradient of the loss with respect to all trainable parameters, and
a node of the specification's optimizer for each of them. What lies between (clipping, penalties, accumulation) stays.
Every such node calls a function with a body of standard operators, so that a stock runtime executes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.spec_optimizer import optimizer_function
from renom_onnx.converters.structure import TRAINING_DOMAIN, domain_of, replace_all
from renom_onnx.errors import ConversionError
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import DOMAIN, Function, call
from renom_onnx.graph.node import BACKWARD, UPDATE, Constant, Input, Mutable, Node, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers.adagrad import Adagrad
from renom_onnx.graph.optimizers.adam import Adam, AdamW, correction
from renom_onnx.graph.optimizers.sgd import Sgd
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at
from renom_onnx.graph.update import Updates


@dataclass(eq=False)
class SpecUpdates(Updates):
    """One training step in operators of the specification.

    Attributes:
        differentiated: the y of Gradient: the loss, or the loss times its scale.
        xs: how many of Gradient's inputs are the parameters.
        kept: outputs that nobody reads and that the specification wants.
    """

    differentiated: Value
    xs: int
    kept: list[Value] = field(default_factory=list)


def spec_form(step: Updates, fed: Mapping[Value, np.dtype[Any]], *, bodies: bool) -> SpecUpdates:
    """Return the same step in operators of the specification.

    Args:
        step: as the optimizer made it.
        fed: types in which data are fed, where that is not their own.
        bodies: give every operator a function body; a file without them runs only where they are known.

    Raises:
        ConversionError: the specification has no operator that computes it.
    """
    writing = _Writing(step, fed, bodies)
    writing.replace_gradients()
    next_values = writing.next_values()
    return SpecUpdates(
        step.loss,
        step.training_loss,
        step.optimizer,
        step.parameters,
        next_values,
        writing.gradients,
        writing.y,
        len(step.parameters),
        writing.kept,
    )


def name_gradient(algorithm: onnx.GraphProto, step: SpecUpdates, y: str) -> None:
    """Write into the Gradient node what it differentiates, by the names that the file gives."""
    for node in algorithm.node:
        if domain_of(node) == TRAINING_DOMAIN and node.op_type == "Gradient":
            attributes = {"xs": list(node.input[: step.xs]), "y": y, "zs": list(node.input[step.xs :])}
            replace_all(node.attribute, [helper.make_attribute(k, v) for k, v in attributes.items() if v])


class _Writing:
    """Writes the update elements of one step anew."""

    def __init__(self, step: Updates, fed: Mapping[Value, np.dtype[Any]], bodies: bool) -> None:
        self._step = step
        self._fed = fed
        self._bodies = bodies
        self._opset = next(iter(step.gradients.values())).node.opset
        self._made: dict[Value, Value] = {}
        self._scales: dict[tuple[float, Value], tuple[Value, ...]] = {}
        self._decays: dict[Optimizer, Value] = {}
        self.op = Builder(self._opset, tag=UPDATE, site=step.loss.node.site)
        self.count = self.op.constant(0, np.int64)  # where the operator takes no notice of it
        self.count.name = "update_count"
        self.gradients: dict[Parameter, Value] = {}
        self.kept: list[Value] = []
        self.y = step.training_loss
        if step.optimizer.loss_scale is not None:
            scale = step.optimizer.loss_scale.scale.output
            self.y = self.op.Mul(self.y, scale if scale.dtype == self.y.dtype else self.op.Cast(scale, to=self.y.dtype))

    # Gradient

    def replace_gradients(self) -> None:
        """Put one Gradient in the place of all gradient nodes."""
        forward = ancestors([self.y])
        xs: list[Value] = [parameter.output for parameter in self._step.parameters]
        self._check_cuts(forward, xs)
        leaves = [node.output for node in forward if node.is_leaf and not isinstance(node, Constant)]
        zs = [value for value in leaves if value not in set(xs)]
        function = self._gradient_function(forward, xs, zs) if self._bodies else None
        attributes = {"xs": ("",), "y": "", **({"zs": ("",)} if zs else {})}  # names come with the file
        node = Node(
            "Gradient",
            [*xs, *zs],
            [(x.dtype, x.shape) for x in xs],
            opset=self._opset,
            domain=TRAINING_DOMAIN,
            attributes=attributes,
            function=function,
            tag=BACKWARD,
            site=self._step.loss.node.site,
        )
        self.gradients = dict(zip(self._step.parameters, node.outputs, strict=True))
        self.kept += node.outputs
        for parameter, value in self._step.gradients.items():
            self._made.setdefault(value, self.gradients[parameter])

    def _check_cuts(self, forward: Sequence[Node], xs: Sequence[Value]) -> None:
        reached = {x.node for x in xs}
        for node in forward:
            if any(value is not None and value.node in reached for value in node.inputs):
                if node.stops_gradient:
                    raise ConversionError(
                        f"export_training: with form='spec' the loss must depend on the parameters by operators alone, "
                        f"got a gradient that is stopped, which Gradient cannot say. Use form='functions'. "
                        f"{created_at(node.site)}"
                    )
                reached.add(node)

    def _gradient_function(self, forward: Sequence[Node], xs: Sequence[Value], zs: Sequence[Value]) -> Function:
        """Return y computed again from xs and zs, and differentiated; a runtime merges what is computed twice."""
        names = [*(f"X{i}" for i in range(1, len(xs) + 1)), *(f"Z{i}" for i in range(1, len(zs) + 1))]
        formals = [
            Input(self._fed.get(value, value.dtype), value.shape, name=name).output
            for value, name in zip([*xs, *zs], names, strict=True)
        ]
        made: dict[Value, Value] = dict(zip([*xs, *zs], formals, strict=True))
        for node in forward:
            if not node.is_leaf:
                copy = node.copy([None if value is None else made.get(value, value) for value in node.inputs])
                made.update(zip(node.outputs, copy.outputs, strict=True))
        op = Builder(self._opset, tag=BACKWARD, site=self._step.loss.node.site)
        y, one = made[self.y], op.constant(1, self.y.dtype)
        seed = one if y.shape == () else op.expand_like(one, y)
        wanted = formals[: len(xs)]
        walk = reverse_walk([(y, seed)], opset=self._opset, wanted=wanted)
        gradients = [walk.gradient(x) for x in wanted]
        outputs = tuple(op.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True))
        return Function(
            "Gradient",
            TRAINING_DOMAIN,
            self._opset,
            tuple(formals),
            outputs,
            tuple(f"d{name}" for name in names[: len(xs)]),
            ("xs", "y", "zs") if zs else ("xs", "y"),
            "dX = dy/dX, with y computed again from X and Z.",
        )

    # Updates

    def next_values(self) -> dict[Mutable, Value]:
        """Return what becomes of each mutable leaf."""
        for node in ancestors(self._step.next_values.values()):
            if node.is_leaf or any(value in self._made for value in node.outputs):
                continue
            parameter = node.forward
            if isinstance(parameter, Parameter) and node.tag == UPDATE and node.inputs[0] is parameter.output:
                optimizer = parameter.optimizer or self._step.optimizer
                if node.op_type == optimizer.name:
                    self._made.update(zip(node.outputs, self._update(node, optimizer), strict=True))
                    continue
            inputs = [None if value is None else self._made.get(value, value) for value in node.inputs]
            if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
                self._made.update(zip(node.outputs, node.copy(inputs).outputs, strict=True))
        return {leaf: self._made.get(value, value) for leaf, value in self._step.next_values.items()}

    def _update(self, node: Node, optimizer: Optimizer) -> Sequence[Value]:
        """Return the next parameter and state by an operator of the specification."""
        rewrite = REWRITES.get(_formula(type(optimizer)))
        if rewrite is None:
            known = sorted(kind.__name__ for kind in REWRITES)
            raise ConversionError(
                f"export_training: with form='spec' the optimizer must be one of {', '.join(known)}, which operators "
                f"of the specification compute, got {type(optimizer).__name__}. Use form='functions'."
            )
        p, g, *others = node.inputs
        assert p is not None and g is not None
        if p.dtype not in (np.float32, np.float64):
            raise ConversionError(
                f"export_training: with form='spec' a parameter must be float32 or float64, which the specification's "
                f"optimizers take, got {p}. Use form='functions'."
            )
        state = [value for value in others[len(others) - len(optimizer.state_names) :] if value is not None]
        first = others[0]
        assert first is not None
        count = first.node.inputs[1] if optimizer.counts_steps else None
        return rewrite(self, node, optimizer, p, self._made.get(g, g), count, state)

    def node(
        self, origin: Node, op_type: str, inputs: Sequence[Value], attributes: Mapping[str, Any], n_outputs: int
    ) -> tuple[Value, ...]:
        """Return the outputs of an optimizer node: those of the parameter and of its state, all named in the file."""
        types = [(value.dtype, value.shape) for value in inputs]
        x = inputs[2]
        function = optimizer_function(op_type, attributes, types, self._opset) if self._bodies else None
        made = Node(
            op_type,
            inputs,
            [(x.dtype, x.shape)] * n_outputs,
            opset=self._opset,
            domain=TRAINING_DOMAIN,
            attributes=attributes,
            function=function,
            tag=UPDATE,
            site=origin.site,
            forward=origin.forward,
        )
        self.kept += made.outputs
        return made.outputs

    def scales(self, beta: float, count: Value) -> tuple[Value, ...]:
        """Return 1 / c, 1 / c^2, c and c^2 with c = sqrt(1 - beta^count), by one call for all parameters."""
        key = (beta, count)
        if key not in self._scales:
            op = Builder(self._opset, tag=UPDATE)
            t = Input(count.dtype, count.shape, name="T").output
            square = correction(op, beta, t)
            c = op.Sqrt(square)
            outputs = tuple(op.Cast(v, to=np.float32) for v in (op.Reciprocal(c), op.Reciprocal(square), c, square))
            names = ("S", "S2", "C", "C2")
            doc = "S = 1 / C, C = sqrt(1 - beta^T): what moves Adam's epsilon behind the bias correction."
            function = Function("AdamScale", DOMAIN, self._opset, (t,), outputs, names, ("beta",), doc)
            types = [(np.dtype(np.float32), ())] * 4
            node = call(function, [count], {"beta": beta}, types, tag=UPDATE, site=self._step.loss.node.site)
            self._scales[key] = node.outputs
        return self._scales[key]

    def decay(self, optimizer: AdamW) -> Value:
        """Return what a parameter keeps of itself in a step."""
        if optimizer not in self._decays:
            self._decays[optimizer] = self.op.Sub(1.0, self.op.Mul(optimizer.rate.output, optimizer.weight_decay))
        return self._decays[optimizer]


Rewrite = Callable[[_Writing, Node, Any, Value, Value, Value | None, Sequence[Value]], Sequence[Value]]


def _sgd(
    w: _Writing, node: Node, optimizer: Sgd, p: Value, g: Value, count: Value | None, state: Sequence[Value]
) -> Sequence[Value]:
    """Momentum with beta = 1. Without momentum alpha is 0, and the parameter stands for the state: nobody reads it."""
    attributes = {
        "alpha": float(optimizer.momentum),
        "beta": 1.0,
        "mode": "nesterov" if optimizer.nesterov and state else "standard",
        "norm_coefficient": 0.0,
    }
    outputs = w.node(node, "Momentum", [optimizer.rate.output, w.count, p, g, *(state or [p])], attributes, 2)
    return outputs[: 1 + len(state)]


def _adagrad(
    w: _Writing, node: Node, optimizer: Adagrad, p: Value, g: Value, count: Value | None, state: Sequence[Value]
) -> Sequence[Value]:
    attributes = {"decay_factor": 0.0, "epsilon": float(optimizer.epsilon), "norm_coefficient": 0.0}
    return w.node(node, "Adagrad", [optimizer.rate.output, w.count, p, g, *state], attributes, 2)


def _adam(
    w: _Writing, node: Node, optimizer: Adam, p: Value, g: Value, count: Value | None, state: Sequence[Value]
) -> Sequence[Value]:
    """Adam of a gradient and moments that are scaled by 1 / c, and its moments scaled back, with c = sqrt(1 - beta^T).

    The specification's step is R c / (1 - alpha^T) V' / (sqrt(H') + epsilon). Of V' / c and H' / c^2 it is
    R / (1 - alpha^T) V' / (sqrt(H') / c + epsilon): with epsilon behind the bias correction, as ours is.
    """
    assert count is not None
    op, (m, v) = w.op, state
    attributes = {
        "alpha": float(optimizer.beta1),
        "beta": float(optimizer.beta2),
        "epsilon": float(optimizer.epsilon),
        "norm_coefficient": 0.0,
        "norm_coefficient_post": 0.0,
    }
    inputs = [optimizer.rate.output, count, p]
    if not optimizer.epsilon:
        return w.node(node, "Adam", [*inputs, g, m, v], attributes, 3)
    beta = float(np.float32(optimizer.beta2))  # as an attribute holds it
    shrink, shrink2, grow, grow2 = (s if s.dtype == p.dtype else op.Cast(s, to=p.dtype) for s in w.scales(beta, count))
    scaled = [op.Mul(g, shrink), op.Mul(m, shrink), op.Mul(v, shrink2)]
    next_p, next_m, next_v = w.node(node, "Adam", [*inputs, *scaled], attributes, 3)
    return next_p, op.Mul(next_m, grow), op.Mul(next_v, grow2)


def _adamw(
    w: _Writing, node: Node, optimizer: AdamW, p: Value, g: Value, count: Value | None, state: Sequence[Value]
) -> Sequence[Value]:
    """Adam of a parameter that has decayed already."""
    kept = w.decay(optimizer)
    kept = kept if kept.dtype == p.dtype else w.op.Cast(kept, to=p.dtype)
    return _adam(w, node, optimizer, w.op.Mul(p, kept), g, count, state)


def _formula(kind: type[Optimizer]) -> type[Optimizer]:
    """Return the class whose formula an optimizer computes: itself, or the one that it has the formula from."""
    return next(base for base in kind.__mro__ if not {"fragment", "scalars"}.isdisjoint(vars(base)))


REWRITES: Mapping[type[Optimizer], Rewrite] = {Adagrad: _adagrad, Adam: _adam, AdamW: _adamw, Sgd: _sgd}
"""By optimizer: how operators of the specification compute it."""
