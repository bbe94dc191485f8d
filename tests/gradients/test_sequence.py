"""Gradients through sequences of tensors, against differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from renom_onnx.converters import vjp
from tests.gradients.cases import NEWEST_OPSET, at_opset
from tests.gradients.check import check_gradient
from tests.gradients.session import Session
from tests.gradients.test_control_flow import model_of, normal, operators_of

X, Z = normal(6, 3), normal(2, 3)
SPLIT = "k = Constant <value = int64 {2}> ()  s = SplitToSequence (x, k)"
ENDS = "c = ConcatFromSequence <axis = 0> (t)  y = Sin (c)"
LOOP = "true = Constant <value = bool {1}> ()  m = Constant <value = int64 {3}> ()"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "parts": (
        "(float[6, 3] x) => (float[a, b] y) { k = Constant <value = int64[3] {1, 2, 3}> ()  s = SplitToSequence (x, k)"
        " i = Constant <value = int64 {-2}> ()  j = Constant <value = int64 {2}> ()  p = SequenceAt (s, i)"
        " q = SequenceAt (s, j)  r = Concat <axis = 0> (p, q)  y = Mul (r, r) }",
        {"x": X},
    ),
    "rows without their axis": (
        "(float[6, 3] x, int64 i) => (float[a, b] y) { s = SplitToSequence <axis = 1, keepdims = 0> (x)"
        " p = SequenceAt (s, i)  q = Mul (p, p)  t = SequenceErase (s, i)"
        " r = ConcatFromSequence <axis = 0, new_axis = 1> (t)  y = Mul (r, q) }",
        {"x": X, "i": np.array(1)},
    ),
    "joined": (
        "(float[6, 3] x, float[N, 3] z) => (float[a, b] y)"
        f" {{ h = Mul (x, x)  t = SequenceConstruct (h, z, h)  {ENDS} }}",
        {"x": X, "z": Z},
    ),
    "stacked": (
        "(float[2, 3] x, float[2, 3] z) => (float[a, b, c] y) { s = SequenceConstruct (x, z, x)"
        " c = ConcatFromSequence <axis = -1, new_axis = 1> (s)  y = Sin (c) }",
        {"x": Z, "z": Z + 1},
    ),
    "put in and taken out": (
        "(float[6, 3] x, float[2, 3] z, int64 p) => (float[a, b] y, float[d, e] w) { s0 = SequenceEmpty ()"
        " s1 = SequenceInsert (s0, x)  s2 = SequenceInsert (s1, z, p)  s3 = SequenceInsert (s2, x)"
        f" q = Constant <value = int64 {{-2}}> ()  s4 = SequenceErase (s3, q)  t = SequenceErase (s4)  {ENDS}"
        " u = ConcatFromSequence <axis = 0> (s3)  w = Mul (u, u) }",
        {"x": X, "z": Z, "p": np.array(-1)},
    ),
    "map": (
        f"(float[6, 3] x, float[3] w) => (float[a, b] y) {{ {SPLIT}  t = SequenceMap (s, w) <body = each"
        f" (float[2, 3] e, float[3] v) => (float[2, 3] o) {{ p = Mul (e, v)  o = Sin (p) }}>  {ENDS} }}",
        {"x": X, "w": normal(3)},
    ),
    "map of two": (
        f"(float[6, 3] x) => (float[a, b] y, float[d, e] z) {{ {SPLIT}  u = SequenceMap (s) <body = first"
        " (float[2, 3] e) => (float[2, 3] o) { o = Exp (e) }>  t, v = SequenceMap (s, u) <body = second"
        " (float[2, 3] e, float[2, 3] f) => (float[2, 3] o, float[2, 3] q) { o = Mul (e, f)  q = Sin (f) }>"
        f" {ENDS}  z = ConcatFromSequence <axis = 0> (v) }}",
        {"x": X},
    ),
    **{
        f"branches {c}": (
            f"(float[6, 3] x, bool c) => (float[a, b] y) {{ {SPLIT}  t = If (c) <"
            " then_branch = this () => (seq(float[2, 3]) o) { o = SequenceMap (s, s) <body = each"
            " (float[2, 3] e, float[2, 3] f) => (float[2, 3] p) { p = Mul (e, f) }> },"
            f" else_branch = other () => (seq(float[2, 3]) o) {{ o = Identity (s) }}>  {ENDS.replace('c =', 'r =')} }}"
            .replace("Sin (c)", "Sin (r)"),
            {"x": X, "c": np.array(c)},
        )
        for c in (True, False)
    },
    "branch that is not taken": (
        f"(float[6, 3] x, bool c, float[2, 3] z) => (float[2, 3] y) {{ {SPLIT}  y = If (c) <"
        " then_branch = this () => (float[2, 3] o) { i = Constant <value = int64 {1}> ()  o = SequenceAt (s, i) },"
        " else_branch = other () => (float[2, 3] o) { o = Exp (z) }> }",
        {"x": X, "c": np.array(False), "z": Z},
    ),
    "read in a loop": (
        f"(float[6, 3] x, float[2, 3] z) => (float[2, 3] y) {{ {SPLIT}  {LOOP}  y = Loop (m, true, z) <body = step"
        " (int64 i, bool go, float[2, 3] v) => (bool go, float[2, 3] o)"
        " { e = SequenceAt (s, i)  p = Mul (v, e)  o = Add (p, e) }> }",
        {"x": X, "z": Z},
    ),
    **{
        f"written in a loop of {kind} steps": (
            f"(float[2, 3] z{inputs}) => (float[a, b] y) {{ {loop}  e = SequenceEmpty ()"
            "  v, t = Loop (m, true, z, e) <body = step"
            " (int64 i, bool go, float[2, 3] v, seq(float[2, 3]) l) => (bool on, float[2, 3] o, seq(float[2, 3]) n)"
            f" {{ on = Identity (go)  p = Mul (v, v)  o = Sin (p)  n = SequenceInsert (l, o) }}>  {ENDS} }}",
            {"z": Z, **feeds},
        )
        for kind, inputs, loop, feeds in (
            ("3", "", LOOP, {}),
            ("some", ", int64 m", "true = Constant <value = bool {1}> ()", {"m": np.array(3)}),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_derivative(name: str, record_property: Any):
    text, feeds = CASES[name]
    model = model_of(f"f {text}")
    products = [vjp(model), vjp(model, inline=True), vjp(at_opset(model, NEWEST_OPSET))]
    for product in products:
        onnx.checker.check_model(product, full_check=True)
    assert check_gradient(model, feeds, [Session(product) for product in products]).n_proved > 0
    for op_type in operators_of(model):
        record_property("proved", op_type)


def test_what_a_map_sees_gets_the_gradient_that_its_operand_would_get():
    """onnx's reference does not let a map see values outside."""
    text, feeds = CASES["map"]
    seen = text.replace("(s, w) <body = each (float[2, 3] e, float[3] v)", "(s) <body = each (float[2, 3] e)")
    seen = seen.replace("Mul (e, v)", "Mul (e, w)")
    assert seen != text
    seeds = {"y_grad": normal(6, 3)}
    wanted, got = (Session(vjp(model_of(f"f {t}")))({**feeds, **seeds}) for t in (text, seen))
    for key, value in wanted.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-5, err_msg=key)
