"""Which provider has each node of a session: onnxruntime moves what a provider lacks to the CPU and says nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from renom_onnx.converters.doctor.kernels import CUDA as CUDA_KERNELS, kernels, release
from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.signature import ModelProto
from renom_onnx.converters.surgery import strip
from renom_onnx.converters.training_info import training_step
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.errors import DeviceError
from renom_onnx.graph import schema
from renom_onnx.runtime.cuda import CudaOptions, provider_names
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.opening import open_session

CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
LISTED = 3
"""Nodes that an error names; it counts the others."""


@dataclass(frozen=True)
class NodeElsewhere:
    """A node that is on another provider than the device's.

    Attributes:
        name: of the node; "" in a function that onnxruntime wrote out.
        op_type: its operator.
        provider: that has it.
        reason: why, as far as the list of kernels tells.
    """

    name: str
    op_type: str
    provider: str
    reason: str

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"{self.op_type}{name} on {self.provider} ({self.reason})"


def nodes_elsewhere(
    model: Any, device: str | None = None, *, sizes: Mapping[str, int] | None = None, cuda: CudaOptions | None = None
) -> list[NodeElsewhere]:
    """Return the nodes that onnxruntime does not run on the device, none of which a fast training has.

    Args:
        model: a path, bytes or ModelProto; of a trainable file the training step is looked at.
        device: "cpu", "cuda" or "cuda:1"; default: the best there is.
        sizes: of symbols, such as {"N": 64}, as a training fixes them; without, sizes are computed, and that on the
            CPU.
        cuda: options of the CUDA provider.

    Raises:
        ConversionError: the model cannot be read.
        DeviceError: the device is not there.

    Example:
        >>> import renom_onnx as rm
        >>> nodes_elsewhere(rm.converters.to_onnx(rm.graph.Relu(), inputs={"x": ("N", 2)}), "cpu")
        []
    """
    proto = read_model(model)
    where = parse_device(device)
    proto = training_step(proto).model if proto.training_info else strip(proto)
    data = as_bytes(for_device(proto, where.kind))
    session = open_session(data, where, dims=sizes, cuda=cuda, record=True)
    names = {where.provider} if where.kind == "cpu" else provider_names()
    return elsewhere(session, names, default_opset(proto))


def elsewhere(session: Any, wanted: Collection[str], opset: int) -> list[NodeElsewhere]:
    """Return the nodes of a session, opened with ``record``, that none of the wanted providers has."""
    return [
        NodeElsewhere(str(node.name), str(node.op_type), str(group.ep_name), _reason(node.domain, node.op_type, opset))
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name not in wanted
        for node in group.get_nodes()
    ]


def check_assignment(session: Any, device: str, wanted: Collection[str], opset: int) -> None:
    """Raise DeviceError if a node of a session, opened with ``record``, is on none of the wanted providers."""
    found = elsewhere(session, wanted, opset)
    if found:
        named = "; ".join(map(str, found[:LISTED]))
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise DeviceError(
            f'device "{device}": every node of the step must be on {" or ".join(sorted(wanted))}, got {named}{more}. '
            f"Train without strict and cuda_graph, or write the model with other operators."
        )


def check_capturable(model: ModelProto, device: str) -> None:
    """Raise DeviceError if a step has control flow, which a CUDA graph cannot record."""
    model = for_device(model, "cuda")
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    found = [node for node in nodes if node.domain == "" and node.op_type in CONTROL_FLOW]
    if found:
        raise DeviceError(
            f'device "{device}": a step that is captured as a CUDA graph must have no control flow, got '
            f"{found[0].op_type} {(found[0].name or found[0].output[0])!r}. Train without cuda_graph."
        )


def _reason(domain: str, op_type: str, opset: int) -> str:
    entries = kernels(CUDA_KERNELS).get((domain, op_type), ())
    if not entries:
        return f"{release()} has no CUDA kernel for it"
    version = (
        schema.operator(op_type, opset, domain).since_version if schema.has_operator(op_type, opset, domain) else 0
    )
    if version and not any(kernel.serves(version) for kernel in entries):
        return f"{release()} has CUDA kernels for other versions than {version}"
    return "a CUDA kernel lacks its types, or it computes sizes, which onnxruntime keeps on the CPU"
