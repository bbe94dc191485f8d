"""The head of a model: its last product with weights, found, replaced, and given Dropout before it.

All of it works on the file's own nodes, so that everything else stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.load import load
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema, seed
from renom_onnx.graph.node import is_float
from renom_onnx.utility.initializer import GlorotNormal, Initializer

REARRANGED = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
PRODUCTS = ("Gemm", "MatMul", "Conv", "ConvTranspose")


def replace_head(
    model: Any, units: int, *, output: str | None = None, initializer: Initializer | None = None
) -> LoadedModel:
    """Return a model with a new head: other classes, the same body.

    Args:
        model: a path, bytes, a ModelProto, or what `renom_onnx.load` returned; it is left alone.
        units: outputs of the new head, such as the number of classes.
        output: the output whose head it is; default: the first.
        initializer: of the new weights; default GlorotNormal. Biases start at 0.

    Returns:
        A loaded model with the file's names.

    Raises:
        ConversionError: there is no head, or what follows it needs the old number of units.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(1000), inputs={"x": ("N", 8)})
        >>> rm.converters.replace_head(file, 3)(np.ones((2, 8), np.float32)).shape
        ('N', 3)
    """
    proto = model.to_proto() if isinstance(model, LoadedModel) else read_model(model)
    return load(with_new_head(proto, units, output=output, initializer=initializer))


@dataclass(frozen=True)
class Head:
    """The last product with weights before an output.

    Attributes:
        node: Gemm, MatMul, Conv or ConvTranspose.
        weight: name of its weights; they may reach it through a Reshape or the like.
        after: the nodes between it and the output, in order.
        parameters: names of the float initializers that it and the nodes after it read.
    """

    node: onnx.NodeProto
    weight: str
    after: tuple[onnx.NodeProto, ...]
    parameters: tuple[str, ...]


def find_head(graph: onnx.GraphProto, output: str) -> Head:
    """Return the head before an output.

    Raises:
        ConversionError: no product with weights of the graph leads to the output.
    """
    weights = {t.name: t for t in graph.initializer}
    source = {name: name for name in weights}
    for node in graph.node:
        if node.op_type in REARRANGED and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
    needed = _needed(graph.node, output)
    for i in reversed(range(len(needed))):
        node = needed[i]
        if node.domain in ("", "ai.onnx") and node.op_type in PRODUCTS and node.input[1] in source:
            after = _reached(needed[i + 1 :], node.output)
            read = [source[name] for each in (node, *after) for name in each.input if name in source]
            floats = [n for n in dict.fromkeys(read) if _is_float(weights[n])]
            return Head(node, source[node.input[1]], tuple(after), tuple(floats))
    raise ConversionError(
        f"head: a {', '.join(PRODUCTS[:-1])} or {PRODUCTS[-1]} with weights must lead to the output {output!r}, got "
        f"none. Name another output, or name the parameters."
    )


def with_new_head(
    model: onnx.ModelProto, units: int, *, output: str | None = None, initializer: Initializer | None = None
) -> onnx.ModelProto:
    """Return the model with a head of another number of units, freshly drawn; biases start at 0.

    Args:
        model: a model; it is left alone.
        units: outputs of the new head, such as the number of classes.
        output: the output whose head it is; default: the first.
        initializer: of the new weights; default GlorotNormal.

    Raises:
        ConversionError: there is no head, or what follows it needs the old number of units.
    """
    if units < 1:
        raise ConversionError(f"replace_head: units must be 1 or more, got {units}.")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    name = output if output is not None else graph.output[0].name
    head = find_head(graph, name)
    tensors = {t.name: t for t in graph.initializer}
    if head.weight not in head.node.input:
        raise ConversionError(
            f"replace_head: the head must read its weights as they are, got {head.weight!r} through "
            f"{head.node.input[1]!r}. Name another output, or write the rearranged weights into the model."
        )
    old = array_of(tensors[head.weight])
    axis = _units_axis(head.node)
    before = old.shape[axis]
    if head.node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in head.node.attribute):
        raise ConversionError("replace_head: the head must be no grouped ConvTranspose, got one. Name another output.")
    shape = list(old.shape)
    shape[axis] = units
    draw = initializer if initializer is not None else GlorotNormal()
    tensors[head.weight].CopyFrom(
        numpy_helper.from_array(draw(tuple(shape), seed.parameter_generator(), old.dtype), head.weight)
    )
    for bias in head.parameters:
        if bias != head.weight:
            tensors[bias].CopyFrom(_resized_bias(tensors[bias], before, units, head))
    _resize_reshapes(head.after, tensors, before, units)
    del graph.value_info[:]
    for info in graph.output:
        if info.name == name:
            _resize_output(info, before, units)
    return result


def with_dropout(model: onnx.ModelProto, ratio: float, *, output: str | None = None) -> onnx.ModelProto:
    """Return the model with a Dropout before its head, which inference leaves out and training uses.

    Raises:
        ConversionError: there is no head, or the ratio is not from 0 to 1.
    """
    if not 0 <= ratio < 1:
        raise ConversionError(f"dropout: the ratio must be from 0 to 1, got {ratio}.")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    node = find_head(graph, output if output is not None else graph.output[0].name).node
    taken = {n for each in graph.node for n in each.output} | {t.name for t in graph.initializer}
    value, share = _free(f"{node.input[0]}.dropout", taken), _free(f"{node.input[0]}.dropout.ratio", taken)
    position = list(graph.node).index(node)
    graph.initializer.append(numpy_helper.from_array(np.array(ratio, np.float32), share))
    dropout = helper.make_node("Dropout", [node.input[0], share], [value], name=f"{node.name or node.op_type}/Dropout")
    graph.node[position].input[0] = value
    graph.node.insert(position, dropout)
    return result


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _is_float(tensor: onnx.TensorProto) -> bool:
    return is_float(schema.dtype_of(tensor.data_type))


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _reached(nodes: Sequence[onnx.NodeProto], values: Sequence[str]) -> list[onnx.NodeProto]:
    known, found = set(values), []
    for node in nodes:
        if known.intersection(node.input):
            known.update(node.output)
            found.append(node)
    return found


def _units_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the weights that counts the outputs."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"MatMul": -1, "Conv": 0, "ConvTranspose": 1}[node.op_type]


def _resized_bias(tensor: onnx.TensorProto, before: int, units: int, head: Head) -> onnx.TensorProto:
    """Return zeros for one number per unit; an operand that is no such thing stays, if it is one number."""
    array: np.ndarray[Any, Any] = array_of(tensor)
    counts = [i for i, size in enumerate(array.shape) if size == before]
    if array.size == 1:
        return tensor
    if len(counts) != 1 or array.size != before:
        raise ConversionError(
            f"replace_head: what the head and the nodes after it read must be a bias of {before} numbers, got "
            f"{tensor.name!r} of shape {list(array.shape)} after {head.node.op_type} {head.node.name!r}. Name another "
            f"output, or change the model where it was made."
        )
    shape = [units if i == counts[0] else size for i, size in enumerate(array.shape)]
    return numpy_helper.from_array(np.zeros(shape, array.dtype), tensor.name)


def _resize_reshapes(
    nodes: Sequence[onnx.NodeProto], tensors: dict[str, onnx.TensorProto], before: int, units: int
) -> None:
    for node in nodes:
        if node.op_type == "Reshape" and node.input[1] in tensors:
            tensor = tensors[node.input[1]]
            sizes = array_of(tensor).copy()
            if (sizes == before).sum() == 1:
                sizes[sizes == before] = units
                tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))


def _resize_output(info: onnx.ValueInfoProto, before: int, units: int) -> None:
    dims = info.type.tensor_type.shape.dim
    same = [dim for dim in dims if dim.HasField("dim_value") and dim.dim_value == before]
    if len(same) == 1:
        same[0].dim_value = units
    elif info.type.tensor_type.HasField("shape"):
        info.type.tensor_type.ClearField("shape")
