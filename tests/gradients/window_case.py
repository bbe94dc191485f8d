"""Convolutions and poolings as one-node models, and their windows in PyTorch, where padding is written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from onnx import TensorProto, helper

from renom_onnx.converters import vjp
from tests.gradients.session import Session

Array = np.ndarray[Any, Any]
Ints = Sequence[int]


def integers(rng: np.random.Generator, *shape: int) -> Array:
    """Return small whole numbers, whose sums of products float32 holds exactly."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def one_node(
    op_type: str, feeds: dict[str, Array], *, opset: int = 18, has_symbols: bool = False, **node: Any
) -> onnx.ModelProto:
    """Return y = op_type(*feeds): the batch of x is a symbol, and with ``has_symbols`` its pixels too."""

    def shape(name: str, array: Array) -> list[int | str]:
        if name != "x":
            return list(array.shape)
        return ["N", array.shape[1], *(f"S{i}" if has_symbols else n for i, n in enumerate(array.shape[2:]))]

    outputs = node.pop("outputs", ["y"])
    graph = helper.make_graph(
        [helper.make_node(op_type, list(feeds), outputs, **{k: v for k, v in node.items() if v is not None})],
        "one_node",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape(name, array)) for name, array in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def assert_gradients(
    model: onnx.ModelProto,
    feeds: dict[str, Array],
    y: torch.Tensor,
    operands: Sequence[torch.Tensor],
    **tolerance: float,
) -> None:
    """Compare output and gradients with PyTorch's, exactly unless a tolerance is given."""
    dy = integers(np.random.default_rng(1), *y.shape)
    wanted = torch.autograd.grad(y, operands, torch.tensor(dy, dtype=y.dtype))
    got = Session(vjp(model))({**feeds, "y_grad": dy})
    np.testing.assert_allclose(got["y"], y.detach(), **(tolerance or dict(rtol=0)), err_msg="y")
    for name, want in zip(feeds, wanted, strict=False):
        np.testing.assert_allclose(got[f"{name}_grad"], want, **(tolerance or dict(rtol=0)), err_msg=name)


def operators_of_gradient(model: onnx.ModelProto, name: str) -> list[str]:
    """Return the operator types that compute one gradient, constants and changes of shape left out."""
    product = vjp(model, wrt=[name], inline=True)
    needed, found = {f"{name}_grad"}, []
    for node in reversed(product.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node.op_type)
    return [op_type for op_type in reversed(found) if op_type not in {"Reshape", "Unsqueeze", "Shape", "Constant"}]


def in_float64(feeds: dict[str, Array]) -> list[torch.Tensor]:
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in feeds.values()]


def pad(x: torch.Tensor, pads: Ints, value: float = 0.0) -> torch.Tensor:
    """Pad the spatial axes; ``pads`` as in ONNX, all begins before all ends, negative to crop."""
    rank = len(pads) // 2
    return F.pad(x, [n for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])], value=value)


def same_pads(sizes: Ints, kernel: Ints, strides: Ints, auto_pad: str) -> list[int]:
    """Return what SAME stands for: ceil(size / stride) windows, an odd pixel at the end (UPPER) or begin (LOWER)."""
    totals = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    return split(totals, auto_pad)


def split(totals: Ints, auto_pad: str) -> list[int]:
    less, more = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return less + more if auto_pad == "SAME_UPPER" else more + less


def window_counts(sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints, ceil_mode: int) -> list[int]:
    """Return how many windows there are along each axis: with ceil_mode none that starts in the padding at the end."""
    counts = []
    for i, n in enumerate(sizes):
        room = n + pads[i] + pads[len(sizes) + i] - (kernel[i] - 1) * dilations[i] - 1
        count = (math.ceil(room / strides[i]) if ceil_mode else room // strides[i]) + 1
        counts.append(count - (ceil_mode and (count - 1) * strides[i] >= n + pads[i]))
    return counts


def windows(
    x: torch.Tensor, counts: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints, value: float = 0.0
) -> torch.Tensor:
    """Return (N, C, *O, K): what each window sees; ``value`` where it hangs over the image."""
    sizes, rank = x.shape[2:], len(kernel)
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(counts, strides, kernel, dilations, strict=True)]
    ends = [max(r - n - begin, 0) for r, n, begin in zip(reach, sizes, pads, strict=False)]
    padded = pad(x, [*pads[:rank], *ends], value)
    taps = []
    for offset in np.ndindex(*kernel):
        starts = [k * d for k, d in zip(offset, dilations, strict=True)]
        along = [slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(starts, counts, strides, strict=True)]
        taps.append(padded[(slice(None), slice(None), *along)])
    return torch.stack(taps, -1)
