"""Update elements: what becomes of every trainable parameter before a loss.

The way of a gradient: summed by the reverse walk, divided by the loss scale, averaged over accumulated batches,
clipped, regularized, and handed to the parameter's optimizer. A step that is not due, or that overflowed, selects the
old values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.graph.backward import BackwardPass
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.clipping import clip_by_norm, clip_by_value
from renom_onnx.graph.function import call
from renom_onnx.graph.loss_scale import LossScale, all_finite
from renom_onnx.graph.node import UPDATE, Mutable, Node, State, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.regularizer import regularized
from renom_onnx.graph.site import created_at


@dataclass(eq=False)
class Updates:
    """One training step of a root.

    Attributes:
        loss: what is made small, as inference computes it.
        training_loss: the same in training; the loss itself where nothing differs.
        optimizer: whose update elements these are; parameters may have one of their own.
        parameters: in tree order.
        next_values: what becomes of each mutable leaf (parameters, state, step count).
        gradients: of the parameters.
    """

    loss: Value
    training_loss: Value
    optimizer: Optimizer
    parameters: list[Parameter]
    next_values: dict[Mutable, Value]
    gradients: dict[Parameter, Value]


def updates(backward: BackwardPass, optimizer: Optimizer) -> Updates:
    """Return the update elements of a backward pass, added to the tree at the first call.

    Raises:
        GradientError: the loss depends on no trainable parameter, or on one through an operator without gradient.
    """
    root = backward.loss.node
    parameters = trainable_parameters(backward.loss)
    settings = tuple((p, p.optimizer, p.regularizer) for p in parameters)
    key = (backward, optimizer, settings, tuple(sorted(optimizer.hyperparameters().items())))
    if key not in root.updates:
        root.updates[key] = _Step(backward, optimizer, parameters).updates()
    found: Updates = root.updates[key]
    return found


def trainable_parameters(loss: Value) -> list[Parameter]:
    """Return the parameters that the loss depends on and that are not frozen, in tree order.

    What lies only behind a cut (`stop_gradient`, a disconnected element) is not trained.
    """
    cuts = [node for node in ancestors([loss]) if node.stops_gradient]
    return [node for node in ancestors([loss], cuts) if isinstance(node, Parameter) and node.trainable]


@dataclass
class _Step:
    """Builds the update elements of one root."""

    backward: BackwardPass
    optimizer: Optimizer
    parameters: Sequence[Parameter]
    next_values: dict[Mutable, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.site = self.backward.loss.node.site
        self.op = Builder(self.backward.opset, tag=UPDATE, site=self.site)
        if not self.parameters:
            raise GradientError(
                f"update: the loss must depend on a trainable parameter, got one that depends on none. "
                f"{created_at(self.site)}"
            )

    def updates(self) -> Updates:
        """Return the finished step."""
        backward, optimizer = self.backward, self.optimizer
        if optimizer.loss_scale is not None:
            backward = BackwardPass(backward.root, opset=backward.opset, scale=optimizer.loss_scale.scale.output)
        gradients = {p: backward.gradient(p.output) for p in self.parameters}
        ready = gradients
        finite = due = None
        if optimizer.loss_scale is not None:
            ready, finite = self._unscaled(ready, optimizer.loss_scale)
        if optimizer.accumulate > 1:
            ready, due = self._accumulated(ready, finite)
        ready = clip_by_value(self.op, ready, self.backward.limits)
        ready = clip_by_value(self.op, ready, optimizer.clip_value)
        ready = clip_by_norm(self.op, ready, optimizer.clip_norm)
        ready = {p: regularized(self.op.opset, p, g) for p, g in ready.items()}
        self._update(ready, finite if due is None else due if finite is None else self.op.And(due, finite))
        self._select(backward.forward.next_values, finite)
        return Updates(
            backward.loss, backward.forward.loss, optimizer, list(self.parameters), self.next_values, gradients
        )

    def _unscaled(self, gradients: dict[Parameter, Value], scale: LossScale) -> tuple[dict[Parameter, Value], Value]:
        inverse = self.op.Reciprocal(scale.scale.output)
        ready = {
            p: self.op.Mul(g, inverse if g.dtype == inverse.dtype else self.op.Cast(inverse, to=g.dtype))
            for p, g in gradients.items()
        }
        finite = all_finite(self.op, list(ready.values()))
        self.next_values.update(scale.next_values(self.op, finite))
        return ready, finite

    def _accumulated(
        self, gradients: dict[Parameter, Value], finite: Value | None
    ) -> tuple[dict[Parameter, Value], Value]:
        """Return the mean gradients since the last update, and whether an update is due."""
        op, n = self.op, self.optimizer.accumulate
        _, counter = self.optimizer.counters(self.parameters[0])
        count = op.Add(counter.output, 1)
        due = op.Equal(count, op.constant(n, np.int64))
        self._select({counter: op.Where(due, op.constant(0, np.int64), count)}, finite)
        ready = {}
        for parameter, g in gradients.items():
            (held,) = self.optimizer.accumulated(parameter)
            total = op.Add(held.output, g)
            ready[parameter] = op.Mul(total, 1 / n)
            self._select({held: op.Where(due, op.zero(total), total)}, finite)
        return ready, due

    def _update(self, gradients: dict[Parameter, Value], condition: Value | None) -> None:
        """Call each parameter's optimizer."""
        shared: dict[Optimizer, tuple[Value, ...]] = {}
        for parameter, g in gradients.items():
            optimizer = parameter.optimizer or self.optimizer
            if optimizer not in shared:
                shared[optimizer] = self._shared_scalars(optimizer, parameter, condition)
            states = optimizer.states(parameter)
            scalars = shared[optimizer]
            function = optimizer.function(parameter, self.op.opset, tuple(s.dtype for s in scalars))
            inputs = [parameter.output, g, *scalars, *(s.output for s in states)]
            types = [(v.dtype, v.shape) for v in [parameter.output, *(s.output for s in states)]]
            node = call(
                function,
                inputs,
                optimizer.hyperparameters(),
                types,
                tag=UPDATE,
                site=g.node.site,
                forward=parameter,
            )
            self._select(dict(zip([parameter, *states], node.outputs, strict=True)), condition)

    def _shared_scalars(self, optimizer: Optimizer, first: Parameter, condition: Value | None) -> tuple[Value, ...]:
        """Return what all updates of an optimizer share, as the call of one function if there is much to compute."""
        counter, _ = optimizer.counters(first)
        step = counter.output
        if optimizer.counts_steps:
            step = self.op.Add(step, 1)
            self._select({counter: step}, condition)
        rate = optimizer.rate.output
        function = optimizer.scalar_function(self.op.opset)
        if function is None:
            return (rate,)
        types = [(v.dtype, v.shape) for v in function.outputs]
        attributes = optimizer.hyperparameters()
        node: Node = call(function, [rate, step], attributes, types, tag=UPDATE, site=self.site)
        return node.outputs

    def _select(self, values: dict[Mutable, Value] | dict[State, Value], condition: Value | None) -> None:
        """Keep next values, or the old ones where the condition does not hold."""
        for leaf, value in values.items():
            self.next_values[leaf] = value if condition is None else self.op.Where(condition, value, leaf.output)
