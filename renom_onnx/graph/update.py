"""Update elements: one for every trainable parameter before a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from renom_onnx.errors import GradientError
from renom_onnx.graph.backward import BackwardPass
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.function import call
from renom_onnx.graph.node import UPDATE, Mutable, Node, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at


@dataclass(eq=False)
class Updates:
    """One training step of a root.

    Attributes:
        loss: what is made small, as inference computes it.
        training_loss: the same in training; the loss itself where nothing differs.
        optimizer: whose update elements these are.
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
    key = (backward, optimizer, tuple(parameters), tuple(sorted(optimizer.hyperparameters().items())))
    if key not in root.updates:
        root.updates[key] = _build(backward, optimizer, parameters)
    found: Updates = root.updates[key]
    return found


def trainable_parameters(loss: Value) -> list[Parameter]:
    """Return the parameters that the loss depends on and that are not frozen, in tree order."""
    return [node for node in ancestors([loss]) if isinstance(node, Parameter) and node.trainable]


def _build(backward: BackwardPass, optimizer: Optimizer, parameters: Sequence[Parameter]) -> Updates:
    if not parameters:
        raise GradientError(
            f"update: the loss must depend on a trainable parameter, got one that depends on none. "
            f"{created_at(backward.loss.node.site)}"
        )
    opset = backward.opset
    next_values: dict[Mutable, Value] = dict(backward.forward.next_values)
    op = Builder(opset, tag=UPDATE, site=backward.loss.node.site)
    step = optimizer.step.output
    if optimizer.counts_steps:
        step = op.Add(step, 1)
        next_values[optimizer.step] = step
    scalars = _shared_scalars(optimizer, step, opset)
    gradients = {}
    for parameter in parameters:
        gradients[parameter] = g = backward.gradient(parameter.output)
        states = optimizer.states(parameter)
        function = optimizer.function(parameter, opset, tuple(s.dtype for s in scalars))
        inputs = [parameter.output, g, *scalars, *(s.output for s in states)]
        types = [(v.dtype, v.shape) for v in [parameter.output, *(s.output for s in states)]]
        attributes = optimizer.hyperparameters()
        node = call(function, inputs, attributes, types, tag=UPDATE, site=g.node.site, forward=parameter)
        next_values.update(zip([parameter, *states], node.outputs, strict=True))
    return Updates(backward.loss, backward.forward.loss, optimizer, list(parameters), next_values, gradients)


def _shared_scalars(optimizer: Optimizer, step: Value, opset: int) -> tuple[Value, ...]:
    """Return what all updates share, as the call of one function where there is something to compute."""
    rate = optimizer.rate.output
    function = optimizer.scalar_function(opset)
    if function is None:
        return (rate,)
    types = [(v.dtype, v.shape) for v in function.outputs]
    attributes = optimizer.hyperparameters()
    node: Node = call(function, [rate, step], attributes, types, tag=UPDATE, site=step.node.site)
    return node.outputs
