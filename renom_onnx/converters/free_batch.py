"""A batch size that a file fixes, freed also where a Reshape repeats it as a number."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.encoding import array_of


def free_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Let constant targets of Reshape that begin with the batch size keep the first axis instead (0, as ONNX says).

    Exporters write ``Reshape(x, [1, 512])`` where the batch was 1; with 1 the result is the same as before. A target
    that another node reads too is copied.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors[node.output[0]] = attribute.t
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx") or node.input[1] not in tensors:
            continue
        sizes = array_of(tensors[node.input[1]])
        if any(a.name == "allowzero" and a.i for a in node.attribute) or not sizes.size or sizes[0] != batch:
            continue
        name = f"{node.input[1]}.free{number}"
        graph.initializer.append(numpy_helper.from_array(np.array([0, *sizes[1:]], np.int64), name))
        node.input[1] = name
