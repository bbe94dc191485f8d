"""Convolutions in onnxruntime's blocked layout, with weights that change.

On CPU onnxruntime has faster kernels for images whose channels lie in blocks of as many as a vector register holds:
(N, C / b, H, W, b). It writes nodes of this kind itself, but only where a kernel of weights is constant, which in
training none is. A kernel is small, so that laying it out anew in every step costs nothing: Reshape and Transpose. An
image is laid out once, for the forward pass and for the gradient of the kernel, which both read it.

The gradient with respect to an image is a convolution with the kernel turned around; that with respect to a kernel is
one too (`blocked_kernel`). What lies between convolutions, and treats all elements alike, reads and writes blocks as it
reads and writes plain images; batch normalization is written anew (`blocked_batch`).

The nodes are of a domain of onnxruntime's own, which may change with any release: they are written for the session that
is about to be opened, never into a file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper

from renom_onnx.converters.cpu.blocked_batch import (
    Centred,
    blocked_normalization,
    blocked_normalization_gradient,
    channel_sums,
)
from renom_onnx.converters.cpu.blocked_kernel import dense_kernel, depthwise_kernel, gains_blocked_kernel
from renom_onnx.converters.cpu.blocked_layout import (
    BLOCKED,
    BlockedWriter,
    Convolution,
    join_activations,
)
from renom_onnx.converters.cpu.contrib import declare
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import (
    domain_of,
    functions_of,
    key_of,
    label_of,
    replace_all,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.training_info import needed
from renom_onnx.graph.function import DOMAIN

ELEMENTWISE = ("Add", "Clip", "Elu", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sub", "Sum", "Tanh")
"""Operators that treat all elements alike, and so do their gradients if all operands have one size."""
_CUT = {"ConvGrad", *(f"{name}Grad" for name in ELEMENTWISE)}
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


def with_blocked_convolutions(model: onnx.ModelProto, block: int, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step with the convolutions that gain by it in the blocked layout.

    Args:
        model: a step whose weights are inputs; its graph is looked at, not what its functions call.
        block: channels of a block, of the machine that runs it.
        shapes: of the step's values.
    """
    if not any(node.op_type in ("Conv", "ConvGrad") for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _Blocking(changed, block, shapes).write()
    return changed


class _Blocking:
    """Writes blocked nodes into a model."""

    def __init__(self, model: onnx.ModelProto, block: int, shapes: KnownShapes) -> None:
        self._model = model
        self._shapes = shapes
        self._op = BlockedWriter(model, block)
        self._functions = functions_of(model)
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._normalized: dict[tuple[str, ...], Centred] = {}

    def write(self) -> None:
        """Replace the convolutions of the model, and what lies between them."""
        handlers = {
            ("", "Conv"): self._forward,
            (DOMAIN, "ConvGrad"): self._gradient,
            (DOMAIN, "BatchNormalizationTrain"): self._normalize,
            (DOMAIN, "BatchNormalizationTrainGrad"): self._normalize_gradient,
            **dict.fromkeys([("", name) for name in ELEMENTWISE], self._elementwise),
            **dict.fromkeys([(DOMAIN, f"{name}Grad") for name in ELEMENTWISE], self._elementwise),
        }
        for node in self._model.graph.node:
            self._op.prefix = f"{label_of(node)}/blocked"
            handler = handlers.get((domain_of(node), node.op_type))
            if handler is None or not handler(node):
                self._op.nodes.append(node)
        if not self._op.is_used:
            return
        replace_all(self._model.graph.node, self._op.nodes)
        declare(self._model, BLOCKED)
        cut = {key_of(node) for node in self._op.nodes if self._is_cut(node)}
        self._model.CopyFrom(inline_calls(self._model, cut.__contains__))
        graph = self._model.graph
        replace_all(graph.node, needed(graph.node, [value.name for value in graph.output]))
        join_activations(graph)

    def _is_cut(self, node: onnx.NodeProto) -> bool:
        """Whether a call is written out, so that what only outputs need that are made here now is left out."""
        return node.domain == DOMAIN and node.op_type in _CUT and key_of(node) in self._functions

    def _actual(self, node: onnx.NodeProto) -> tuple[dict[str, str], dict[str, str]]:
        """Return what a call reads and writes by formal names: nothing in a broken file, which onnxruntime refuses."""
        function = self._functions.get(key_of(node))
        if function is None:
            return {}, {}
        pairs = ((function.input, node.input), (function.output, node.output))
        inputs, outputs = (dict(zip(formal, actual, strict=False)) for formal, actual in pairs)
        return inputs, outputs

    def _convolution(self, node: onnx.NodeProto, x: str, w: str, y: str) -> Convolution | None:
        """Return the convolution that a node is or differentiates; None where its sizes are not known."""
        if not self._are_known(x, w, y) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        sizes = [self._shapes[name] for name in (x, w, y)]
        if len(sizes[0]) != 4 or 0 in (math.prod(size) for size in sizes):
            return None
        pads = (
            tuple(attribute(node, "pads", (0,) * 4)) if attribute(node, "auto_pad", "NOTSET") == "NOTSET" else (0,) * 4
        )
        strides, dilations = (tuple(attribute(node, name, (1, 1))) for name in ("strides", "dilations"))
        return Convolution(sizes[0], sizes[1], sizes[2], strides, dilations, pads, attribute(node, "group", 1))

    def _are_known(self, *names: str) -> bool:
        return all(name in self._shapes for name in names)

    def _forward(self, node: onnx.NodeProto) -> bool:
        """Write the convolution; whether it is one that gains."""
        op = self._op
        x, w, *bias = node.input
        found = None if w in self._constants else self._convolution(node, x, w, node.output[0])
        if found is None or not found.fits(op.block, is_made=op.is_made(x)):
            return False
        blocked = op.op("Conv", op.image(x), op.kernel(w, found), *bias, **found.attributes())
        op.make(node.output[0], blocked, found.y)
        return True

    def _gradient(self, node: onnx.NodeProto) -> bool:
        """Write the gradients that gain and take them from the call, which stays."""
        op = self._op
        actual, outputs = self._actual(node)
        dy, y, x, w = (actual.get(formal, "") for formal in ("dY", "Y", "X", "W"))
        found = self._convolution(node, x, w, y)
        if found is None or self._shapes.get(dy) != found.y:
            return False
        turned = found.turned() if found.fits(op.block, is_made=op.is_made(dy)) else None
        if outputs.get("dX") and turned is not None:
            blocked = op.op("Conv", op.image(dy), op.kernel(w, found, turned=True), **turned.attributes())
            op.make(outputs["dX"], blocked, found.x)
            _take_from(node, outputs["dX"])
        if outputs.get("dW") and gains_blocked_kernel(found, op.block):
            write = depthwise_kernel if found.is_depthwise else dense_kernel
            write(op, dy, x, found, outputs["dW"])
            _take_from(node, outputs["dW"])
        if outputs.get("dB") and op.is_made(dy):
            op.standard("Identity", channel_sums(op, op.image(dy), found.y), output=outputs["dB"])
            _take_from(node, outputs["dB"])
        return False

    def _normalize(self, node: onnx.NodeProto) -> bool:
        """Write the normalization of an image that is made in blocks."""
        x = node.input[0]
        if not self._op.is_made(x) or not self._are_known(*node.input):
            return False
        self._normalized[tuple(node.input)] = blocked_normalization(self._op, node, self._shapes[x])
        return True

    def _normalize_gradient(self, node: onnx.NodeProto) -> bool:
        centred = self._normalized.get(tuple(node.input[-5:]))
        actual, outputs = self._actual(node)
        if centred is None or not actual.get("dY") or actual.get("dY2") or actual.get("dY3"):
            return False
        blocked_normalization_gradient(self._op, actual, outputs, self._shapes[actual["X"]], centred)
        return True

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        """Let a node that treats all elements alike read and write blocks, where something that it reads is made so."""
        op = self._op
        shapes = {self._shapes.get(y, ()) for y in node.output if y}
        shape = shapes.pop() if len(shapes) == 1 else ()
        if len(shape) != 4 or shape[1] % op.block:
            return False
        sizes = [self._shapes.get(x) for x in node.input if x]
        if not all(size == shape or (size is not None and math.prod(size) == 1) for size in sizes):
            return False
        if not any(op.is_made(x) for x in node.input):
            return False
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [op.image(x) if x and self._shapes[x] == shape else x for x in node.input]
        changed.output[:] = [op.name(y) if y else "" for y in node.output]
        op.nodes.append(changed)
        for plain, blocked in zip(node.output, changed.output, strict=True):
            if plain:
                op.make(plain, blocked, shape)
        return True


def _take_from(node: onnx.NodeProto, output: str) -> None:
    """Ask a call for an output no longer."""
    node.output[list(node.output).index(output)] = ""
