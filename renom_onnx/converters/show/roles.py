"""What each node of a trainable file is for: forward, gradient or update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from renom_onnx.converters.importer import captured

FORWARD, GRADIENT, UPDATE = "forward", "gradient", "update"


def roles(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, str]]:
    """Return the nodes of graph and training step with their roles; of a model without one, all are forward.

    Forward is what the graph holds and what the loss needs. An update writes the next value of a weight or state, or
    works for updates alone; the rest is gradient.

    Args:
        model: its first training step counts.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> [(node.op_type, role) for node, role in roles(rm.converters.to_training_onnx(loss))]
        [('Gemm', 'forward'), ('ReduceSum', 'forward'), ('Ones', 'gradient'), ('GemmGrad', 'gradient'), \
('SGD', 'update'), ('SGD', 'update')]
    """
    if not model.training_info:
        return [(node, FORWARD) for node in model.graph.node]
    info = model.training_info[0]
    nodes = [*model.graph.node, *info.algorithm.node]
    next_names = {binding.value for binding in info.update_binding}
    losses = [output.name for output in info.algorithm.output if output.name not in next_names]
    forward = set(range(len(model.graph.node))) | needed(nodes, losses)
    found: list[tuple[onnx.NodeProto, str]] = []
    of: dict[str, str] = {}
    for i, node in enumerate(nodes):
        read = [of[name] for name in [*node.input, *captured(node)] if name in of]
        is_update = bool(next_names.intersection(node.output)) or all(role == UPDATE for role in read)
        role = FORWARD if i in forward else UPDATE if is_update else GRADIENT
        found.append((node, role))
        of.update((name, role) for name in node.output if name)
    return found


def needed(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> set[int]:
    """Return the positions of the nodes that the wanted values need."""
    names, found = set(wanted), set()
    for i in reversed(range(len(nodes))):
        if names.intersection(nodes[i].output):
            found.add(i)
            names.update([*nodes[i].input, *captured(nodes[i])])
    return found
