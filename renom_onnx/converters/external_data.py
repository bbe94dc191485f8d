"""External data of training steps, which onnx neither writes nor reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from renom_onnx.converters.structure import every_node


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every initializer and every tensor in an attribute of a graph, those of the bodies in it too."""
    yield from graph.initializer
    for node in every_node(graph.node):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in [attribute.g, *attribute.graphs]:
                yield from body.initializer


def load_training_data(model: onnx.ModelProto, folder: str | os.PathLike[str]) -> None:
    """Read the external data of a model's training steps, as `onnx.load` has read those of its graph.

    Onnx's reader refuses files outside of the folder, links and lengths beyond the end of the file.
    """
    for info in model.training_info:
        for graph in (info.initialization, info.algorithm):
            for tensor in tensors_of(graph):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    load_external_data_for_tensor(tensor, os.fspath(folder))
