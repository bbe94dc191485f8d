"""A trial of the gradient: the reverse walk of a model, going on where training would stop, and what it tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from renom_onnx.converters.importer import ImportedGraph
from renom_onnx.converters.initializer import Kind
from renom_onnx.graph import schema
from renom_onnx.graph.backward import ReverseWalk, reverse_walk
from renom_onnx.graph.derivative import is_differentiable, reason_against, refusal
from renom_onnx.graph.function import call
from renom_onnx.graph.node import BACKWARD, Input, Node, Value, ancestors

DIFFERENTIABLE, CONSTANT, BLOCKED = "differentiable", "constant", "blocked"


@dataclass
class Trial:
    """What a reverse walk over all weights found.

    Attributes:
        graph: the model.
        status: of every node, with the reason in words where it is not differentiable.
        walk: the gradients.
        backward: the gradient nodes, inputs before readers.
    """

    graph: ImportedGraph
    status: dict[Node, tuple[str, str]] = field(default_factory=dict)
    walk: ReverseWalk | None = None
    backward: list[Node] = field(default_factory=list)


def try_gradient(graph: ImportedGraph, candidates: Iterable[Value]) -> Trial:
    """Differentiate the float outputs with respect to the candidates, and note what stands in the way.

    Args:
        graph: a model.
        candidates: initializers that hold floats.
    """
    trial = Trial(graph)
    for node, _ in graph.nodes:
        if not node.is_leaf:
            trial.status[node] = _status(node)
    wanted = list(candidates)
    seeds = [
        (value, Input(value.dtype, value.shape, name=f"{name}_grad").output)
        for name, value in graph.outputs.items()
        if value.is_float
    ]
    if not seeds or not wanted:
        return trial

    def note(node: Node, reason: str) -> None:
        if node in trial.status and trial.status[node][0] != BLOCKED:
            trial.status[node] = (BLOCKED, reason)

    trial.walk = reverse_walk(seeds, opset=graph.opset, wanted=wanted, root="an output", on_refusal=note)
    ends = [g for value in wanted if (g := trial.walk.gradient(value)) is not None]
    forward = {node for node, _ in graph.nodes} | {value.node for value in graph.values.values()}
    trial.backward = _pruned([node for node in ancestors(ends, forward) if node not in forward], ends)
    return trial


def _pruned(nodes: Sequence[Node], ends: Iterable[Value]) -> list[Node]:
    """Return the nodes, calls of functions without what nobody reads: as an export writes them."""
    read = {value for node in nodes for value in node.inputs if value is not None} | set(ends)
    made: dict[Value, Value] = {}
    pruned = []
    for node in nodes:
        inputs = [None if value is None else made.get(value, value) for value in node.inputs]
        kept = [value for value in node.outputs if value in read]
        if node.is_leaf:
            continue
        if node.function is None:
            copy = node.copy(inputs)
            made.update(zip(node.outputs, copy.outputs, strict=True))
        else:
            function = node.function.restricted(tuple(value in read for value in node.outputs))
            types = [(value.dtype, value.shape) for value in kept]
            copy = call(function, inputs, node.attributes, types, tag=BACKWARD, site=node.site)
            made.update(zip(kept, copy.outputs, strict=True))
        pruned.append(copy)
    return pruned


def _status(node: Node) -> tuple[str, str]:
    if is_differentiable(node):
        return DIFFERENTIABLE, ""
    reason = reason_against(node)
    if reason is not None:
        return CONSTANT, f"it is {reason}"
    refused = refusal(node)
    if refused is not None:
        return BLOCKED, refused
    if node.domain or not schema.has_operator(node.op_type, node.opset):
        return BLOCKED, f"ONNX has no operator {node.op_type} in domain {node.domain or 'ai.onnx'}"
    return BLOCKED, "there is no gradient rule"


@dataclass(frozen=True)
class Verdict:
    """Whether an initializer would be trained, and why not."""

    would_train: bool
    reason: str = ""


def verdict(trial: Trial, value: Value, kind: Kind, readers: Sequence[str]) -> Verdict:
    """Return whether training would change an initializer of floats.

    Args:
        trial: of a gradient with respect to all of them.
        value: the initializer.
        kind: what loading makes of it.
        readers: operators of the nodes that read it.
    """
    if not readers:
        return Verdict(False, "no node reads it")
    if kind is Kind.STATISTIC:
        return Verdict(False, f"it is a statistic of {readers[0]}, which no gradient changes")
    if kind is Kind.FIXED:
        return Verdict(False, f"it is a setting or a number in a formula ({readers[0]}), not a weight")
    if trial.walk is not None and trial.walk.gradient(value) is not None:
        return Verdict(True)
    return Verdict(False, _why_not(trial, value))


def _why_not(trial: Trial, value: Value) -> str:
    """Return what ends every path from the value to an output: the first such node that is found."""
    reasons: dict[str, str] = {}
    seen: set[Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, i in _readers(trial, current):
            status, reason = trial.status[node]
            if status != DIFFERENTIABLE:
                reasons.setdefault(status, f"{node.op_type} {node.site[0]!r} is {status}: {reason}")
            elif any(trial.walk is not None and trial.walk.gradient(y) is not None for y in node.outputs):
                operand = _operand(node, i)
                reasons.setdefault(DIFFERENTIABLE, f"{node.op_type} {node.site[0]!r} gives {operand} no gradient")
            else:
                stack.extend(node.outputs)
    for status in (BLOCKED, DIFFERENTIABLE, CONSTANT):
        if status in reasons:
            return reasons[status]
    return "no output of floats depends on it"


def _operand(node: Node, index: int) -> str:
    if node.function is not None or not schema.has_operator(node.op_type, node.opset, node.domain):
        return f"operand {index + 1}"
    return f"its operand {schema.operator(node.op_type, node.opset, node.domain).input(index).name}"


def _readers(trial: Trial, value: Value) -> list[tuple[Node, int]]:
    return [
        (node, i) for node in value.followers if node in trial.status for i, v in enumerate(node.inputs) if v is value
    ]
