"""The inference reading and the loss, for several devices that are each dealt a part of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from renom_onnx.converters.data_parallel import dealt
from renom_onnx.converters.loss_terms import ROWS, SUM, loss_terms
from renom_onnx.converters.step_graph import StepGraph
from renom_onnx.converters.training_info import TrainingStep, evaluation_model
from renom_onnx.errors import ConversionError


@dataclass(frozen=True)
class LossPart:
    """What the terms of one kind contribute to the loss of a part of the rows.

    Attributes:
        value: name of the output that has it.
        divisor: name of the output that has what the terms were divided by; None for rows and sums.
        is_mean: whether they were divided by anything.
    """

    value: str
    divisor: str | None
    is_mean: bool


@dataclass(frozen=True)
class ParallelEvaluation:
    """An evaluation of a part of the rows.

    Attributes:
        model: what a session runs.
        outputs: names of the inference outputs.
        loss: what the loss is put together from; nothing without one.
        dealt: names of the inputs whose rows are dealt; nothing where an output is not made of rows, so that only the
            whole batch can be evaluated.
    """

    model: onnx.ModelProto
    outputs: Sequence[str]
    loss: Sequence[LossPart]
    dealt: tuple[str, ...]


def parallel_evaluation(model: onnx.ModelProto, step: TrainingStep, *, with_loss: bool) -> ParallelEvaluation:
    """Return the evaluation of a part of the rows, for devices that have weights and state as inputs."""
    proto = evaluation_model(model, step, with_loss=with_loss)
    graph = StepGraph(proto)
    feeds = [name for name in graph.inputs if name not in step.bindings]
    outputs = [o.name for o in model.graph.output]
    try:
        batch = dealt(graph, feeds)
    except ConversionError:
        batch = ()
    symbols = {graph.types[name][1][0] for name in batch}  # type: ignore[index]
    if any((shape := graph.types[name][1]) is None or not shape or shape[0] not in symbols for name in outputs):
        batch = ()
    loss: list[LossPart] = []
    if with_loss:
        terms = loss_terms(graph, step.evaluation_loss, batch, set(step.bindings))
        for kind in terms.kinds:
            divisor = None if kind in {SUM, ROWS} else kind
            loss.append(LossPart(terms.part(graph, kind), divisor, kind != SUM))
    graph.infer()
    names = [*outputs, *dict.fromkeys(n for part in loss for n in (part.value, part.divisor) if n is not None)]
    results = [graph.info(name, *graph.types[name]) for name in names]
    whole = graph.model(graph.in_order(), list(graph.inputs.values()), results, "evaluation")
    return ParallelEvaluation(whole, outputs, loss, batch)
