"""Models of an operator at each of its versions from opset 13 on."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import defs

from renom_onnx.gradients import find
from renom_onnx.graph.schema import has_body, operator, operator_names
from tests.gradients.cases import NEWEST_OPSET, OLDEST_OPSET, Case, at_opset, is_valid
from tests.gradients.reference import UncheckableError, is_float
from tests.gradients.session import Session


@functools.cache
def versions(op_type: str) -> list[int]:
    """Return the versions of an operator that some opset from 13 on means."""
    history = {s.since_version for s in defs.get_all_schemas_with_history() if (s.domain, s.name) == ("", op_type)}
    return sorted(
        {max(v for v in history if v <= o) for o in range(OLDEST_OPSET, NEWEST_OPSET + 1) if min(history) <= o}
    )


@functools.cache
def differentiable() -> list[str]:
    """Return the operators of the newest opset that have a rule or a body to differentiate."""
    names = operator_names(NEWEST_OPSET)
    return [
        name for name in names if (has_body(name, NEWEST_OPSET) if (e := find(name)) is None else e.rule is not None)
    ]


def valid_at(case: Case, version: int) -> onnx.ModelProto | None:
    """Return the case at the first opset that means this version of its operator, None where it is no valid model."""
    opset = max(version, OLDEST_OPSET)
    if operator(case.subject, opset).since_version != version:
        return None
    model = at_opset(case.model, opset)
    return model if is_valid(model) else None


def means_the_same(case: Case, model: onnx.ModelProto) -> bool | None:
    """Whether onnxruntime computes the same from both, None where it runs only one."""
    try:
        expected, got = Session(case.model)(case.feeds), Session(model)(case.feeds)
    except UncheckableError:
        return None
    return all(np.array_equal(got[k], y, equal_nan=is_float(y)) for k, y in expected.items())
