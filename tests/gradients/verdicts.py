"""What each of ONNX's node tests can say about gradients: it proves one, or there is a reason why it cannot.

The reasons follow from the models and from the registry of gradients. No test is listed by name.
"""

from __future__ import annotations

import functools

import onnx
from onnx import TensorProto, helper

from renom_onnx.gradients import find
from tests.gradients.cases import Case, node_tests, opset_import
from tests.gradients.reference import FLOATS
from tests.gradients.session import element_of

NO_FLOAT = "no result is a float of 16 bits or more"
NO_TENSOR = "its floats come or go in a sequence or an optional value, and `vjp` gives gradients of tensors"
TYPE_ONLY = "of its float operand only the element type is read"
RANDOM = "its result is random"


@functools.cache
def verdicts() -> dict[str, str]:
    """Return, for every node test with a float input, "" where it must prove a gradient, else the reason why not."""
    return {name: verdict(case) for name, case in node_tests().items()}


def must_prove() -> list[Case]:
    """Return the node tests that must prove a gradient."""
    return [case for name, case in node_tests().items() if not verdicts()[name]]


def must_be_constant() -> list[Case]:
    """Return the node tests whose results do not depend on their float operands, or only in steps."""
    return [case for name, case in node_tests().items() if verdicts()[name] and not is_exception(verdicts()[name])]


def exceptions() -> list[Case]:
    """Return the node tests that have a derivative which nobody can check or no rule gives."""
    return [case for name, case in node_tests().items() if is_exception(verdicts()[name])]


def is_exception(why: str) -> bool:
    """Whether the reason is another one than that there is nothing to differentiate."""
    return why in {NO_TENSOR, RANDOM} or why.startswith("refused")


def verdict(case: Case) -> str:
    """Return "" where the case must prove a gradient, else the reason why it cannot."""
    graph = case.model.graph
    if opset_import(case.model).version < 9 and "Scan" in case.operators:
        return "refused: every operator must have a form at opset 18, got Scan"
    tensors = {info.name for info in graph.input if _is_float_tensor(info)}
    if not tensors:
        return NO_TENSOR
    results = [info for info in graph.output if element_of(info.type) in FLOATS]
    if not results:
        return NO_FLOAT
    if not any(_is_float_tensor(info) for info in results):
        return NO_TENSOR
    reached, cuts = set(tensors), []
    for node in graph.node:
        if not reached.intersection(_read(node)):
            continue
        why = _cut(node, reached)
        if why is None:
            reached.update(node.output)
        else:
            cuts.append(why)
    ends = [info for info in graph.output if info.name in reached]
    if any(_is_float_tensor(info) for info in ends):
        return ""
    refused = [why for why in cuts if why.startswith("refused")]
    return (refused or cuts or ["its results do not depend on its float operands"])[-1]


def _is_float_tensor(info: onnx.ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type") and info.type.tensor_type.elem_type in FLOATS


def _read(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node reads, those of its bodies included."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in _read(inner)]
    return names


def _cut(node: onnx.NodeProto, reached: set[str]) -> str | None:
    """Return why no gradient passes a node, None where one does."""
    entry = find(node.op_type, node.domain)
    if entry is not None and entry.is_refused:
        return f"refused: {node.op_type} {entry.reason}"
    if entry is not None and entry.reason == "random":
        return RANDOM
    if entry is not None and entry.reason is not None:
        return f"{node.op_type} is {entry.reason}"
    if node.op_type == "CastLike" and node.input[0] not in reached:
        return TYPE_ONLY
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in {"to", "output_dtype"}}
    target = attributes.get("to") if node.op_type == "Cast" else None
    if target is not None and target not in FLOATS:
        return f"Cast to {TensorProto.DataType.Name(target)} is piecewise constant"
    return None
