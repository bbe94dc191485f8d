"""What is written in onnxruntime's blocked layout: images, kernels, and the convolutions that read them.

An image (N, C, H, W) in blocks of b channels is (N, C / b, H, W, b), a kernel (M, C, K, L) is
(M / b, C / b, K, L, b of C, b of M), a depthwise one (C / b, K, L, b).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.cpu.known_shapes import Sizes
from renom_onnx.converters.step_graph import reads
from renom_onnx.converters.structure import names_of, replace_all

BLOCKED = "com.microsoft.nchwc"
"""The domain of onnxruntime's blocked operators."""


def join_activations(graph: onnx.GraphProto) -> None:
    """Let blocked convolutions whose results nothing else reads than a Relu apply it themselves."""
    made = {node.output[0]: node for node in graph.node if node.domain == BLOCKED and node.op_type == "Conv"}
    readers = Counter([name for node in graph.node for name in reads(node)] + [value.name for value in graph.output])
    kept = []
    for node in graph.node:
        is_relu = node.op_type == "Relu" and not node.domain and node.input[0] in made and readers[node.input[0]] == 1
        if is_relu:
            convolution = made.pop(node.input[0])
            convolution.attribute.append(helper.make_attribute("activation", "Relu"))
            convolution.output[0] = node.output[0]
        else:
            kept.append(node)
    replace_all(graph.node, kept)


@dataclass(frozen=True)
class Convolution:
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

    @property
    def n_taps(self) -> int:
        return self.w[2] * self.w[3]

    def fits(self, block: int, *, is_made: bool = False) -> bool:
        """Whether the blocked form exists and is faster.

        Args:
            block: channels of a block.
            is_made: whether its image is in the blocked layout; a kernel of one tap is not worth the change.
        """
        if self.is_depthwise:
            return self.group % block == 0
        fills_blocks = self.w[1] % block == 0 and self.w[0] // self.group % block == 0
        return fills_blocks and (self.n_taps > 1 or is_made)

    def turned(self) -> Convolution | None:
        """Return the convolution that gives the gradient with respect to x, None where none does."""
        taps = zip(self.w[2:], self.dilations, strict=True)
        extents = [(k - 1) * d for k, d in taps]
        begins = [e - p for e, p in zip(extents, self.pads[:2], strict=True)]
        ends = [e - p for e, p in zip(extents, self.pads[2:], strict=True)]
        if self.strides != (1, 1) or min(begins + ends) < 0:
            return None
        w = (self.w[1] * self.group, self.w[0] // self.group, *self.w[2:])
        return Convolution(self.y, w, self.x, (1, 1), self.dilations, (*begins, *ends), self.group)

    def attributes(self) -> dict[str, Any]:
        names = {"strides": self.strides, "dilations": self.dilations, "pads": self.pads, "kernel_shape": self.w[2:]}
        return {"group": self.group, **{name: list(value) for name, value in names.items()}}


class BlockedWriter:
    """Writes nodes that use the blocked layout.

    Args:
        model: that the nodes are for; constants go into it at once.
        block: channels of a block.

    Attributes:
        nodes: what was written.
        prefix: of the names of the next nodes.
        is_used: whether anything is in the blocked layout.
    """

    def __init__(self, model: onnx.ModelProto, block: int) -> None:
        self._model = model
        self.block = block
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = ""
        self._names = names_of(model)
        self._images: dict[str, str] = {}
        self._made: set[str] = set()
        self._typed = {value.name for value in [*model.graph.value_info, *model.graph.output]}

    @property
    def is_used(self) -> bool:
        return any(node.domain == BLOCKED for node in self.nodes)

    def image(self, name: str) -> str:
        """Return an image in the blocked layout; it is laid out once."""
        if name not in self._images:
            self._images[name] = self.op("ReorderInput", name)
        return self._images[name]

    def is_made(self, name: str) -> bool:
        """Whether an image comes in the blocked layout from the node that makes it."""
        return name in self._made

    def make(self, name: str, blocked: str, shape: Sizes) -> None:
        """State that an image of the model is made in the blocked layout, and give it to those who read it plain."""
        self._images[name] = blocked
        self._made.add(name)
        self.op("ReorderOutput", blocked, output=name, channels=shape[1])
        for value in sorted({name, blocked} - self._typed):  # what is read of the model later cannot infer it
            info = helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)
            self._model.graph.value_info.append(info)
        self._typed |= {name, blocked}

    def kernel(self, w: str, found: Convolution, *, turned: bool = False) -> str:
        """Return the kernel of a convolution in the blocked layout.

        Turned around, for the gradient with respect to the image, taps go backwards, and M and C change places in each
        group. Of two Transposes, the first moves one axis and the second whole blocks: onnxruntime is many times
        faster at these than at both together, or at many small matrices.
        """
        m, c, *taps = found.w
        g, b, n_taps = found.group, self.block, math.prod(taps)
        if turned and not found.is_depthwise:
            by_tap = self._backwards(self._moved(w, [m * c, n_taps], [1, 0]), n_taps)
            laid = self._moved(by_tap, [n_taps, g, m // g // b, b, c // b, b], [1, 4, 2, 0, 3, 5])
            return self.reshape(laid, (c * g, m // g, *taps))
        laid = self._moved(w, [m // b, b, c * n_taps], [0, 2, 1])
        if found.is_depthwise:
            return self.reshape(self._backwards(laid, n_taps, axis=1) if turned else laid, found.w)
        return self.reshape(self._moved(laid, [m // b * c // b, b, n_taps, b], [0, 2, 1, 3]), found.w)

    def _backwards(self, value: str, n_taps: int, axis: int = 0) -> str:
        order = self.integers(range(n_taps - 1, -1, -1))
        return self.standard("Gather", value, order, axis=axis) if n_taps > 1 else value

    def _moved(self, value: str, shape: Sequence[int], perm: list[int]) -> str:
        return self.standard("Transpose", self.reshape(value, shape), perm=perm)

    def reshape(self, value: str, shape: Sequence[int], output: str = "") -> str:
        """Write a Reshape."""
        return self.standard("Reshape", value, self.integers(shape), output=output)

    def standard(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Write a node of a standard operator and return its output."""
        return self.op(op_type, *inputs, output=output, domain="", **attributes)

    def op(self, op_type: str, *inputs: str, output: str = "", domain: str = BLOCKED, **attributes: Any) -> str:
        """Write a node of a blocked operator and return its output."""
        name = self._names.fresh_node(f"{self.prefix}/{op_type}")
        output = output or self._names.fresh(name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, domain=domain, **attributes))
        return output

    def name(self, like: str) -> str:
        """Return a name for a new value."""
        return self._names.fresh(f"{like}/blocked")

    def integers(self, values: Sequence[int] | range | np.ndarray[Any, Any]) -> str:
        """Return a constant."""
        name = self._names.fresh(f"{self.prefix}/sizes")
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
