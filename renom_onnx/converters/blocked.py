"""Convolutions in onnxruntime's blocked layout, with weights that change.

On CPU onnxruntime has faster kernels for images whose channels lie in blocks of as many as a vector register holds:
(N, C / b, H, W, b). It writes nodes of this kind itself, but only where a kernel of weights is constant, which in
training none is. A kernel is small, so that laying it out anew in every step costs nothing: Reshape and Transpose. An
image is laid out once, for the forward pass and for the gradient of the kernel, which both read it.

The gradient with respect to an image is a convolution with the kernel turned around; that with respect to a kernel is
one too (`blocked_kernel`).

The nodes are of a domain of onnxruntime's own, which may change with any release: they are written for the session that
is about to be opened, never into a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.blocked_kernel import dense_kernel, depthwise_kernel, gains_blocked_kernel
from renom_onnx.converters.blocked_layout import BLOCKED, BlockedWriter, Convolution, Sizes, declare_blocked
from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import (
    domain_of,
    functions_of,
    inferred_types,
    key_of,
    label_of,
    replace_all,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.graph.function import DOMAIN

PROBED_CHANNELS = 64
"""Channels of the image by which `probe_model` tells the size of a block: no fewer than a block can have."""


def probe_model() -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """Return a model and what to feed it; it returns the channel numbers of a blocked image of two pixels."""
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, PROBED_CHANNELS, 1, 2])
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED)
    graph = helper.make_graph([node], "probe", [image], [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(BLOCKED, 1)]
    channels = np.repeat(np.arange(PROBED_CHANNELS, dtype=np.float32), 2).reshape(1, PROBED_CHANNELS, 1, 2)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), {"x": channels}


def block_of(blocked: np.ndarray[Any, Any]) -> int:
    """Return the channels of a block, from what the model of `probe_model` returns: how many lie before the next pixel.

    Example:
        >>> block_of(np.array([0, 1, 2, 3, 0, 1, 2, 3, 4], np.float32))
        4
    """
    return int(np.argmin(np.diff(blocked.ravel()) > 0)) + 1


def with_blocked_convolutions(model: onnx.ModelProto, block: int, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Return a step with the convolutions that gain by it in the blocked layout.

    Args:
        model: a step whose weights are inputs; its graph is looked at, not what its functions call.
        block: channels of a block, of the machine that runs it.
        sizes: of all symbols, as the session fixes them.
    """
    if not any(node.op_type in ("Conv", "ConvGrad") for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _Blocking(changed, block, known_shapes(model, sizes)).write()
    return changed


def known_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, Sizes]:
    """Return the sizes of all float32 values of which all are known."""
    fixed = onnx.GraphProto()
    fixed.CopyFrom(model.graph)
    for value in [*fixed.input, *fixed.output, *fixed.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    found: dict[str, Sizes] = {}
    for name, proto in inferred_types(model, fixed).items():
        if proto.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            continue
        _, shape = value_type(proto)
        if shape is not None and all(isinstance(d, int) for d in shape):
            found[name] = tuple(int(d) for d in shape)
    return found


class _Blocking:
    """Writes blocked nodes into a model."""

    def __init__(self, model: onnx.ModelProto, block: int, shapes: Mapping[str, Sizes]) -> None:
        self._model = model
        self._shapes = shapes
        self._op = BlockedWriter(model, block)

    def write(self) -> None:
        """Replace the convolutions of the model."""
        constants = {tensor.name for tensor in self._model.graph.initializer}
        functions = functions_of(self._model)
        cut = set()
        for node in self._model.graph.node:
            self._op.prefix = f"{label_of(node)}/blocked"
            if (domain_of(node), node.op_type) == ("", "Conv") and node.input[1] not in constants:
                if self._forward(node):
                    continue
            elif (node.domain, node.op_type) == (DOMAIN, "ConvGrad"):
                function = functions.get(key_of(node))  # None in a broken file, which onnxruntime refuses
                if function is not None and self._gradient(node, function):
                    cut.add(key_of(node))
            self._op.nodes.append(node)
        if not self._op.is_used:
            return
        replace_all(self._model.graph.node, self._op.nodes)
        declare_blocked(self._model)
        if cut:  # what only the outputs need that are computed here now is left out
            self._model.CopyFrom(inline_calls(self._model, cut.__contains__))

    def _convolution(self, node: onnx.NodeProto, x: str, w: str, y: str) -> Convolution | None:
        """Return the convolution that a node is or differentiates; None where its sizes are not known."""
        if not {x, w, y} <= self._shapes.keys() or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        sizes = [self._shapes[name] for name in (x, w, y)]
        if len(sizes[0]) != 4 or 0 in (math.prod(size) for size in sizes):
            return None
        pads = (
            tuple(attribute(node, "pads", (0,) * 4)) if attribute(node, "auto_pad", "NOTSET") == "NOTSET" else (0,) * 4
        )
        strides, dilations = (tuple(attribute(node, name, (1, 1))) for name in ("strides", "dilations"))
        return Convolution(sizes[0], sizes[1], sizes[2], strides, dilations, pads, attribute(node, "group", 1))

    def _forward(self, node: onnx.NodeProto) -> bool:
        """Write the convolution; whether it is one that gains."""
        op = self._op
        x, w, *bias = node.input
        found = self._convolution(node, x, w, node.output[0])
        if found is None or not found.fits(op.block):
            return False
        blocked = op.op("Conv", op.image(x), op.kernel(w, found), *bias, **found.attributes())
        op.op("ReorderOutput", blocked, output=node.output[0], channels=found.w[0])
        return True

    def _gradient(self, node: onnx.NodeProto, function: onnx.FunctionProto) -> bool:
        """Write the gradients that gain and take them from the call; whether there are any."""
        op = self._op
        actual = dict(zip(function.input, node.input, strict=False))
        dy, y, x, w = (actual.get(formal, "") for formal in ("dY", "Y", "X", "W"))
        found = self._convolution(node, x, w, y)
        if found is None or self._shapes.get(dy) != found.y:
            return False
        turned = found.turned() if found.fits(op.block) else None
        outputs = dict(zip(function.output, node.output, strict=False))
        is_any = False
        if outputs.get("dX") and turned is not None:
            blocked = op.op("Conv", op.image(dy), op.kernel(w, found, turned=True), **turned.attributes())
            op.op("ReorderOutput", blocked, output=outputs["dX"], channels=turned.w[0])
            is_any = _take_from(node, outputs["dX"])
        if outputs.get("dW") and gains_blocked_kernel(found, op.block):
            write = depthwise_kernel if found.is_depthwise else dense_kernel
            write(op, dy, x, found, outputs["dW"])
            is_any = _take_from(node, outputs["dW"])
        return is_any


def _take_from(node: onnx.NodeProto, output: str) -> bool:
    """Ask a call for an output no longer."""
    node.output[list(node.output).index(output)] = ""
    return True
