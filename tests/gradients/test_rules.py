"""Every gradient rule against differences in float64, at the points of ONNX's own node tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from renom_onnx.graph.schema import operator_names
from tests.gradients.cases import (
    NEWEST_OPSET,
    Case,
    at_both_ends,
    at_opset,
    is_valid,
    with_sizes,
    with_symbols,
    without_shapes,
)
from tests.gradients.check import STEP, check_gradient
from tests.gradients.own_cases import OWN_CASES
from tests.gradients.reference import Reference, UncheckableError, is_float
from tests.gradients.session import Itself, ReferenceSession, Session, runs
from tests.gradients.summary import family
from tests.gradients.verdicts import must_be_constant, must_prove

Record = Callable[[str, object], None]

HELD = {  # inputs that are sizes or indices though they may be floats: no derivative, and nothing to move
    "Dropout": {"r"},
    "Resize": {"roi", "scales"},
    "OneHot": {"indices", "depth"},
    "Range": {"limit"},
    "Loop": {"limit"},  # a Range that is written out
    "Upsample": {"scales"},
}
BY_ITSELF = {  # linear in x, so that differences of onnxruntime itself, with step 1, are exact
    "test_maxunpool_export_with_output_shape": "onnxruntime counts the indices in the output that it was asked for",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime aligns the corners of the exact size",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime aligns the corners of the exact size",
    "test_scatter_with_axis": "an operator of opset 10, which onnx's reference lacks",
    "test_scatter_without_axis": "an operator of opset 10, which onnx's reference lacks",
    "test_upsample_nearest": "an operator of opset 9, which onnx's reference lacks in this mode",
    **{f"Resize-{mode}-align_corners": "as above" for mode in ("nearest", "linear", "cubic")},
}


def parameters(cases: Sequence[Case]) -> list[object]:
    return [pytest.param(case, id=case.name.removeprefix("test_")) for case in cases]


def draws(case: Case) -> bool:
    """Whether it is Dropout in training mode."""
    return case.operators == ["Dropout"] and len(case.nodes[0].input) == 3


CURRENT = frozenset(operator_names(NEWEST_OPSET))


def is_current(case: Case) -> bool:
    """Whether ONNX still has the operator."""
    return all(node.domain or node.op_type in CURRENT for node in case.nodes)


PROVING = must_prove()
SINGLE = [case for case in PROVING if case.is_one_operator and is_current(case) and not draws(case)]


def prove(
    case: Case,
    sessions: Sequence[Session | ReferenceSession],
    record_property: Record,
    reference: Reference | Itself | None = None,
) -> None:
    """Check the gradients that the sessions compute, from models that should mean the same as the case's own."""
    held = {name for operator in case.operators for name in HELD.get(operator, ())}
    itself = Itself(case.model) if case.name in BY_ITSELF else None
    step = 1 if itself or isinstance(reference, Itself) or case.is_linear_in_each else STEP
    result = check_gradient(case.model, case.feeds, sessions, held=held, step=step, reference=itself or reference)
    record(case, record_property)
    if result.n_redrawn:
        record_property("redrawn", case.name)


def record(case: Case, record_property: Record) -> None:
    """Tell the summary what was proved."""
    for op_type, entry in zip(case.operators, case.entries, strict=True):
        record_property("proved" if entry is None or entry.rule is not None else "reasoned", op_type)


def gradients(models: Sequence[onnx.ModelProto]) -> list[Session]:
    return [Session(vjp(model)) for model in models]


@pytest.mark.parametrize("case", parameters(PROVING))
def test_gradient_is_the_derivative(case: Case, record_property: Record):
    if draws(case):
        prove_by_the_draw(case)
        record(case, record_property)
    elif runs(case.model, case.feeds):
        prove(case, gradients([case.model, *at_both_ends(case)]), record_property)
    else:
        record_property("not run", case.name)
        prove_without_onnxruntime(case, record_property)
        return
    record_property("node test", case.name)


def prove_without_onnxruntime(case: Case, record_property: Record) -> None:
    """Check what onnxruntime's CPU provider does not run, as far as onnx's reference runs its gradient."""
    try:
        prove(case, [ReferenceSession(vjp(case.model, inline=True))], record_property)
    except (UncheckableError, GradientError) as reason:
        pytest.skip(f"onnxruntime's CPU provider does not run it, and onnx's reference no gradient: {reason}"[:200])


def prove_by_the_draw(case: Case) -> None:
    """Dropout is linear in x once its mask is drawn, and every element stands alone: y = a x, so that x_grad = a u."""
    rng = np.random.default_rng(0)
    x, u = (rng.standard_normal(case.feeds["x"].shape).astype("f") for _ in range(2))
    got = Session(vjp(case.model))({**case.feeds, "x": x, "y_grad": u})
    np.testing.assert_allclose(got["x_grad"] * x, got["y"] * u, rtol=1e-5)
    np.testing.assert_array_equal(got["x_grad"] != 0, got["y"] != 0)


@pytest.mark.parametrize("case", parameters(SINGLE))
def test_gradient_is_the_derivative_without_known_sizes(case: Case, record_property: Record):
    forms = [with_symbols, with_one_symbol, without_shapes]
    if case.operators == ["MatMul"] and any(x.ndim == 1 for x in case.feeds.values()):
        forms.remove(without_shapes)  # operands of unknown rank are taken for matrices
    if case.operators == ["Attention"] and len(case.nodes[0].output) == 4:
        forms.remove(without_shapes)  # onnx infers that the scores are a scalar
    ran = [model for form in forms if runs(model := form(case), case.feeds)]
    models = [model for model in ran if differentiates(model)]
    if not models:
        pytest.skip("onnxruntime's CPU provider does not run it" if not ran else "the rule must know sizes")
    prove(case, gradients(models), record_property)


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
    others = [m for m in others if is_valid(m) and runs(m, case.feeds) and differentiates(m)]
    prove(case, gradients([case.model, with_sizes(case), *others]), record_property)


FIRST_OF_EACH = {case.subject: case for case in reversed([*OWN_CASES, *SINGLE]) if case.subject}


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
def test_gradient_has_a_gradient(case: Case, record_property: Record):
    if not runs(case.model, case.feeds):
        pytest.skip("onnxruntime's CPU provider does not run it")
    rng = np.random.default_rng(0)
    product, calls = (with_free_names(vjp(case.model, inline=inline)) for inline in (True, False))
    outputs = Session(case.model)(case.feeds).items()
    seeds = {f"d_{name}": rng.standard_normal(y.shape).astype(y.dtype) for name, y in outputs if is_float(y)}
    held = HELD.get(case.subject, ())
    check_gradient(product, {**case.feeds, **seeds}, gradients([product, calls]), held=held, n_cotangents=1)
    record_property("second order", case.subject)


def test_gradients_of_gradients_are_checked_in_ten_families():
    assert len({family(name) for name in FIRST_OF_EACH}) >= 10


@pytest.mark.parametrize("case", parameters(must_be_constant()))
def test_operator_with_a_reason_is_constant(case: Case, record_property: Record):
    if not runs(case.model, case.feeds):
        record_property("not run", case.name)
        pytest.skip("onnxruntime's CPU provider does not run it")
    if "BitCast" not in case.operators:  # the bits of float64 are others than those of float32
        prove(case, gradients([case.model]), record_property)
    record_property("constant node test", case.name)
