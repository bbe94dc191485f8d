"""LoRA: a model whose large weights stay as they are and learn a small product beside them.

    y = x W + alpha / rank * (x A) B,   A (in, rank) drawn, B (rank, out) zeros at first

Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.load import load
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.surgery import strip
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema, seed
from renom_onnx.graph.node import is_float
from renom_onnx.utility.initializer import HeUniform

A, B, SCALE = ".lora_A", ".lora_B", ".lora_scale"
RANK = "lora_rank"
"""Symbol of the rank where adapters are inputs."""


@dataclass(frozen=True)
class _Product:
    """A product x W of the file: the node, its weights, and whether these stand transposed (out, in)."""

    node: onnx.NodeProto
    weight: str
    is_transposed: bool


def lora(model: Any, rank: int = 8, alpha: float = 16.0, target: str = "*") -> LoadedModel:
    """Return the model with adapters beside its weights; only these train.

    Args:
        model: a path, bytes, a ModelProto, or what `renom_onnx.load` returned.
        rank: columns of A and rows of B.
        alpha: the product counts alpha / rank times.
        target: name pattern of the weights that get adapters, with the wildcards of `fnmatch`: matrices of a MatMul or
            Gemm (also behind a Transpose).

    Returns:
        A loaded model, for `make_trainable`, `export`, `merge_lora` and `renom_onnx.runtime.save_adapter`. Its adapters
        are named ``<weight>.lora_A`` and ``<weight>.lora_B``.

    Raises:
        ConversionError: no matrix has a name that matches, or rank is not positive.

    Example:
        >>> import renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(4), inputs={"x": ("N", 3)})
        >>> model = rm.lora(file, rank=2)
        >>> [name for name, parameter in model.named_parameters() if parameter.trainable]
        ['dense1.w.lora_A', 'dense1.w.lora_B']
    """
    if rank < 1:
        raise ConversionError(f"lora: rank must be 1 or more, got {rank}.")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.to_proto() if isinstance(model, LoadedModel) else read_model(model))
    graph = proto.graph
    products = [p for p in _products(graph) if fnmatch.fnmatchcase(p.weight, target)]
    if not products:
        known = ", ".join(dict.fromkeys(p.weight for p in _products(graph))) or "none"
        raise ConversionError(
            f"lora: target must match matrices that a MatMul or Gemm multiplies by, got {target!r}. There are: {known}."
        )
    tensors = {t.name: t for t in graph.initializer}
    draw = HeUniform()
    for weight in dict.fromkeys(p.weight for p in products):
        array = array_of(tensors[weight])
        is_transposed = next(p.is_transposed for p in products if p.weight == weight)
        n_in, n_out = array.shape[::-1] if is_transposed else array.shape
        a = draw((n_in, rank), seed.parameter_generator(), array.dtype)
        for name, value in (
            (weight + A, a),
            (weight + B, np.zeros((rank, n_out), array.dtype)),
            (weight + SCALE, np.array(alpha / rank, array.dtype)),
        ):
            graph.initializer.append(numpy_helper.from_array(value, name))
    for product in products:
        _add_adapter(graph, product)
    del graph.value_info[:]
    loaded = load(proto)
    for name, parameter in loaded.named_parameters():
        parameter.trainable = name.endswith((A, B))
    return loaded


def merge_lora(model: Any) -> onnx.ModelProto:
    """Return the plain model whose weights have learned what the adapters did: W + alpha / rank * A B.

    Args:
        model: a path, bytes, a ModelProto, or what `lora` returned; of a trainable file its inference reading.

    Raises:
        ConversionError: the model has no adapters.

    Example:
        >>> import renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(4), inputs={"x": ("N", 3)})
        >>> merged = rm.converters.merge_lora(rm.lora(file))
        >>> [node.op_type for node in merged.graph.node]
        ['Gemm']
    """
    proto = _inference(model)
    graph = proto.graph
    tensors = {t.name: t for t in graph.initializer}
    weights = _adapted(graph, "merge_lora")
    transposed = {p.weight for p in _products(graph) if p.is_transposed}
    for weight in weights:
        a, b, scale = (array_of(tensors[weight + suffix]).astype(np.float64) for suffix in (A, B, SCALE))
        delta = scale * (a @ b)
        w = array_of(tensors[weight])
        merged = w.astype(np.float64) + (delta.T if weight in transposed else delta)
        tensors[weight].CopyFrom(numpy_helper.from_array(merged.astype(w.dtype), weight))
    dropped = {weight + suffix for weight in weights for suffix in (A, B, SCALE)}
    kept = [t for t in graph.initializer if t.name not in dropped]
    _without_adapters(graph, dropped)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return proto


def adapter_base(model: Any) -> onnx.ModelProto:
    """Return the model whose adapters are inputs that may be left out, as onnxruntime's adapters replace them.

    Without an adapter it computes what the model computed before `lora`: the inputs' defaults have rank 0.

    Args:
        model: a path, bytes, a ModelProto, or what `lora` returned; of a trainable file its inference reading.

    Raises:
        ConversionError: the model has no adapters.
    """
    proto = _inference(model)
    graph = proto.graph
    tensors = {t.name: t for t in graph.initializer}
    for weight in _adapted(graph, "adapter_base"):
        for suffix, axis in ((A, 1), (B, 0)):
            tensor = tensors[weight + suffix]
            shape, symbols = list(tensor.dims), list(tensor.dims)
            shape[axis], symbols[axis] = 0, RANK
            empty = np.zeros(shape, array_of(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(empty, tensor.name))
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, symbols))
    del graph.value_info[:]
    return proto


def adapter_arrays(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a model's adapters by name.

    Raises:
        ConversionError: the model has no adapters.
    """
    graph = _inference(model).graph
    weights = _adapted(graph, "adapter_arrays")
    names = {weight + suffix for weight in weights for suffix in (A, B)}
    return {t.name: np.array(array_of(t)) for t in graph.initializer if t.name in names}


def _inference(model: Any) -> onnx.ModelProto:
    """Return a copy of the inference reading."""
    return strip(model.to_proto() if isinstance(model, LoadedModel) else read_model(model))


def _adapted(graph: onnx.GraphProto, caller: str) -> list[str]:
    names = {t.name for t in graph.initializer}
    found = [n.removesuffix(A) for n in names if n.endswith(A) and {n.removesuffix(A), n.removesuffix(A) + B} <= names]
    if not found:
        raise ConversionError(f"{caller}: the model must have adapters, got none. Add them with renom_onnx.lora.")
    return sorted(found)


def _products(graph: onnx.GraphProto) -> Iterator[_Product]:
    """Yield the products of the graph with a matrix that it holds, one behind a Transpose too."""
    matrices = {t.name for t in graph.initializer if len(t.dims) == 2 and is_float(schema.dtype_of(t.data_type))}
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in matrices and _attribute(node, "perm", [1, 0]) == [1, 0]
    }
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        if node.op_type == "Gemm" and _attribute(node, "transA", 0):
            continue
        is_transposed = bool(node.op_type == "Gemm" and _attribute(node, "transB", 0))
        name = node.input[1]
        if name in matrices:
            yield _Product(node, name, is_transposed)
        elif name in turned:
            yield _Product(node, turned[name], not is_transposed)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return list(value) if isinstance(default, list) else value
    return default


def _add_adapter(graph: onnx.GraphProto, product: _Product) -> None:
    """Add the small product behind the large one."""
    node, weight = product.node, product.weight
    y = node.output[0]
    base, down, up, delta = (f"{y}.lora_{part}" for part in ("base", "down", "up", "delta"))
    name = node.name or y
    node.output[0] = base
    added = [
        helper.make_node("MatMul", [node.input[0], weight + A], [down], name=f"{name}/lora_down"),
        helper.make_node("MatMul", [down, weight + B], [up], name=f"{name}/lora_up"),
        helper.make_node("Mul", [up, weight + SCALE], [delta], name=f"{name}/lora_scale"),
        helper.make_node("Add", [base, delta], [y], name=f"{name}/lora_add"),
    ]
    position = next(i for i, each in enumerate(graph.node) if base in each.output) + 1
    for i, new in enumerate(added):
        graph.node.insert(position + i, new)


def _without_adapters(graph: onnx.GraphProto, dropped: set[str]) -> None:
    """Take out the nodes that read the dropped initializers, and what only they feed."""
    values = set(dropped)
    restored: dict[str, str] = {}
    kept = []
    for node in graph.node:
        read = values.intersection(node.input)
        if not read:
            kept.append(node)
        elif node.op_type == "Add":
            restored[node.input[0]] = node.output[0]
        else:
            values.update(node.output)
    for node in kept:
        for i, name in enumerate(node.output):
            node.output[i] = restored.get(name, name)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
