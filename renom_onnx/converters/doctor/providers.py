"""Where nodes would run: on CUDA by the list of registered kernels, on the CPU by asking onnxruntime.

onnxruntime gives a node to CUDA if that has a kernel for it, else to the CPU; a node that neither has a kernel for is
replaced by the body that ONNX or the file defines it by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from renom_onnx.converters.doctor.kernels import CPU, CUDA, has_kernel, kernels
from renom_onnx.converters.importer import captured
from renom_onnx.converters.structure import called, functions_of, subgraphs
from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.body import attribute_bodies
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.expansion import expand
from renom_onnx.graph.node import Node, Value, ancestors, known_array

OLDER_OPSET = 21
"""The newest opset whose operators nearly all have CUDA kernels."""


@dataclass(frozen=True)
class Miss:
    """An operator that a provider lacks, within a node or instead of it, and why."""

    op_type: str
    reason: str


@dataclass
class Placement:
    """Where the nodes of one provider's list are.

    Attributes:
        taken: how many nodes it takes whole.
        missed: names of nodes that it does not take, with the reasons.
    """

    taken: int = 0
    missed: list[tuple[str, tuple[Miss, ...]]] = field(default_factory=list)


def on_cuda(nodes: Iterable[tuple[str, Node]]) -> Placement:
    """Return which nodes the CUDA provider of the listed release takes; the others run on the CPU.

    Args:
        nodes: by name. A node with bodies counts as taken if all nodes in them are.
    """
    placement = Placement()
    for name, node in nodes:
        if node.is_leaf:
            continue
        misses = tuple(dict.fromkeys(_misses(node)))
        if misses:
            placement.missed.append((name, misses))
        else:
            placement.taken += 1
    return placement


def _misses(node: Node) -> list[Miss]:
    if node.function is not None:
        return [miss for inner in node.function.body() if not inner.is_leaf for miss in _misses(inner)]
    if has_kernel(node, CUDA):
        bodies = attribute_bodies(node.attributes)
        return [miss for _, body in bodies for inner in body.nodes if not inner.is_leaf for miss in _misses(inner)]
    if not has_kernel(node, CPU) and schema.has_body(node.op_type, node.opset, node.domain):
        try:
            outputs = expand(Builder(node.opset), node, node.inputs)
        except (RenomError, KeyError, TypeError, ValueError):
            return [Miss(node.op_type, "it has no kernel, and its body needs sizes that are not known")]
        leaves = [value.node for value in node.inputs if value is not None]
        body = [n for n in ancestors(outputs, leaves) if n not in leaves and not n.is_leaf]
        if all(n.op_type != node.op_type for n in body):
            return [miss for n in body for miss in _misses(n)]
    return [Miss(node.op_type, _why(node))]


def _why(node: Node) -> str:
    if ("" if node.domain == "ai.onnx" else node.domain, node.op_type) not in kernels(CUDA):
        return "CUDA has no such kernel"
    if node.domain == "" and node.opset > OLDER_OPSET and has_kernel(node, CUDA, OLDER_OPSET):
        return f"CUDA has a kernel at opset {OLDER_OPSET}, not at {node.opset}"
    kinds = sorted({t[0].name for t in node.operand_types() if t is not None})
    return f"CUDA has no kernel of version {node.opset} for {', '.join(kinds) or 'no operands'}"


def question(proto: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, Value]) -> bytes | None:
    """Return a model of one node and of the functions that it calls: what a provider can be asked about.

    Args:
        proto: the model that it is from.
        node: one of its nodes.
        values: of the graph, by name.

    Returns:
        The same bytes for all nodes that are alike but for names; None if an operand's type is not known.
    """
    names = [*node.input, *captured(node)]
    alike = {name: f"x{i}" for i, name in enumerate(names)} if not any(subgraphs(node)) else {n: n for n in names}
    infos: dict[str, onnx.ValueInfoProto] = {}
    initializers: dict[str, onnx.TensorProto] = {}
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        known = known_array(value)
        if known is not None and known.dtype.kind in "iub":
            initializers[alike[name]] = numpy_helper.from_array(np.asarray(known), alike[name])
        elif value.dtype.kind == "O" or not schema.has_element_type(value.dtype):
            return None
        else:
            shape = None if value.rank is None else [None] * value.rank
            infos[alike[name]] = helper.make_tensor_value_info(alike[name], schema.element_type(value.dtype), shape)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.doc_string = "", ""
    del copy.input[:], copy.output[:]
    copy.input.extend(alike[name] if name else "" for name in node.input)
    copy.output.extend(f"y{i}" if name else "" for i, name in enumerate(node.output))
    results = [onnx.ValueInfoProto(name=name) for name in copy.output if name]
    graph = helper.make_graph([copy], "one", [*infos.values()], results, [*initializers.values()])
    model = onnx.ModelProto(ir_version=proto.ir_version, graph=graph)
    model.opset_import.extend(proto.opset_import)
    functions = functions_of(proto)
    model.functions.extend(functions[key] for key in sorted(called([node], functions)))
    return bytes(model.SerializeToString(deterministic=True))
