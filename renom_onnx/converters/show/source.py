"""What can be shown: files, and elements as the model that they would be exported as."""

from __future__ import annotations

from typing import Any

from renom_onnx.converters.doctor.reading import Opened, open_model
from renom_onnx.converters.export import to_onnx, to_training_onnx
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer


def open_source(source: Any, *, training: bool) -> Opened:
    """Return the model of a path, bytes or protobuf, or the export of an element, layer or loss.

    Args:
        source: what to show.
        training: of a loss, with its training step and the default optimizer.
    """
    if not isinstance(source, GraphElement | Layer):
        return open_model(source, "show")
    is_loss = isinstance(source, GraphElement) and source.output.node.loss is not None
    model = to_training_onnx(source) if training and is_loss else to_onnx(source)  # type: ignore[arg-type]
    return Opened(model, f"a {type(source).__name__}", None, model.ByteSize())
