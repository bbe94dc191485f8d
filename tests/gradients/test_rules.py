"""Every gradient rule against differences in float64, at the points of ONNX's own node tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from renom_onnx.graph.schema import has_body
from tests.gradients.cases import (
    NEWEST_OPSET,
    Case,
    at_both_ends,
    at_opset,
    node_tests,
    with_sizes,
    with_symbols,
    without_shapes,
)
from tests.gradients.check import STEP, ReferenceSession, Session, UncheckableError, check_gradient, is_float
from tests.gradients.own_cases import OWN_CASES

Record = Callable[[str, object], None]

HELD = {  # inputs that are sizes or indices though they may be floats: no derivative, and nothing to move
    "Dropout": {"r"},
    "Resize": {"roi", "scales"},
    "OneHot": {"indices", "depth"},
    "Range": {"limit"},
}
NAN_INSIDE = pytest.mark.xfail(
    strict=True, reason="the model makes NaN and hides it by Where; 0 * NaN is NaN in the gradient, as in PyTorch"
)
BY_TORCH = pytest.mark.skip(reason="onnx's reference samples roughly; test_sampling_against_torch.py has it")
BY_DEFINITION = pytest.mark.skip(reason="the reference computes it in float32; test_control_flow.py has it")
NO_MASK = pytest.mark.xfail(
    raises=(GradientError, AssertionError), strict=True, reason="Dropout in training mode must give its mask"
)
NOT_CONSTANT = {"Bernoulli", "DynamicQuantizeLinear"}  # random; its scale follows max(x)
KNOWN = {
    name + form: NAN_INSIDE
    for form in ("", "_expanded")
    for name in (
        "test_attention_causal_boolmask_nan_robustness",
        "test_attention_23_boolmask_fullymasked_row_nan_robustness",
        "test_attention_4d_causal_nonpad_negative_offset_structural_empty",
        "test_attention_23_fullymasked_qk_matmul_output_mode3_zero",
        "test_attention_24_fullymasked_qk_matmul_output_mode3_zero",
        "test_attention_local_window_gqa_rank4_mask",
    )
} | {f"test_training_dropout{form}": NO_MASK for form in ("", "_default", "_zero_ratio")}


def has_rules(case: Case) -> bool:
    """Whether every operator has a rule, a body or a reason, and not all a reason.

    Random operators have no derivative to compare, those with a straight-through gradient have another one.
    """
    entries = dict(zip(case.operators, case.entries, strict=True))
    if any(entry is None and not has_body(name, case.opset) for name, entry in entries.items()):
        return False
    given = [entry for entry in entries.values() if entry is not None]
    if any(entry.is_refused or entry.is_straight_through or entry.reason == "random" for entry in given):
        return False
    return len(given) < len(entries) or any(entry.rule is not None for entry in given)


def has_reason(case: Case) -> bool:
    entry = case.entries[0]
    is_reasoned = entry is not None and entry.reason is not None and not entry.is_refused
    return case.is_one_operator and is_reasoned and not NOT_CONSTANT.intersection(case.operators)


def parameters(cases: Sequence[Case]) -> list[object]:
    return [pytest.param(case, id=case.name.removeprefix("test_"), marks=marks(case)) for case in cases]


def marks(case: Case) -> object:
    if case.operators == ["LinearAttention"]:
        return BY_DEFINITION
    return BY_TORCH if {"GridSample", "DeformConv"}.intersection(case.operators) else KNOWN.get(case.name, ())


NODE_TESTS = list(node_tests().values())
SINGLE = [case for case in NODE_TESTS if case.is_one_operator and has_rules(case)]


def prove(case: Case, models: Sequence[onnx.ModelProto], record_property: Record) -> None:
    """Check the gradients of the case, with the models that should mean the same as its own."""
    held = {name for operator in case.operators for name in HELD.get(operator, ())}
    try:
        result = check_gradient(
            case.model, case.feeds, sessions(case, models), held=held, step=1 if case.is_linear_in_each else STEP
        )
    except UncheckableError as reason:
        pytest.skip(str(reason).split("\n")[0])
    for op_type, entry in zip(case.operators, case.entries, strict=True):
        record_property("proved" if entry is None or entry.rule is not None else "reasoned", op_type)
    if result.n_redrawn:
        record_property("redrawn", case.name)


def sessions(case: Case, models: Sequence[onnx.ModelProto]) -> list[Session | ReferenceSession]:
    if runs(case.model, case):
        return [Session(vjp(model)) for model in models]
    return [ReferenceSession(vjp(case.model, inline=True))]


def runs(model: onnx.ModelProto, case: Case) -> bool:
    try:
        Session(model)(case.feeds)
    except UncheckableError:
        return False
    return True


@pytest.mark.parametrize("case", parameters([case for case in NODE_TESTS if has_rules(case)]))
def test_gradient_is_the_derivative(case: Case, record_property: Record):
    prove(case, [case.model, *at_both_ends(case)], record_property)


@pytest.mark.parametrize("case", parameters(SINGLE))
def test_gradient_is_the_derivative_without_known_sizes(case: Case, record_property: Record):
    forms = [with_symbols, with_one_symbol, without_shapes]
    if case.operators == ["MatMul"] and any(x.ndim == 1 for x in case.feeds.values()):
        forms.remove(without_shapes)  # operands of unknown rank are taken for matrices
    models = [model for form in forms if runs(model := form(case), case)]
    models = [model for model in models if differentiates(model)]
    if not models:
        pytest.skip("the rule must know sizes")
    prove(case, models, record_property)


def with_one_symbol(case: Case) -> onnx.ModelProto:
    return with_symbols(case, 1)


def differentiates(model: onnx.ModelProto) -> bool:
    """Whether the rules can do without the sizes that the model leaves open."""
    try:
        vjp(model)
    except GradientError as e:
        assert "must know" in str(e), e
        return False
    return True


@pytest.mark.parametrize("case", parameters(OWN_CASES))
def test_gradient_of_our_own_case_is_the_derivative(case: Case, record_property: Record):
    others = [without_shapes(case), at_opset(case.model, NEWEST_OPSET)]
    prove(
        case, [case.model, with_sizes(case), *(m for m in others if is_valid(m) and differentiates(m))], record_property
    )


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the operators have these attributes at the model's opset."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


FIRST_OF_EACH = {case.operators[0]: case for case in reversed(SINGLE)}


def with_free_names(product: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model of gradients with d_x in the place of x_grad, so that its own gradients can have that name."""

    def free(name: str) -> str:
        return "d_" + name.removesuffix("_grad") if name.endswith("_grad") else name

    nodes = list(product.graph.node)
    for node in nodes:
        node.input[:], node.output[:] = map(free, node.input), map(free, node.output)
        nodes += [inner for attribute in node.attribute for inner in attribute.g.node]
    for info in [*product.graph.input, *product.graph.output]:
        info.name = free(info.name)
    return product


@pytest.mark.parametrize("case", parameters(list(FIRST_OF_EACH.values())))
def test_gradient_has_a_gradient(case: Case):
    rng = np.random.default_rng(0)
    product = with_free_names(vjp(case.model, inline=True))
    try:
        outputs = Session(case.model)(case.feeds).items()
        seeds = {f"d_{name}": rng.standard_normal(y.shape).astype(y.dtype) for name, y in outputs if is_float(y)}
        check_gradient(product, {**case.feeds, **seeds}, n_cotangents=1)
    except UncheckableError as reason:
        pytest.skip(str(reason).split("\n")[0])


@pytest.mark.parametrize("case", parameters([case for case in NODE_TESTS if has_reason(case)]))
def test_operator_with_a_reason_is_constant(case: Case, record_property: Record):
    prove(case, [case.model], record_property)
