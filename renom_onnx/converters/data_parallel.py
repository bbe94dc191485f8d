"""The step of a trainable file, for several devices that are each dealt a part of the batch.

Every device computes loss and gradients of its part, the sums over all devices are taken in one flat buffer, and every
device updates its own copy of weights and state with them: the numbers of one device with the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.batch_statistics import synchronize
from renom_onnx.converters.gradient_values import gradient_values
from renom_onnx.converters.loss_terms import ROWS, SUM, LossTerms, loss_terms, share_gradients
from renom_onnx.converters.stages import Stage, cut
from renom_onnx.converters.step_graph import StepGraph, reads
from renom_onnx.converters.training_info import TrainingStep
from renom_onnx.errors import ConversionError
from renom_onnx.graph.function import DOMAIN
from renom_onnx.graph.node import type_text
from renom_onnx.graph.random import FIRST_SAMPLE


@dataclass(frozen=True)
class DistributedStep:
    """A training step in stages; between them, buffers are summed over all devices.

    Attributes:
        stages: the last one updates, the others compute.
        loss: name of the whole batch's loss, which the last stage gives out.
        bindings: what the last stage gives out by the name of the state that it becomes.
        share: name of the input that says which share of the rows a device has; None if nothing asks for it.
        dealt: names of the feeds whose rows are dealt; the others go to every device.
        n_exact: elements at the end of the last buffer that are no gradients.
    """

    stages: Sequence[Stage]
    loss: str
    bindings: Mapping[str, str]
    share: str | None
    dealt: tuple[str, ...]
    n_exact: int


def distribute(step: TrainingStep, *, synchronized: bool = False) -> DistributedStep:
    """Return a step for several devices.

    Args:
        step: what one device runs.
        synchronized: whether batch normalizations take their statistics over all devices.

    Raises:
        ConversionError: no input has a batch axis of any size, or a next value cannot be put together from parts.
    """
    graph = StepGraph(step.model)
    batch = dealt(graph, step.feeds)
    changing = {*step.bindings, *step.weights}
    terms = loss_terms(graph, step.loss, batch, changing)
    _place_dropout(graph, batch[0])
    if synchronized:
        synchronize(graph)
    shares = _Shares(graph)
    gradients = gradient_values(graph, step, batch)
    factors = {kind: shares.of(kind) for kind in terms.kinds if kind != SUM}
    share_gradients(graph, terms, factors, gradients, changing)
    loss, bindings, n_exact = _exchange(graph, step, terms, gradients, shares, batch)
    stages = cut(graph, [loss, *bindings.values()])
    return DistributedStep(stages, loss, bindings, shares.rows, batch, n_exact)


def dealt(graph: StepGraph, feeds: Sequence[str]) -> tuple[str, ...]:
    """Return the feeds whose rows are dealt: those whose first axis has a symbol for its size.

    Raises:
        ConversionError: there is none.
    """
    found = tuple(n for n in feeds if (shape := graph.types[n][1]) and isinstance(shape[0], str))
    if not found:
        given = ", ".join(f"{n} of {type_text(*graph.types[n])}" for n in feeds if graph.types[n][1]) or "none"
        raise ConversionError(
            f"several devices: an input must have a first axis of any size, whose rows can be dealt, got {given}. "
            f"Use one device, or write the file with N rows."
        )
    return found


class _Shares:
    """Shares of the whole batch's divisors, float64 scalars by the kind of a term."""

    def __init__(self, graph: StepGraph) -> None:
        self._graph = graph
        self._found: dict[str, str] = {}
        self.rows: str | None = None

    def of(self, kind: str) -> str:
        """Return the name of a share; the first call adds it."""
        if kind not in self._found:
            self._found[kind] = self._add(kind)
        return self._found[kind]

    def _add(self, kind: str) -> str:
        graph = self._graph
        if kind == ROWS:
            self.rows = graph.input("share", np.float64, ())
            return self.rows
        own = graph.cast(kind, np.float64)
        (total,) = graph.exchange([own], [()])
        nothing = graph.cast(graph.op("Equal", total, graph.constant(0, np.float64)), np.float64)
        return graph.op("Div", own, graph.op("Add", total, nothing), name=f"{kind}.share")


def _place_dropout(graph: StepGraph, batch: str) -> None:
    """Let Dropout over rows that are not those of the batch, such as (N T, F), begin at the right one too."""
    first = str(FIRST_SAMPLE.name)
    for node in list(graph.nodes):
        if (node.domain, node.op_type) != (DOMAIN, "DropoutMask") or node.input[3] != first:
            continue
        shape, own = graph.types.get(node.input[0], (None, None))[1], graph.types[batch][1]
        if shape and own and shape[0] == own[0]:
            continue
        rows, samples = (graph.op("Shape", name, start=0, end=1) for name in (node.input[0], batch))
        each = graph.op("Squeeze", graph.op("Div", rows, samples))
        graph.replace(node, input=[*node.input[:3], graph.op("Mul", first, each), *node.input[4:]])


def _exchange(
    graph: StepGraph,
    step: TrainingStep,
    terms: LossTerms,
    gradients: Sequence[str],
    shares: _Shares,
    batch: Sequence[str],
) -> tuple[str, dict[str, str], int]:
    """Sum loss, gradients and statistics over the devices.

    Returns:
        The names of the loss and of the next values, and the number of elements that are no gradients.
    """
    graph.infer()
    wide = any(graph.types[name][0] == np.float64 for name in [step.loss, *gradients])
    dtype = np.dtype(np.float64 if wide else np.float32)
    before = _needed(graph, [*gradients, step.loss])
    names = {gradient: graph.fresh(f"{gradient}.whole") for gradient in gradients}
    for node in list(graph.nodes):
        if not before.intersection(node.output) and not names.keys().isdisjoint(node.input):
            graph.replace(node, input=[names.get(name, name) for name in node.input])
    bindings = dict(step.bindings)
    of_parts = graph.dependents(batch, through_sums=False)
    statistics = [key for key, value in bindings.items() if value in of_parts]
    for key in statistics:
        _check_statistic(graph, step, key, names.values())
    values = [_as(graph, gradient, dtype) for gradient in gradients]
    values += [_shared(graph, bindings[key], shares.of(ROWS), dtype) for key in statistics]
    values.append(_whole_loss(graph, terms, shares, dtype))
    shapes = [graph.dims(name, "a summed value") for name in [*gradients, *statistics]]
    sums = graph.exchange(values, [*shapes, ()], dtype, is_last=True)
    for gradient, total in zip(gradients, sums, strict=False):
        _write_as(graph, total, names[gradient], graph.types[gradient][0])
    for key, total in zip(statistics, sums[len(gradients) :], strict=False):
        bindings[key] = _as(graph, total, graph.types[key][0], known=dtype)
    return sums[-1], bindings, 1 + sum(math.prod(shape) for shape in shapes[len(gradients) :])


def _needed(graph: StepGraph, wanted: Sequence[str]) -> set[str]:
    """Return the values that the wanted ones are computed from, and these."""
    producers = graph.producers()
    found = set(wanted)
    stack = list(wanted)
    while stack:
        node = producers.get(stack.pop())
        for name in reads(node) if node is not None else ():
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def _check_statistic(graph: StepGraph, step: TrainingStep, key: str, sums: Collection[str]) -> None:
    """Raise ConversionError if a next value that reads the batch itself is no average over it."""
    value = step.bindings[key]
    is_average = value not in graph.dependents(sums) and value not in graph.dependents(step.optional)
    if not is_average or np.dtype(graph.types[key][0]).kind != "f":
        raise ConversionError(
            f"several devices: the next value of {key!r} must be computed from gradients, or be an average over the "
            f"batch, got one that reads the batch itself ({type_text(*graph.types[key])}). Use one device, or write "
            f"the file with rm.export_training."
        )


def _as(graph: StepGraph, name: str, dtype: np.dtype[Any], known: np.dtype[Any] | None = None) -> str:
    own = known if known is not None else graph.types[name][0]
    return name if own == dtype else graph.cast(name, dtype)


def _write_as(graph: StepGraph, name: str, output: str, dtype: np.dtype[Any]) -> None:
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.nodes.append(onnx.helper.make_node("Cast", [name], [output], name=output, to=to))


def _shared(graph: StepGraph, name: str, share: str, dtype: np.dtype[Any]) -> str:
    return graph.op("Mul", _as(graph, name, dtype), graph.cast(share, dtype))


def _whole_loss(graph: StepGraph, terms: LossTerms, shares: _Shares, dtype: np.dtype[Any]) -> str:
    """Return a part's contribution to the loss of the whole batch."""
    parts = []
    for kind in terms.kinds:
        part = graph.op("Squeeze", _as(graph, terms.part(graph, kind), dtype, graph.types[terms.loss][0]))
        if kind not in (SUM, ROWS):  # without labels that count, the part's own mean is no number
            counts = graph.op("Greater", shares.of(kind), graph.constant(0, np.float64))
            part = graph.op("Where", counts, part, graph.constant(0, dtype))
        parts.append(part if kind == SUM else graph.op("Mul", part, graph.cast(shares.of(kind), dtype)))
    return parts[0] if len(parts) == 1 else graph.op("Sum", *parts)
