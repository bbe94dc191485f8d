"""Where the backward pass of a step ends and the update begins: the gradients, which several devices add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import onnx

from renom_onnx.converters.step_graph import StepGraph, reads
from renom_onnx.converters.training_info import TrainingStep
from renom_onnx.graph.function import DOMAIN


def gradient_values(graph: StepGraph, step: TrainingStep, batch: Collection[str]) -> list[str]:
    """Return the names of the gradients that the next values are computed from.

    A file of ours calls them after the weights. In another they are what the update reads of the backward pass: the
    update is everything behind which nothing has a size of the batch, neither what it reads nor what it leads to. What
    is only laid side by side, for an update of several weights, is one gradient.

    Args:
        graph: the step.
        step: what it was made of.
        batch: names of the inputs that are dealt.
    """
    made = graph.producers()
    named = [f"{key}.grad" for key in step.weights if f"{key}.grad" in made]
    of_batch = graph.dependents(batch)
    behind = graph.dependents(named)
    others = [value for value in step.bindings.values() if value in of_batch and value not in behind]
    ends = _ends(graph, step, of_batch, set(named)) if others else []
    return _side_by_side(graph, step, [*named, *ends])


def _ends(graph: StepGraph, step: TrainingStep, of_batch: set[str], named: set[str]) -> list[str]:
    """Return what the update reads of the backward pass, where it has no names that say so."""
    calls = [node for node in graph.nodes if node.domain == DOMAIN and node.op_type.endswith("Grad")]
    backward = graph.dependents([name for node in calls for name in node.output if name])
    readers: dict[str, list[int]] = {}
    nodes = graph.in_order()
    for i, node in enumerate(nodes):
        for name in reads(node):
            readers.setdefault(name, []).append(i)
    update: set[int] = set()
    for i in reversed(range(len(nodes))):
        outputs = [name for name in nodes[i].output if name]
        ends_here = step.loss not in outputs and all(set(readers.get(name, ())) <= update for name in outputs)
        if ends_here and all(_is_fixed(graph, name, of_batch) for name in [*reads(nodes[i]), *outputs]):
            update.add(i)
    written = {name for i in update for name in nodes[i].output}
    read = [name for i in sorted(update) for name in reads(nodes[i])]
    found = [name for name in dict.fromkeys(read) if name in backward and name not in written | named]
    return [name for name in found if _floats(graph, name)]


def _side_by_side(graph: StepGraph, step: TrainingStep, gradients: Sequence[str]) -> list[str]:
    """Return gradients, with what joins some of them in the place of the first where nobody else reads these."""
    unshaped = {node.output[0]: node.input[0] for node in graph.nodes if _is(node, "Reshape")}
    read = Counter([*(name for node in graph.nodes for name in reads(node)), *step.bindings.values()])
    place = {name: name for name in gradients}
    for node in graph.nodes:
        joined = [name if name in place else unshaped.get(name, name) for name in node.input]
        is_alone = all(read[name] == 1 for name in [*node.input, *joined])
        if _is(node, "Concat") and is_alone and place.keys() >= set(joined):
            place.update(dict.fromkeys(joined, node.output[0]))
    return list(dict.fromkeys(place.values()))


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return (node.domain, node.op_type) == ("", op_type)


def _is_fixed(graph: StepGraph, name: str, of_batch: set[str]) -> bool:
    """Whether a value has no size of the batch's."""
    if name not in of_batch:
        return True
    shape = graph.types[name][1] if name in graph.types else None
    return shape is not None and all(isinstance(d, int) for d in shape)


def _floats(graph: StepGraph, name: str) -> bool:
    return graph.types[name][0].name in {"float16", "bfloat16", "float32", "float64"}
