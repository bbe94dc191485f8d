"""What a loss becomes when its batch is dealt to several devices.

A loss is a linear combination of terms, and every term is a sum over the batch, or such a sum divided by something: by
the rows, or by another sum over the batch such as that of the labels' weights. The whole batch's term is then the sum
of the parts' terms, each times the part's share of the divisor, and so is its gradient. A term that is none of these
(a norm of all rows, say) counts as a mean over rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.step_graph import StepGraph, attribute, reads
from renom_onnx.errors import ConversionError
from renom_onnx.graph.function import DOMAIN

SUM, ROWS = "sum", "rows"
"""Kinds of terms without a divisor in the graph; another kind is the name of the divisor."""

_PASSING = {"Neg", "Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"}
_ADDING = {"Add", "Sub", "Sum"}
_TOTALS = {"ReduceSum", "ReduceL1", "ReduceSumSquare"}
_LABEL_LOSSES = {"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"}


@dataclass
class LossTerms:
    """The terms of one loss.

    Attributes:
        loss: its name.
        terms: kind by name of the term.
        linear: the nodes that make the loss of the terms, inputs before readers.
    """

    loss: str
    terms: dict[str, str] = field(default_factory=dict)
    linear: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """The kinds that occur, each once."""
        return list(dict.fromkeys(self.terms.values()))

    def part(self, graph: StepGraph, kind: str) -> str:
        """Return the name of what the terms of one kind contribute to the loss."""
        if self.kinds == [kind]:
            return self.loss
        zero = graph.constant(0, graph.types[self.loss][0], f"{self.loss}.zero")
        names = {term: term if found == kind else zero for term, found in self.terms.items()}
        for node in self.linear:
            inputs = [names.get(name, name) for name in node.input]
            copy = graph.op(node.op_type, *inputs, name=f"{node.output[0]}.part")
            graph.nodes[-1].attribute.extend(node.attribute)
            names[node.output[0]] = copy
        return names[self.loss]


def loss_terms(graph: StepGraph, loss: str, batch: Collection[str], changing: Collection[str]) -> LossTerms:
    """Return the terms of a loss; divisors that the graph does not hold yet are added to it.

    Args:
        graph: the step.
        loss: name of the loss.
        batch: names of the inputs that are dealt.
        changing: names of what training changes.
    """
    return _Reader(graph, batch, changing).read(loss)


class _Reader:
    def __init__(self, graph: StepGraph, batch: Collection[str], changing: Collection[str]) -> None:
        self._graph = graph
        self._producers = graph.producers()
        self._of_batch = graph.dependents(batch)
        self._by_value = self._values_of(batch)
        self._of_weights = graph.dependents(changing)
        self._symbols = {shape[0] for name in batch if (shape := graph.types[name][1])}
        self._divisors: dict[str, str] = {}

    def _values_of(self, batch: Collection[str]) -> set[str]:
        """Return what depends on the batch by more than its sizes."""
        found = set(batch)
        for node in self._graph.in_order():
            if node.op_type not in {"Shape", "Size"} and not found.isdisjoint(reads(node)):
                found.update(name for name in node.output if name)
        return found

    def read(self, loss: str) -> LossTerms:
        found = LossTerms(loss)
        linear: set[str] = set()
        stack = [loss]
        while stack:
            name = stack.pop()
            if name in linear or name in found.terms:
                continue
            operands = self._linear_operands(name)
            if operands is None:
                found.terms[name] = self._kind(name)
            else:
                linear.add(name)
                stack += reversed(operands)
        found.linear = [n for n in self._graph.in_order() if n.output[0] in linear]
        return found

    def _linear_operands(self, name: str) -> list[str] | None:
        """Return the operands that the value is linear in; None where the value is a term itself."""
        node = self._producers.get(name)
        if node is None or name not in self._of_batch or node.domain:
            return None
        if node.op_type in _PASSING:
            return [node.input[0]]
        if node.op_type in _ADDING:
            return list(node.input)
        if node.op_type == "Mul":
            ours = [operand for operand in node.input if operand in self._of_batch]
            return ours if len(ours) == 1 else None
        if node.op_type == "Div" and node.input[1] not in self._of_batch:
            return [node.input[0]]
        return None

    def _kind(self, name: str) -> str:
        node = self._producers.get(name)
        if node is None or name not in self._of_batch or node.domain:
            return ROWS  # what is the same on every device counts once in all
        if node.op_type in _LABEL_LOSSES:
            return self._label_kind(node)
        if self._is_total(node):
            return SUM
        if node.op_type == "Div" and self._is_sum(node.input[0]):
            return self._divisor_kind(node.input[1])
        return ROWS

    def _is_total(self, node: onnx.NodeProto) -> bool:
        """Whether the node adds all rows of its operand up."""
        if node.domain or node.op_type not in _TOTALS:
            return False
        shape = self._graph.types.get(node.input[0], (None, None))[1]
        if shape is None or not shape or shape[0] not in self._symbols:
            return False
        if len(node.input) < 2 or not node.input[1]:
            return True
        axes = self._graph.initializers.get(node.input[1])
        known = None if axes is None else array_of(axes).reshape(-1).tolist()
        return known is not None and (0 in known or -len(shape) in known or not known)

    def _is_sum(self, name: str) -> bool:
        """Whether the value is a linear combination of sums over the batch, and nothing else."""
        terms = self.read(name).terms
        return all(kind == SUM for kind in terms.values())

    def _divisor_kind(self, name: str) -> str:
        if name not in self._by_value:
            return ROWS
        if name not in self._of_weights and self._is_sum(name):
            return name
        return ROWS

    def _label_kind(self, node: onnx.NodeProto) -> str:
        reduction = attribute(node, "reduction", "mean")
        if reduction != "mean":
            return SUM if reduction == "sum" else ROWS
        weights = node.input[2] if len(node.input) > 2 else ""
        ignored = attribute(node, "ignore_index", None)
        if not weights and ignored is None:
            return ROWS
        key = f"{node.input[1]} {weights} {ignored}"
        if key not in self._divisors:
            self._divisors[key] = self._label_weights(node.input[1], weights, ignored, node.output[0])
        return self._divisors[key]

    def _label_weights(self, labels: str, weights: str, ignored: int | None, loss: str) -> str:
        """Add the sum of the labels' weights, those of ignored labels 0, and return its name."""
        graph = self._graph
        dtype = graph.types[weights][0] if weights else graph.types[loss][0]
        kept = ""
        if ignored is not None:
            index = graph.constant(ignored, graph.types[labels][0], f"{loss}.ignored")
            keep = graph.op("Not", graph.op("Equal", labels, index))
            kept = graph.cast(keep, dtype)
            labels = graph.op("Mul", labels, graph.cast(keep, graph.types[labels][0]))  # it may be out of range
        each = graph.op("Gather", weights, labels, axis=0) if weights else kept
        if weights and kept:
            each = graph.op("Mul", each, kept)
        divisor = graph.op("ReduceSum", each, name=f"{loss}.divisor", keepdims=0)
        graph.types[divisor] = (np.dtype(dtype), ())
        return divisor


def share_gradients(
    graph: StepGraph,
    terms: LossTerms,
    shares: Mapping[str, str],
    gradients: Collection[str],
    changing: Collection[str],
) -> None:
    """Multiply the gradients of a step by its part's shares of the divisors.

    Where all terms have one share, the ones that seed the backward pass are multiplied, else the gradient of every
    term where the pass enters it, and in a file whose functions are written out the gradients of the weights.

    Args:
        graph: the step.
        terms: of its training loss.
        shares: the names of the shares, float64 scalars, by kind; a sum has none.
        gradients: names of the weights' gradients.
        changing: names of what training changes.

    Raises:
        ConversionError: the pass enters the terms of several kinds at places that cannot be found.
    """
    if not shares:
        return
    if len(terms.kinds) == 1:
        (share,) = shares.values()
        seeds = [node for node in graph.nodes if (node.domain, node.op_type) == (DOMAIN, "Ones")]
        for name in [seeds[0].output[0]] if len(seeds) == 1 else gradients:
            _scale_at_producer(graph, name, share)
        return
    producers = graph.producers()
    weighted = graph.dependents(changing)
    for term, kind in terms.terms.items():
        if kind not in shares or term not in weighted or term not in producers:
            continue
        calls = _gradient_calls(graph, producers[term])
        if not calls:
            raise ConversionError(
                f"several devices: the backward pass must enter every term of the loss by a gradient call, got "
                f"{term!r} without one. Write the file without inline=True."
            )
        for call in calls:
            dy = graph.op("Mul", call.input[0], graph.cast(shares[kind], graph.types[call.input[0]][0]))
            graph.types[dy] = graph.types[call.input[0]]
            graph.replace(call, input=[dy, *call.input[1:]])


def _scale_at_producer(graph: StepGraph, name: str, share: str) -> None:
    """Multiply a value for all who read it."""
    node = graph.producers()[name]
    whole = graph.fresh(f"{name}.whole")
    graph.replace(node, output=[whole if output == name else output for output in node.output])
    graph.types[whole] = graph.types[name]
    factor = graph.cast(share, graph.types[name][0])
    graph.nodes.append(onnx.helper.make_node("Mul", [whole, factor], [name], name=f"{name}.share"))


def _gradient_calls(graph: StepGraph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the calls that differentiate a node: their inputs are its dys, ys and xs."""
    found = []
    for call in graph.nodes:
        if (call.domain, call.op_type) == (DOMAIN, f"{node.op_type}Grad"):
            n = (len(call.input) - len(node.input)) // 2
            if list(call.input[2 * n :]) == list(node.input) and node.output[0] in call.input[n : 2 * n]:
                found.append(call)
    return found
