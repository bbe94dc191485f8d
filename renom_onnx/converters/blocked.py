"""Convolutions in onnxruntime's blocked layout, with weights that change.

On CPU onnxruntime has faster kernels for images whose channels lie in blocks of as many as a vector register holds:
(N, C / b, H, W, b). It writes nodes of this kind itself, but only where a kernel of weights is constant, which in
training none is. A kernel is small, so that laying it out anew in every step costs nothing: Reshape and Transpose. An
image is laid out once, for the forward pass and for the gradient of the kernel, which both read it.

The gradient with respect to an image is a convolution with the kernel turned around. That with respect to a depthwise
kernel is one too: every channel of every sample is an image of its own, its gradient is the kernel, as large as the
response, and stride and dilation are swapped. (For dense kernels this form is slow; they keep the portable one.)

The nodes are of a domain of onnxruntime's own, which may change with any release: they are written for the session that
is about to be opened, never into a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import (
    domain_of,
    functions_of,
    inferred_types,
    key_of,
    label_of,
    names_of,
    opsets_of,
    replace_all,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.graph.function import DOMAIN

BLOCKED = "com.microsoft.nchwc"
"""The domain of onnxruntime's blocked operators."""
PROBED_CHANNELS = 64
"""Channels of the image by which `probe_model` tells the size of a block: no fewer than a block can have."""

Sizes = tuple[int, ...]


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


@dataclass(frozen=True)
class _Convolution:
    """Sizes and attributes of a two-dimensional convolution of x (N, C, H, W) with w (M, C / group, K, L)."""

    x: Sizes
    w: Sizes
    y: Sizes
    strides: Sizes
    dilations: Sizes
    pads: Sizes
    group: int

    @property
    def is_depthwise(self) -> bool:
        return self.group == self.x[1] == self.w[0] and self.group > 1

    def fits(self, block: int) -> bool:
        """Whether the blocked form exists and is faster: that of 1x1 kernels is slower by the change of layout."""
        if self.is_depthwise:
            return self.group % block == 0
        return self.w[2] * self.w[3] > 1 and self.w[1] % block == 0 and self.w[0] // self.group % block == 0

    def turned(self) -> _Convolution | None:
        """Return the convolution that gives the gradient with respect to x, None where none does."""
        taps = zip(self.w[2:], self.dilations, strict=True)
        extents = [(k - 1) * d for k, d in taps]
        begins = [e - p for e, p in zip(extents, self.pads[:2], strict=True)]
        ends = [e - p for e, p in zip(extents, self.pads[2:], strict=True)]
        if self.strides != (1, 1) or min(begins + ends) < 0:
            return None
        w = (self.w[1] * self.group, self.w[0] // self.group, *self.w[2:])
        return _Convolution(self.y, w, self.x, (1, 1), self.dilations, (*begins, *ends), self.group)

    def attributes(self) -> dict[str, Any]:
        names = {"strides": self.strides, "dilations": self.dilations, "pads": self.pads, "kernel_shape": self.w[2:]}
        return {"group": self.group, **{name: list(value) for name, value in names.items()}}


class _Blocking:
    """Writes blocked nodes into a model."""

    def __init__(self, model: onnx.ModelProto, block: int, shapes: Mapping[str, Sizes]) -> None:
        self._model = model
        self._block = block
        self._shapes = shapes
        self._names = names_of(model)
        self._nodes: list[onnx.NodeProto] = []
        self._images: dict[str, str] = {}
        self._prefix = ""

    def write(self) -> None:
        """Replace the convolutions of the model."""
        constants = {tensor.name for tensor in self._model.graph.initializer}
        functions = functions_of(self._model)
        cut = set()
        for node in self._model.graph.node:
            self._prefix = f"{label_of(node)}/blocked"
            if (domain_of(node), node.op_type) == ("", "Conv") and node.input[1] not in constants:
                if self._forward(node):
                    continue
            elif (node.domain, node.op_type) == (DOMAIN, "ConvGrad"):
                function = functions.get(key_of(node))  # None in a broken file, which onnxruntime refuses
                if function is not None and self._gradient(node, function):
                    cut.add(key_of(node))
            self._nodes.append(node)
        if not self._images:
            return
        replace_all(self._model.graph.node, self._nodes)
        if BLOCKED not in opsets_of(self._model):
            self._model.opset_import.append(helper.make_opsetid(BLOCKED, 1))
        if cut:  # what only the outputs need that are computed here now is left out
            self._model.CopyFrom(inline_calls(self._model, cut.__contains__))

    def _convolution(self, node: onnx.NodeProto, x: str, w: str, y: str) -> _Convolution | None:
        """Return the convolution that a node is or differentiates; None where its sizes are not known or do not fit."""
        if not {x, w, y} <= self._shapes.keys() or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        sizes = [self._shapes[name] for name in (x, w, y)]
        if len(sizes[0]) != 4 or 0 in (math.prod(size) for size in sizes):
            return None
        pads = (
            tuple(attribute(node, "pads", (0,) * 4)) if attribute(node, "auto_pad", "NOTSET") == "NOTSET" else (0,) * 4
        )
        strides, dilations = (tuple(attribute(node, name, (1, 1))) for name in ("strides", "dilations"))
        found = _Convolution(sizes[0], sizes[1], sizes[2], strides, dilations, pads, attribute(node, "group", 1))
        return found if found.fits(self._block) else None

    def _forward(self, node: onnx.NodeProto) -> bool:
        """Write the convolution; whether it is one that gains."""
        x, w, *bias = node.input
        found = self._convolution(node, x, w, node.output[0])
        if found is None:
            return False
        blocked = self._op("Conv", self._image(x), self._kernel(w, found), *bias, **found.attributes())
        self._op("ReorderOutput", blocked, output=node.output[0], channels=found.w[0])
        return True

    def _gradient(self, node: onnx.NodeProto, function: onnx.FunctionProto) -> bool:
        """Write the gradients that gain and take them from the call; whether there are any."""
        actual = dict(zip(function.input, node.input, strict=False))
        dy, y, x, w = (actual.get(formal, "") for formal in ("dY", "Y", "X", "W"))
        found = self._convolution(node, x, w, y)
        if found is None or self._shapes.get(dy) != found.y:
            return False
        turned = found.turned()
        served = {name for name, gains in (("dX", turned is not None), ("dW", found.is_depthwise)) if gains}
        is_any = False
        for i, formal in enumerate(function.output[: len(node.output)]):
            output = node.output[i]
            if not output or formal not in served:
                continue
            if formal == "dW":
                self._depthwise_kernel(dy, x, found, output)
            elif turned is not None:
                blocked = self._op("Conv", self._image(dy), self._kernel(w, found, turned=True), **turned.attributes())
                self._op("ReorderOutput", blocked, output=output, channels=turned.w[0])
            node.output[i] = ""
            is_any = True
        return is_any

    def _depthwise_kernel(self, dy: str, x: str, found: _Convolution, output: str) -> None:
        """dw[c, k] = sum over n, o of dy[n, c, o] x[n, c, o stride - begin + k dilation]."""
        n, c, *image = found.x
        taps, response = found.w[2:], found.y[2:]
        per_axis = zip(image, response, taps, found.strides, found.dilations, found.pads[:2], strict=True)
        ends = [max((o - 1) * s + (k - 1) * d + 1 - size - begin, 0) for size, o, k, s, d, begin in per_axis]
        wide = _Convolution(
            (1, n * c, *image),
            (n * c, 1, *response),
            (),
            found.dilations,
            found.strides,
            (*found.pads[:2], *ends),
            n * c,
        )
        sizes = zip(image, response, wide.dilations, wide.strides, wide.pads[:2], ends, strict=True)
        made = [(size + begin + end - (o - 1) * s - 1) // d + 1 for size, o, s, d, begin, end in sizes]
        as_image = self._standard("Reshape", self._image(x), self._integers(wide.x))
        as_kernel = self._standard("Reshape", self._image(dy), self._integers(wide.w))
        blocked = self._op("Conv", as_image, as_kernel, **wide.attributes())
        each = self._standard("Reshape", blocked, self._integers([n, c // self._block, *made, self._block]))
        if made != list(taps):  # there are pixels behind the last window
            first, last = self._integers([0, 0]), self._integers(taps)
            each = self._standard("Slice", each, first, last, self._integers([2, 3]))
        summed = self._standard("ReduceSum", each, self._integers([0]), keepdims=0)
        ordered = self._standard("Transpose", summed, perm=[0, 3, 1, 2])
        self._standard("Reshape", ordered, self._integers(found.w), output=output)

    def _image(self, name: str) -> str:
        """Return an image in the blocked layout."""
        if name not in self._images:
            self._images[name] = self._op("ReorderInput", name)
        return self._images[name]

    def _kernel(self, w: str, found: _Convolution, *, turned: bool = False) -> str:
        """Return the kernel in the layout of its operator: (M / b, C / group / b, K, b of C, b of M), or (C / b, K, b).

        Turned around, for the gradient with respect to the image, taps go backwards, and M and C change places in each
        group.
        """
        m, c, *taps = found.w
        g, b, n_taps = found.group, self._block, math.prod(taps)
        if found.is_depthwise:
            split, perm, shape = [m // b, b, n_taps], [0, 2, 1], found.w
        else:
            split = [g, m // g // b, b, c // b, b, n_taps]
            perm = [0, 3, 1, 5, 2, 4] if turned else [0, 1, 3, 5, 4, 2]
            shape = (c * g, m // g, *taps) if turned else found.w
        laid = self._standard("Transpose", self._standard("Reshape", w, self._integers(split)), perm=perm)
        if turned and n_taps > 1:
            laid = self._standard(
                "Gather", laid, self._integers(range(n_taps - 1, -1, -1)), axis=perm.index(len(perm) - 1)
            )
        return self._standard("Reshape", laid, self._integers(shape))

    def _standard(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        return self._op(op_type, *inputs, output=output, domain="", **attributes)

    def _op(self, op_type: str, *inputs: str, output: str = "", domain: str = BLOCKED, **attributes: Any) -> str:
        name = self._names.fresh_node(f"{self._prefix}/{op_type}")
        output = output or self._names.fresh(name)
        self._nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, domain=domain, **attributes))
        return output

    def _integers(self, values: Sequence[int] | range) -> str:
        name = self._names.fresh(f"{self._prefix}/sizes")
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
