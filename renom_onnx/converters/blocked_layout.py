"""What is written in onnxruntime's blocked layout: images, kernels, and the convolutions that read them.

An image (N, C, H, W) in blocks of b channels is (N, C / b, H, W, b), a kernel (M, C, K, L) is
(M / b, C / b, K, L, b of C, b of M), a depthwise one (C / b, K, L, b).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.structure import names_of, opsets_of

BLOCKED = "com.microsoft.nchwc"
"""The domain of onnxruntime's blocked operators."""

Sizes = tuple[int, ...]


def declare_blocked(model: onnx.ModelProto) -> None:
    """Import the blocked operators into a model that uses them."""
    if BLOCKED not in opsets_of(model) and any(node.domain == BLOCKED for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(BLOCKED, 1))


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

    def fits(self, block: int) -> bool:
        """Whether the blocked form exists and is faster: that of 1x1 kernels is slower by the change of layout."""
        if self.is_depthwise:
            return self.group % block == 0
        return self.n_taps > 1 and self.w[1] % block == 0 and self.w[0] // self.group % block == 0

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

    @property
    def is_used(self) -> bool:
        return any(node.domain == BLOCKED for node in self.nodes)

    def image(self, name: str) -> str:
        """Return an image in the blocked layout; it is laid out once."""
        if name not in self._images:
            self._images[name] = self.op("ReorderInput", name)
        return self._images[name]

    def kernel(self, w: str, found: Convolution, *, turned: bool = False) -> str:
        """Return the kernel of a convolution in the blocked layout.

        Turned around, for the gradient with respect to the image, taps go backwards, and M and C change places in each
        group.
        """
        m, c, *taps = found.w
        g, b, n_taps = found.group, self.block, math.prod(taps)
        if found.is_depthwise:
            split, perm, shape = [m // b, b, n_taps], [0, 2, 1], found.w
        else:
            split = [g, m // g // b, b, c // b, b, n_taps]
            perm = [0, 3, 1, 5, 2, 4] if turned else [0, 1, 3, 5, 4, 2]
            shape = (c * g, m // g, *taps) if turned else found.w
        laid = self.standard("Transpose", self.reshape(w, split), perm=perm)
        if turned and n_taps > 1:
            backwards = self.integers(range(n_taps - 1, -1, -1))
            laid = self.standard("Gather", laid, backwards, axis=perm.index(len(perm) - 1))
        return self.reshape(laid, shape)

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

    def integers(self, values: Sequence[int] | range | np.ndarray[Any, Any]) -> str:
        """Return a constant."""
        name = self._names.fresh(f"{self.prefix}/sizes")
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
