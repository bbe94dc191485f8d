"""What a tree is in training, where that differs from inference (Dropout, batch normalization).

An element that differs carries a `training_form`. The training forward is the inference forward up to the first of
them and a copy after it, named ``<name>.train`` in an export; nothing of it is printed or evaluated by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Mutable, Node, Value, ancestors
from renom_onnx.graph.setting import in_inference

TrainingForm = Callable[[Builder, Sequence[Value | None], "TrainingForward"], Sequence[Value] | None]
"""Called with a builder, the inputs in training and the forward so far; returns what stands for the node's outputs, or
None where nothing differs."""


@dataclass
class TrainingForward:
    """The forward pass of a training step.

    Attributes:
        loss: the loss in training.
        values: what stands for a value in training, where that is another.
        next_values: what becomes of running statistics and counters.
        was_inference: of the elements that differ, whether their layers were set to inference.
    """

    loss: Value
    values: dict[Value, Value] = field(default_factory=dict)
    next_values: dict[Mutable, Value] = field(default_factory=dict)
    was_inference: dict[Node, bool] = field(default_factory=dict)

    def is_stale(self) -> bool:
        """Whether a layer was set to inference or back since."""
        return any(in_inference(node) is not was for node, was in self.was_inference.items())


def training_forward(loss: Value, opset: int) -> TrainingForward:
    """Return the training forward of a loss."""
    forward = TrainingForward(loss)
    for node in ancestors([loss]):
        inputs = [None if v is None else forward.values.get(v, v) for v in node.inputs]
        outputs = None
        if node.training_form is not None:
            forward.was_inference[node] = in_inference(node)
        if forward.was_inference.get(node) is False:
            outputs = node.training_form(Builder(opset, site=node.site, origin=node), inputs, forward)
        if outputs is None:
            if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
                continue
            outputs = node.copy(inputs, origin=node).outputs
        forward.values.update(zip(node.outputs, outputs, strict=False))
    forward.loss = forward.values.get(loss, loss)
    return forward
