"""Gradients through If, Loop and Scan: own cases against differences in float64, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import lint, to_training_onnx, vjp
from renom_onnx.errors import GradientError
from renom_onnx.gradients import find
from renom_onnx.graph.node import ancestors
from renom_onnx.runtime import TrainingSession
from tests.gradients.cases import NEWEST_OPSET, at_opset, node_tests
from tests.gradients.check import check_gradient
from tests.gradients.session import Session
from tests.gradients.test_rules import with_free_names

RNG = np.random.default_rng(0)
TRUE = "true = Constant <value = bool {1}> ()"


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype("f")


def model_of(text: str, opset: int = 18) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "own": 1]>\n{text}')
    for node in model.graph.node:
        if node.op_type == "Loop" and len(node.input) == 1:
            node.input.append("")  # an absent condition, which the text form cannot say
    onnx.checker.check_model(model, full_check=True)
    return model


BRANCHES = """
f (float[N, 3] x, float[3] w, float[3] v, bool c, int64[2] rows) => (float[N, 3] y, float[3] z, float[M, 3] r) {
   h = Mul (x, x)
   y, z, r = If (c) <
      then_branch = this () => (float[N, 3] a, float[3] b, float[M, 3] d) {
         a = Mul (h, w)  b = Exp (w)  d = Gather (h, rows) },
      else_branch = other () => (float[N, 3] a, float[3] b, float[M, 3] d) {
         e = Add (h, v)  a = Tanh (e)  b = Identity (v)  d = Identity (x) }
   >
}
"""
SCAN = """
f (float[2] s, float[T, 2] x, float[2] w) => (float[2] y, float[T, 2] ys) {
   y, ys = Scan (s, x) <num_scan_inputs = 1, body = step (float[2] a, float[2] r) => (float[2] c, float[2] d) {
      m = Mul (a, w)  n = Tanh (m)  c = Add (n, r)  d = Mul (c, w) }>
}
"""
TURNED = """
f (float[2] s, float[2, T] x, float[T, 2] z, float[2] w) => (float[2] y, float[2, T] ys, float[T, 2] states) {
   y, ys, states = Scan (s, x, z) <num_scan_inputs = 2, scan_input_axes = [-1, 0], scan_input_directions = [1, 0],
      scan_output_axes = [1, 0], scan_output_directions = [0, 1],
      body = step (float[2] a, float[2] r, float[2] q) => (float[2] c, float[2] d, float[2] e) {
         m = Mul (a, w)  n = Tanh (m)  p = Mul (r, q)  c = Add (n, p)  d = Mul (c, r)  e = Identity (c) }>
}
"""
COUNTED = """
f (float[2] s, int64 k, float[T, 2] x, float[3, 2] w) => (float[2] y, int64 n, float[2] z, int64[T] ks) {
   one = Constant <value = int64 {1}> ()
   z0 = Identity (s)
   y, n, z, ks = Scan (s, k, z0, x) <num_scan_inputs = 1,
      body = step (float[2] a, int64 i, float[2] u, float[2] r)
         => (float[2] c, int64 j, float[2] u_next, int64 i_out) {
      row = Gather (w, i)  m = Mul (a, row)  p = Sin (m)  c = Add (p, r)
      j = Add (i, one)  i_out = Identity (i)  u_next = Identity (u) }>
}
"""
SUM = """
f (float[2] s, int64[T] x, float[2] w) => (float[2] y) {
   h = Exp (w)
   y = Scan (s, x) <num_scan_inputs = 1, body = step (float[2] a, int64 r) => (float[2] c) { c = Add (a, h) }>
}
"""
FOR = """
f (int64 m, float[2] x, float[N, 2] z, float[2, N] u, float[2] w) => (float[2] y, float[T, 2] ys) {
   TRUE  first = Constant <value = int64[1] {0}> ()
   y, ys = Loop (m, true, x) <body = step (int64 i, bool c, float[2] v) => (bool c_next, float[2] p, float[2] out) {
      c_next = Identity (c)  g = Gather (z, i)  at = Unsqueeze (i, first)  e = Gather <axis = 1> (u, at)
      f = Squeeze (e, i1)  h = Mul (v, w)  q = Add (h, g)  r = Add (q, f)  p = Tanh (r)  out = Mul (p, v) }>
}
""".replace("TRUE", f"{TRUE} i1 = Constant <value = int64[1] {{1}}> ()")
STACKED = """
f (float[3, 2] x, float[2] w) => (float[3, 2] ys) {
   m = Constant <value = int64 {3}> ()
   ys = Loop (m) <body = step (int64 i, bool c) => (bool c_next, float[2] out) {
      c_next = Identity (c)  g = Gather (x, i)  h = Mul (g, w)  out = Sin (h) }>
}
"""
WHILE = f"""
f (float[2] x, float[2] w) => (float[2] y) {{
   {TRUE}  limit = Constant <value = float {{20}}> ()
   y = Loop (, true, x) <body = step (int64 i, bool c, float[2] v) => (bool c_next, float[2] p) {{
      q = Mul (v, v)  p = Add (q, w)  s = ReduceSum <keepdims = 0> (p)  c_next = Less (s, limit) }}>
}}
"""
UNREAD = f"""
f (int64 m, float[2] x, float[2] w) => (float[2] y) {{
   {TRUE}  h = Exp (w)
   y = Loop (m, true, x) <body = step (int64 i, bool c, float[2] v) => (bool c, float[2] p) {{ p = Add (v, h) }}>
}}
"""
GROWING = f"""
f (float[2] x, float[1] w) => (float[5] y, float[3, 1] sums) {{
   {TRUE}  m = Constant <value = int64 {{3}}> ()
   y, sums = Loop (m, true, x) <body = step (int64 i, bool c, float[n] v) => (bool c_next, float[k] p, float[1] s) {{
      c_next = Identity (c)  u = Mul (v, w)  t = ReduceSum <keepdims = 1> (u)  s = Tanh (t)
      p = Concat <axis = 0> (u, s) }}>
}}
"""
NESTED = f"""
f (float[2] x, float[T, 2] z, float[2] w, int64 m) => (float[2] y, float[T, 2] ys) {{
   y, ys = Scan (x, z) <num_scan_inputs = 1, body = step (float[2] a, float[2] r) => (float[2] c, float[2] d) {{
      zero = Constant <value = float {{0}}> ()  {TRUE}
      s = ReduceSum <keepdims = 0> (r)  is_positive = Greater (s, zero)
      n = If (is_positive) <
         then_branch = this () => (float[2] o) {{ o = Mul (a, w) }},
         else_branch = other () => (float[2] o) {{
            o = Loop (m, true, a) <body = inner (int64 i, bool go, float[2] v) => (bool go, float[2] next) {{
               p = Mul (v, w)  q = Add (p, r)  next = Tanh (q) }}> }}
      >
      c = Add (n, r)  d = own.Square (c) }}>
}}
<domain: "own", opset_import: ["": 18]> Square (a) => (b) {{ b = Mul (a, a) }}
"""
IN_FUNCTION = """
f (float[2] s, float[T, 2] x, float[2] w) => (float[2] y) { y = own.Run (s, x, w) }
<domain: "own", opset_import: ["": 18]>
Run (s, x, w) => (y) {
   v = Exp (w)
   y = Scan <num_scan_inputs = 1, body = step (a, r) => (c) { m = Mul (a, v)  n = Tanh (m)  c = Add (n, r) }> (s, x)
}
"""
WITH_SEQUENCE = """
f (int64 m, float[2] x) => (float[2] y) {
   TRUE  s0 = SequenceEmpty ()
   y, z = Loop (m, true, x, s0) <
      body = step (int64 i, bool c, float[2] v, seq(float[2]) s) => (bool c_next, float[2] p, seq(float[2]) t) {
         c_next = Identity (c)  k = SequenceLength (s)  f = Cast <to = 1> (k)  p = Mul (v, f)
         t = SequenceInsert (s, v) }>
}
""".replace("TRUE", TRUE)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"if {c}": (BRANCHES, {"x": normal(4, 3), "w": normal(3), "v": normal(3), "c": c, "rows": np.array([1, 1])})
        for c in (True, False)
    },
    "scan": (SCAN, {"s": normal(2), "x": normal(4, 2), "w": normal(2)}),
    "scan of one step": (SCAN, {"s": normal(2), "x": normal(1, 2), "w": normal(2)}),
    "scan axes and directions": (TURNED, {"s": normal(2), "x": normal(2, 4), "z": normal(4, 2), "w": normal(2)}),
    "scan with a counter": (COUNTED, {"s": normal(2), "k": np.array(0), "x": normal(3, 2), "w": normal(3, 2)}),
    "scan that adds up": (SUM, {"s": normal(2), "x": np.arange(3), "w": normal(2)}),
    **{
        f"loop of {m} steps": (
            FOR, {"m": np.array(m), "x": normal(2), "z": normal(4, 2), "u": normal(2, 4), "w": normal(2)},
        )
        for m in (3, 1)
    },
    "loop of stacked outputs alone": (STACKED, {"x": normal(3, 2), "w": normal(2)}),
    "loop while": (WHILE, {"x": np.array([1.2, 0.7], "f"), "w": np.array([0.3, 0.5], "f")}),
    "loop that adds up": (UNREAD, {"m": np.array(3), "x": normal(2), "w": normal(2)}),
    "loop that grows": (GROWING, {"x": normal(2), "w": normal(1)}),
    "loop with a sequence": (
        WITH_SEQUENCE.replace("int64 m, ", "").replace("s0 =", "m = Constant <value = int64 {3}> ()  s0 ="),
        {"x": normal(2)},
    ),
    "nested": (NESTED, {"x": normal(2), "z": normal(4, 2), "w": normal(2), "m": np.array(2)}),
    "scan in a function": (IN_FUNCTION, {"s": normal(2), "x": normal(3, 2), "w": normal(2)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_derivative(name: str, record_property: Any):
    text, feeds = CASES[name]
    feeds = {k: np.asarray(v) for k, v in feeds.items()}
    model = model_of(text)
    products = [vjp(model), vjp(model, inline=True), vjp(at_opset(model, NEWEST_OPSET))]
    for product in products:
        onnx.checker.check_model(product, full_check=True)
    assert check_gradient(model, feeds, [Session(product) for product in products]).n_proved > 0
    for op_type in operators_of(model):
        record_property("proved", op_type)


def operators_of(model: onnx.ModelProto) -> set[str]:
    """Return the operators that have a rule, those in bodies and functions among them."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        nodes += [inner for attribute in node.attribute for inner in attribute.g.node]
    return {node.op_type for node in nodes if (entry := find(node.op_type)) is not None and entry.rule is not None}


@pytest.mark.parametrize("name", ["if True", "if False", "scan", "loop of 3 steps", "loop that grows", "nested"])
def test_gradient_has_a_gradient(name: str):
    text, feeds = CASES[name]
    feeds = {k: np.asarray(v) for k, v in feeds.items()}
    product = with_free_names(vjp(model_of(text), inline=True))
    outputs = {o.name for o in product.graph.output}
    values = Session(model_of(text))(feeds)
    seeds = {f"d_{k}": normal(*y.shape) for k, y in values.items() if y.dtype.kind == "f" and f"d_{k}" not in outputs}
    assert check_gradient(product, {**feeds, **seeds}, n_cotangents=1).n_proved > 0


@pytest.mark.parametrize(("name", "wrt", "n_outputs"), [
    ("scan", "s", [2, 1]), ("scan", "x", [2, 2]), ("scan", "w", [2, 2]), ("loop of 3 steps", "w", [2, 2]),
    ("loop of 3 steps", "z", [2, 2]), ("if True", "v", [1]), ("scan that adds up", "w", [2]),
    ("scan that adds up", "s", [1]),
])  # fmt: skip
@pytest.mark.parametrize("inline", [False, True])
def test_gradient_computes_what_is_asked_for_alone(name: str, wrt: str, n_outputs: list[int], inline: bool):
    text, feeds = CASES[name]
    feeds = {k: np.asarray(v) for k, v in feeds.items()}
    product = vjp(model_of(text), wrt, inline=inline)
    added = product.graph.node[len(model_of(text).graph.node) :]
    nodes = added if inline else [node for function in product.functions for node in function.node]
    assert [len(node.output) for node in nodes if node.op_type in {"If", "Loop", "Scan"}] == n_outputs
    assert check_gradient(model_of(text), feeds, [Session(product)]).n_proved > 0


def test_loop_of_no_steps_hands_the_gradient_on():
    """onnxruntime alone runs it: the shapes of stacks without steps are its own."""
    text, feeds = CASES["loop of 3 steps"]
    dy = normal(2)
    got = Session(vjp(model_of(text)))({**feeds, "m": np.array(0), "y_grad": dy, "ys_grad": np.zeros((0, 2))})
    np.testing.assert_array_equal(got["x_grad"], dy)
    for name in ("z", "u", "w"):
        assert got[f"{name}_grad"].shape == feeds[name].shape
        assert not got[f"{name}_grad"].any()


@pytest.mark.parametrize(
    "name", [name for name in node_tests() if "linear_attention" in name and "expanded" not in name]
)
def test_gradient_of_linear_attention_is_that_of_its_definition(name: str):
    """Neither onnxruntime nor, in float64, the reference computes it; ONNX writes each case out, and that is proved."""
    case = node_tests()[name]
    written_out = node_tests()[f"{name}_expanded"]
    product = Session(vjp(written_out.model))
    outputs = {o.name: o for o in written_out.model.graph.output}
    seeds = {f"{k}_grad": normal(*(d.dim_value for d in o.type.tensor_type.shape.dim)) for k, o in outputs.items()}
    wanted = product({**written_out.feeds, **seeds})
    got = Session(gradients_alone(vjp(case.model)))({**case.feeds, **seeds})
    for key, value in got.items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-4, atol=1e-5, err_msg=key)


def gradients_alone(product: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the forward node, whose outputs its gradient does not read."""
    del product.graph.node[0]
    calls = {name for node in product.graph.node for name in node.input}
    grads = [o for o in product.graph.output if o.name.endswith("_grad")]
    lost = [o for o in product.graph.output if not o.name.endswith("_grad")]
    for info in lost:
        if info.name in calls:
            product.graph.initializer.append(helper.make_tensor(info.name, info.type.tensor_type.elem_type, [0], []))
    del product.graph.output[:]
    product.graph.output.extend(grads)
    return product


REFUSED = {
    WITH_SEQUENCE: (
        "Loop: a state that the gradient reads must be a tensor that keeps its shape, got a sequence. Give the loop a "
        "constant number of steps, at most 64."
    ),
    GROWING.replace("m = Constant <value = int64 {3}> ()", "m = Size (w)"): (
        "Loop: a state that the gradient reads must be a tensor that keeps its shape, got float32[2] that becomes "
        "float32[3]. Give the loop a constant number of steps, at most 64."
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refusal_says_why(text: str):
    with pytest.raises(GradientError) as error:
        vjp(model_of(text))
    assert str(error.value) == REFUSED[text]


TRAINED = """
f (float[batch, T, 3] x, bool c) => (float[batch, 4] y)
<float[3, 4] w, float[4, 4] r, float[4] b, float[1, 4] h0>
{
   zero = Constant <value = int64[1] {0}> ()  four = Constant <value = int64[1] {4}> ()
   rows = Shape <start = 0, end = 1> (x)  sizes = Concat <axis = 0> (rows, four)
   h = Expand (h0, sizes)
   last = Scan (h, x) <num_scan_inputs = 1, scan_input_axes = [1],
      body = step (float[batch, 4] a, float[batch, 3] row) => (float[batch, 4] next) {
         xw = MatMul (row, w)  ar = MatMul (a, r)  s = Add (xw, ar)  t = Add (s, b)  next = Tanh (t) }>
   y = If (c) <then_branch = this () => (float[batch, 4] p) { p = Mul (last, b) },
               else_branch = other () => (float[batch, 4] p) { p = Identity (last) }>
}
"""


def trained() -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {TRAINED}')
    rng = np.random.default_rng(0)
    del model.graph.initializer[:]
    for name, shape in {"w": (3, 4), "r": (4, 4), "b": (4,), "h0": (1, 4)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("is_then", [True, False])
def test_a_loaded_model_with_control_flow_is_trained(is_then: bool):
    rng = np.random.default_rng(1)
    x, target = rng.standard_normal((5, 6, 3)).astype("f"), rng.standard_normal((5, 4)).astype("f")
    c = np.array(is_then)
    model = rm.load(trained())
    loss = rm.graph.MeanSquared()(model(x, c), target)
    loss.backward()
    dy = (Session(trained())({"x": x, "c": c})["y"] - target) / len(x)  # the loss is half the squares, by the row
    wanted = Session(vjp(trained()))({"x": x, "c": c, "y_grad": dy})
    for name, parameter in model.params.items():
        np.testing.assert_allclose(
            loss.get_gradient(parameter).as_ndarray(), wanted[f"{name}_grad"], rtol=1e-4, atol=1e-6, err_msg=name
        )
    file = to_training_onnx(loss, rm.graph.Sgd(0.1))
    assert lint(file) == []
    session = TrainingSession(file, "cpu", threads=1)
    (label, _) = (i.name for i in file.training_info[0].algorithm.input)
    feeds = {"x": x, "c": c, label: target}
    for _ in range(3):
        assert float(session.step(feeds)) == pytest.approx(float(loss.as_ndarray()), rel=1e-5)
        loss.update(rm.graph.Sgd(0.1))


def test_what_has_no_gradient_may_lie_before_what_is_trained():
    ((text, message),) = [(text, m) for text, m in REFUSED.items() if text.lstrip().startswith("f (float[2] x")]
    x, w = normal(1).repeat(2), normal(1)
    y, _ = rm.load(model_of(text))(rm.graph.StaticVariable(x), rm.graph.StaticVariable(w))
    dense = rm.graph.Dense(1)
    loss = rm.graph.ConstantLoss()(dense(rm.graph.reshape(y, [1, 3])))
    loss.backward()
    np.testing.assert_allclose(loss.get_gradient(dense.params["w"]).as_ndarray(), y.as_ndarray()[:, None], rtol=1e-6)
    element = next(node for node in ancestors([y.output]) if np.array_equal(getattr(node, "array", None), x))
    with pytest.raises(GradientError) as error:
        loss.get_gradient(element.output)
    assert str(error.value) == message
