"""PyTorch's parameters and running statistics in our layouts, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import renom_onnx as rm

Array = np.ndarray[Any, Any]
Pieces = torch.Tensor | list[list[torch.Tensor]]
"""A view of a tensor, or such views whose rows are joined along axis 0, one list for each direction."""
GATES = [0, 3, 1, 2]
"""Where torch's LSTM has the gates i, o, f, c."""


def weights(module: nn.Module) -> Iterator[dict[str, Pieces]]:
    """Yield what torch has for every layer of ours, in order: by our names and in our shapes."""
    for m in module.modules():
        match m:
            case nn.Linear() if type(m) is nn.Linear:
                yield {"w": m.weight.T, **({} if m.bias is None else {"b": m.bias[None]})}
            case nn.Conv2d() | nn.ConvTranspose2d():
                yield {"w": m.weight, **({} if m.bias is None else {"b": m.bias})}
            case nn.BatchNorm2d():
                yield {"w": m.weight, "b": m.bias, "mean": m.running_mean, "var": m.running_var}
            case nn.LayerNorm() | nn.InstanceNorm2d():
                yield {"g": m.weight, "b": m.bias}
            case nn.Embedding():
                yield {"w": m.weight}
            case nn.MultiheadAttention():
                yield _attention(m)
            case nn.LSTM():
                yield from (_lstm(m, i) for i in range(m.num_layers))


def _attention(m: nn.MultiheadAttention) -> dict[str, Pieces]:
    ws, bs = (*m.in_proj_weight.chunk(3), m.out_proj.weight), (*m.in_proj_bias.chunk(3), m.out_proj.bias)
    found: dict[str, Pieces] = {f"w_{n}": w.T for n, w in zip("qkvo", ws, strict=True)}
    return found | {f"b_{n}": b for n, b in zip("qkvo", bs, strict=True)}


def _lstm(m: nn.LSTM, layer: int) -> dict[str, Pieces]:
    def of(*names: str) -> Pieces:
        ends = ["", "_reverse"][: 1 + m.bidirectional]
        return [[getattr(m, f"{n}_l{layer}{end}").chunk(4)[i] for n in names for i in GATES] for end in ends]

    return {"w": of("weight_ih"), "wr": of("weight_hh"), "b": of("bias_ih", "bias_hh")}


def arrays(module: nn.Module, layer: rm.graph.Layer) -> dict[str, Array]:
    """Return torch's weights and running statistics by the names that ours have."""
    return {name: _joined(pieces) for name, pieces in _paired(module, layer)}


def write(module: nn.Module, layer: rm.graph.Layer, values: dict[str, Array]) -> None:
    """Give torch weights and running statistics of ours."""
    with torch.no_grad():
        for name, pieces in _paired(module, layer):
            rows = [[pieces]] if isinstance(pieces, torch.Tensor) else pieces
            parts = [values[name]] if isinstance(pieces, torch.Tensor) else values[name]
            for row, part in zip(rows, parts, strict=True):
                for view, array in zip(row, np.split(part, len(row)), strict=True):
                    view.copy_(torch.from_numpy(array))


def _joined(pieces: Pieces) -> Array:
    if isinstance(pieces, torch.Tensor):
        return pieces.detach().numpy().copy()
    return np.stack([torch.cat(row).detach().numpy() for row in pieces])


def _paired(module: nn.Module, layer: rm.graph.Layer) -> Iterator[tuple[str, Pieces]]:
    for holder, pieces in zip(_holders("", layer), weights(module), strict=True):
        prefix, keys = holder
        assert keys == set(pieces), (prefix, keys, set(pieces))
        yield from ((prefix + key, piece) for key, piece in pieces.items())


def _holders(prefix: str, layer: rm.graph.Layer) -> Iterator[tuple[str, set[str]]]:
    """Yield the layers that own parameters: what `named_parameters` puts before each name, and the names."""
    found: dict[str, set[str]] = {}
    for name, _ in layer.named_parameters(prefix):
        before, dot, key = name.rpartition(".")
        found.setdefault(before + dot, set()).add(key)
    yield from found.items()
