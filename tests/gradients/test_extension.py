"""Rules from outside, for operators that are not ONNX's; and how small a rule is."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from renom_onnx.gradients import entries, gradient, registry
from renom_onnx.graph import derivative
from tests.gradients.session import Session

X = np.random.default_rng(0).standard_normal((4, 3)).astype("f")
SWOOSH = """
<ir_version: 10, opset_import: ["": 18, "example": 1]>
f (float[N, 3] x) => (float loss) <float[3, 2] w = {0.1, 0.2, -0.3, 0.4, 0.5, -0.6}>
{ s = MatMul(x, w)  h = example.Swoosh(s)  loss = ReduceSum<keepdims = 0>(h) }
<domain: "example", opset_import: ["": 18]>
Swoosh <alpha: float = 3.0> (x) => (y) { s = Sigmoid(x)  y = Mul(x, s) }
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    derivative._bodies.clear()
    yield
    derivative._bodies.clear()


def register_swoosh() -> None:
    @gradient("Swoosh", domain="example")
    def swoosh(op, dy, y, x, *, alpha):  # type: ignore[no-untyped-def]
        """dx = alpha dy: no derivative of anything, so that it can be told from that of the body."""
        return op.Mul(dy, alpha)


def test_a_rule_comes_before_the_body_of_a_function():
    model, one = onnx.parser.parse_model(SWOOSH), np.ones((), "f")
    through_body = Session(vjp(model, "w"))({"x": X, "loss_grad": one})["w_grad"]
    register_swoosh()
    by_rule = Session(vjp(model, "w"))({"x": X, "loss_grad": one})["w_grad"]
    np.testing.assert_allclose(by_rule, 3 * X.sum(0)[:, None].repeat(2, 1), rtol=1e-5)
    assert not np.allclose(by_rule, through_body)


def test_a_model_trains_by_a_rule_from_outside():
    register_swoosh()
    model = rm.make_trainable(onnx.parser.parse_model(SWOOSH), loss="loss", optimizer=rm.graph.Sgd(0.01))
    assert "SwooshGrad" in {node.op_type for node in model.training_info[0].algorithm.node}
    session = rm.runtime.TrainingSession(model, device="cpu")
    before = session.read("w")
    session.step({"x": X})
    np.testing.assert_allclose(session.read("w"), before - 0.01 * 3 * X.sum(0)[:, None], rtol=1e-5, atol=1e-7)


def contrib_gelu() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> f (float[N, 3] x) => (float[N, 3] y) '
        "{ y = com.microsoft.Gelu(x) }"
    )


def test_an_operator_that_only_the_runtime_knows_has_no_gradient():
    with pytest.raises(GradientError) as error:
        vjp(contrib_gelu())
    assert str(error.value) == (
        "com.microsoft.Gelu: there is no gradient rule, but an output depends on x through it. Freeze what lies before "
        "it, or register a rule with renom_onnx.gradients.gradient. It is node 'y' of the model."
    )


def test_a_rule_gives_one_to_an_operator_that_only_the_runtime_knows():
    @gradient("Gelu", domain="com.microsoft")
    def gelu(op, dy, y, x):  # type: ignore[no-untyped-def]
        density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / np.sqrt(2 * np.pi))
        return op.Mul(dy, op.Add(op.Add(op.Mul(op.Erf(op.Mul(x, np.sqrt(0.5))), 0.5), 0.5), op.Mul(x, density)))

    dy = np.arange(12, dtype="f").reshape(4, 3)
    want = Session(vjp(standard_gelu()))({"x": X, "y_grad": dy})["x_grad"]
    got = Session(vjp(contrib_gelu()))({"x": X, "y_grad": dy})["x_grad"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def standard_gelu() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> f (float[N, 3] x) => (float[N, 3] y) { y = Gelu(x) }'
    )


def test_the_median_rule_has_at_most_ten_lines():
    """Of its source, with decorator, signature and docstring."""
    lengths = [len(inspect.getsource(rule).splitlines()) for rule in {e.rule for e in entries() if e.rule is not None}]
    assert statistics.median(lengths) <= 10


def test_every_rule_is_in_the_file_of_a_family():
    for entry in entries():
        if entry.rule is not None:
            assert entry.rule.__module__.startswith("renom_onnx.gradients.")
            assert len(inspect.getsource(inspect.getmodule(entry.rule)).splitlines()) <= 500  # type: ignore[arg-type]
