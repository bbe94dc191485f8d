"""The gradient of every version of every differentiable operator from opset 13 on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from renom_onnx.converters.importer import at_least_opset
from renom_onnx.graph.schema import DEFAULT_OPSET
from tests.gradients.cases import Case
from tests.gradients.old_cases import OLD_CASES
from tests.gradients.own_cases import OWN_CASES
from tests.gradients.reference import Reference
from tests.gradients.session import Itself
from tests.gradients.test_rules import SINGLE, gradients, prove
from tests.gradients.versions import differentiable, means_the_same, valid_at, versions

CASES: dict[str, list[Case]] = {}
for case in [*OLD_CASES, *OWN_CASES, *SINGLE]:
    if case.subject:
        CASES.setdefault(case.subject, []).append(case)
ENOUGH = 3
ROUNDED = {"QuantizeLinear"}  # gives integers only: test_quantization.py has its versions
VERSIONS = [(name, version) for name in differentiable() if name not in ROUNDED for version in versions(name)]


def reference_of(case: Case) -> Reference | Itself:
    """Return onnx's reference of the upgraded model, because it takes old operators for new ones or has none."""
    if case.operators == ["DequantizeLinear"]:
        return Itself(case.model)
    return Reference(at_least_opset(case.model, DEFAULT_OPSET))


@pytest.mark.parametrize(("name", "version"), VERSIONS, ids=[f"{name}-{version}" for name, version in VERSIONS])
def test_gradient_of_every_version_is_the_derivative(
    name: str, version: int, record_property: Callable[[str, object], None]
):
    valid = [(case, model) for case in CASES[name] if (model := valid_at(case, version)) is not None]
    assert valid, f"no case is a model of {name} at version {version}"
    run, n_proved = False, 0
    for case, model in valid:
        same = means_the_same(case, model)
        run |= same is not None
        if same and n_proved < ENOUGH:
            prove(case, gradients([model]), record_property, reference_of(case))
            n_proved += 1
    if not run:
        pytest.skip("onnxruntime's CPU provider does not run it")
    assert n_proved, f"no case means the same at version {version} of {name}"
    record_property("version", f"{name} {version}")
