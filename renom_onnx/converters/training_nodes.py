"""What nodes of a file are in training: Dropout drops, BatchNormalization may take the statistics of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from renom_onnx.errors import ShapeError
from renom_onnx.graph import schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.layers.batch_normalization import batch_training
from renom_onnx.graph.layers.dropout import Dropout
from renom_onnx.graph.node import Node, Value, known_array
from renom_onnx.graph.parameter import Statistic
from renom_onnx.graph.site import created_at
from renom_onnx.graph.training_form import TrainingForm, TrainingForward


class TrainingNodes:
    """The nodes of a model that are something else in training.

    Args:
        nodes: of the model as it was read.

    Attributes:
        dropouts: a layer for every Dropout, by the node's name; it has the random numbers.
        trains_statistics: whether batch normalization takes the statistics of the batch and moves the running ones.
        unbiased: whether it moves the running variance by that of a sample.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.dropouts: dict[str, Dropout] = {}
        self.trains_statistics = False
        self.unbiased = False
        for node in nodes:
            if _is(node, "Dropout") and node.site[0] not in self.dropouts and 0 < (rate := _rate(node)) < 1:
                self.dropouts[node.site[0]] = Dropout(rate)

    def attach(self, nodes: Iterable[Node]) -> None:
        """Give nodes of a call the forms that they have in training."""
        for node in nodes:
            if _is(node, "Dropout") and node.site[0] in self.dropouts:
                layer = self.dropouts[node.site[0]]
                node.training_form = layer.train
                node.layers = (*node.layers, layer)
            elif _is(node, "BatchNormalization"):
                node.training_form = self._batch_form(node)

    def _batch_form(self, node: Node) -> TrainingForm | None:
        mean, var = node.inputs[3], node.inputs[4]
        if mean is None or var is None or not all(isinstance(v.node, Statistic) for v in (mean, var)):
            return None
        values = schema.attributes_with_defaults(schema.operator("BatchNormalization", node.opset), node.attributes)
        attributes: dict[str, Any] = {name: values[name] for name in ("epsilon", "momentum")}
        is_always = bool(values.get("training_mode"))

        def train(op: Builder, inputs: Sequence[Value | None], forward: TrainingForward) -> Sequence[Value] | None:
            if not (self.trains_statistics or is_always):
                return None
            x = inputs[0]
            if x is None or x.rank is None:
                raise ShapeError(
                    f"BatchNormalization: x must have a known number of axes to train the statistics, got {x}. "
                    f"{created_at(node.site)}"
                )
            build = batch_training(node, mean, var, **attributes, unbiased=self.unbiased)
            return build(op, inputs, forward)

        return train


def _is(node: Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == "" and node.function is None


def _rate(node: Node) -> float:
    """Return the ratio of Dropout, 0 for one that only the run will know."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return float(node.attributes.get("ratio", 0.5))
    ratio = known_array(node.inputs[1])
    return float(ratio) if ratio is not None and ratio.size == 1 else 0.0
