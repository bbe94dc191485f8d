"""Gradient of the specification on stock onnxruntime, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import renom_onnx as rm
from renom_onnx.converters import add_prefix, convert_opset, inline, lint, lower, merge, strip, vjp
from tests.converters.spec.conformance import MODEL_TESTS, run_test
from tests.converters.test_training_file import stock_session

DOMAIN = "ai.onnx.preview.training"
Tensors = dict[str, torch.Tensor]
GRADIENT = f"{DOMAIN}.Gradient"


def spec_model(text: str, opset: int = 18, functions: str = "", own: bool = False) -> onnx.ModelProto:
    """Return a model from ONNX's text, in which ``Gradient`` stands for the operator with its domain."""
    imports = f'"": {opset}, "{DOMAIN}": 1{f", {chr(34)}own{chr(34)}: 1" if own else ""}'
    return onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{imports}]> {text.replace('Gradient', GRADIENT)} "
        f"{functions.replace('Gradient', GRADIENT)}"
    )


def grad(y: torch.Tensor, *xs: torch.Tensor, again: bool = False) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y.sum(), xs, create_graph=again, allow_unused=True)


# The text of a model, and the same in PyTorch: from the inputs to the outputs

CASES: dict[str, tuple[str, Callable[..., tuple[torch.Tensor, ...]]]] = {
    "one value": (
        """f (float[3] x) => (float[3] dx) {
        y = Exp (x)
        dx = Gradient <xs = ["x"], y = "y"> (x) }""",
        lambda x: grad(x.exp(), x)),
    "two values": (
        """f (float[3] a, float[3] b) => (float[3] da, float[3] db) {
        p = Mul (a, b) s = Sin (p) y = Add (s, a)
        da, db = Gradient <xs = ["a", "b"], y = "y"> (a, b) }""",
        lambda a, b: grad((a * b).sin() + a, a, b)),
    "a broadcast": (
        """f (float[2, 3] a, float[3] b) => (float[2, 3] da, float[3] db) {
        p = Mul (a, b) y = Tanh (p)
        da, db = Gradient <xs = ["a", "b"], y = "y"> (a, b) }""",
        lambda a, b: grad((a * b).tanh(), a, b)),
    "a value of zs": (
        """f (float[3] a, float[3] b) => (float[3] da) {
        p = Mul (a, b) y = Mul (p, p)
        da = Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, b) }""",
        lambda a, b: grad((a * b) ** 2, a)),
    "a skipped output": (
        """f (float[3] a, float[3] b) => (float[3] db) {
        y = Div (a, b)
        , db = Gradient <xs = ["a", "b"], y = "y"> (a, b) }""",
        lambda a, b: grad(a / b, b)),
    "a value in between": (
        """f (float[3] a, float[3] b) => (float[3] dh, float[3] db) {
        h = Exp (a) p = Mul (h, b) y = Sin (p)
        dh, db = Gradient <xs = ["h", "b"], y = "y"> (h, b) }""",
        lambda a, b: grad((h := a.exp().detach().requires_grad_()).mul(b).sin(), h, b)),
    "a value of zs in between, held fast": (
        """f (float[3] a) => (float[3] da) {
        h = Exp (a) y = Mul (h, a)
        da = Gradient <xs = ["a"], zs = ["h"], y = "y"> (a, h) }""",
        lambda a: (a.exp(),)),
    "a value of zs in between that leads nowhere": (
        """f (float[3] a, float[3] b) => (float[3] da) {
        h = Exp (b) y = Mul (h, a)
        da = Gradient <xs = ["a"], zs = ["h"], y = "y"> (a, h) }""",
        lambda a, b: (b.exp(),)),
    "another value": (
        """f (float[3] a, float[3] c) => (float[3] da) {
        s = Sin (a) y = Mul (s, a)
        da = Gradient <xs = ["a"], y = "y"> (c) }""",
        lambda a, c: grad(c.sin() * c, c)),
    "another value in between": (
        """f (float[3] a, float[3] b, float[3] c) => (float[3] dh, float[3] db, float[3] y) {
        h = Exp (a) p = Mul (h, b) s = Sin (p) y = Add (s, b)
        dh, db = Gradient <xs = ["h", "b"], y = "y"> (c, b) }""",
        lambda a, b, c: (*grad((c * b).sin() + b, c, b), (a.exp() * b).sin() + b)),
    "one value for two": (
        """f (float[3] a, float[3] b, float[3] c) => (float[3] da, float[3] db) {
        p = Mul (a, b) y = Sin (p)
        da, db = Gradient <xs = ["a", "b"], y = "y"> (c, c) }""",
        lambda a, b, c: grad(((p := c.detach().requires_grad_()) * (q := c.detach().requires_grad_())).sin(), p, q)),
    "values that changed places": (
        """f (float[3] a, float[3] b) => (float[3] da, float[3] db) {
        y = Div (a, b)
        da, db = Gradient <xs = ["a", "b"], y = "y"> (b, a) }""",
        lambda a, b: grad(b / a, b, a)),
    "another value of zs that depends on x": (
        """f (float[3] a, float[3] b) => (float[3] da) {
        y = Mul (a, b) e = Exp (a)
        da = Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, e) }""",
        lambda a, b: (a.exp(),)),
    "another value of another size": (
        """f (float[3] a, float[5] c) => (float[5] da) {
        s = Sin (a) y = ReduceSum <keepdims = 0> (s)
        da = Gradient <xs = ["a"], y = "y"> (c) }""",
        lambda a, c: grad(c.sin(), c)),
    "a Gradient that stands before y": (
        """f (float[3] x) => (float[3] dx) {
        dx = Gradient <xs = ["x"], y = "y"> (x)
        h = Exp (x) y = Sin (h) }""",
        lambda x: grad(x.exp().sin(), x)),
    "y itself": (
        """f (float[3] x) => (float[3] y, float[3] dx, float[3] dy) {
        y = Exp (x)
        dx, dy = Gradient <xs = ["x", "y"], y = "y"> (x, y) }""",
        lambda x: (x.exp(), torch.zeros(3), torch.ones(3))),
    "a y that does not depend on x": (
        """f (float[3] x, float[3] z) => (float[3] dx) {
        y = Exp (z)
        dx = Gradient <xs = ["x"], y = "y"> (x) }""",
        lambda x, z: (torch.zeros(3),)),
    "one gradient for two": (
        """f (float[3] a, float[3] b) => (float[3] da, float[3] db) {
        y = Add (a, b)
        da, db = Gradient <xs = ["a", "b"], y = "y"> (a, b) }""",
        lambda a, b: grad(a + b, a, b)),
    "two Gradients": (
        """f (float[3] a, float[3] b) => (float[3] da, float[3] db) {
        p = Mul (a, b) y = Tanh (p) z = Exp (p)
        da = Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, b)
        db = Gradient <xs = ["b"], zs = ["a"], y = "z"> (b, a) }""",
        lambda a, b: (*grad((a * b).tanh(), a), *grad((a * b).exp(), b))),
    "a gradient of a gradient": (
        """f (float[3] x) => (float[3] dx, float[3] ddx) {
        p = Mul (x, x) y = Mul (p, x)
        dx = Gradient <xs = ["x"], y = "y"> (x)
        ddx = Gradient <xs = ["x"], y = "dx"> (x) }""",
        lambda x: ((d := grad(x**3, x, again=True)[0]), *grad(d, x))),
    "a third derivative": (
        """f (float[3] x) => (float[3] dddx) {
        y = Sin (x)
        dddx = Gradient <xs = ["x"], y = "ddx"> (x)
        ddx = Gradient <xs = ["x"], y = "dx"> (x)
        dx = Gradient <xs = ["x"], y = "y"> (x) }""",
        lambda x: (-x.cos(),)),
    "mixed second derivatives": (
        """f (float[2, 3] x, float[3, 1] w, float[2, 1] t) => (float[2, 3] dwdx, float[3, 1] ddw) {
        p = MatMul (x, w) e = Sub (p, t) q = Mul (e, e) o = ReduceSum <keepdims = 0> (q)
        dx, dw = Gradient <xs = ["x", "w"], zs = ["t"], y = "o"> (x, w, t)
        dwdx, ddw = Gradient <xs = ["x", "w"], zs = ["t"], y = "dw"> (x, w, t) }""",
        lambda x, w, t: grad(grad(((x @ w) - t) ** 2, w, again=True)[0], x, w)),
    "a gradient of a step": (
        """f (float[3] x, float[3] t) => (float[3] dx) {
        a = Mul (x, x) y = Mul (a, x)
        g = Gradient <xs = ["x"], y = "y"> (x)
        n = Sub (x, g) e = Sub (n, t) o = Mul (e, e)
        dx = Gradient <xs = ["x"], zs = ["t"], y = "o"> (x, t) }""",
        lambda x, t: grad((x - grad(x**3, x, again=True)[0] - t) ** 2, x)),
    "a node of which one output is x": (
        """f (float[4] a) => (float[2] dp) {
        p, q = Split <num_outputs = 2> (a) h = Mul (p, p) y = Mul (h, q)
        dp = Gradient <xs = ["p"], zs = ["q"], y = "y"> (p, q) }""",
        lambda a: grad((p := a[:2].detach().requires_grad_()) ** 2 * a[2:], p)),
    "a node of which one output is x and the other is not named": (
        """f (float[4] a) => (float[2] dp) {
        p, q = Split <num_outputs = 2> (a) h = Mul (p, p) y = Mul (h, q)
        dp = Gradient <xs = ["p"], y = "y"> (p) }""",
        lambda a: grad((p := a[:2].detach().requires_grad_()) ** 2 * a[2:], p)),
    "an output that the graph skips": (
        """f (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] y, float[1, 1, 4, 4] dx) {
        y = MaxPool <kernel_shape = [2, 2]> (x)
        dx = Gradient <xs = ["x"], y = "y"> (x) }""",
        lambda x: ((y := torch.nn.functional.max_pool2d(x, 2, 1)), *grad(y, x))),
    "a branch": (
        """f (float[3] x, float[3] z) => (float[3] dx) {
        s = ReduceSum <keepdims = 0> (z) zero = Constant <value: tensor = float {0}> () c = Greater (s, zero)
        y = If (c) <then_branch = a () => (float[3] p) { p = Exp (x) },
                    else_branch = b () => (float[3] q) { n = Sin (x) q = Mul (n, x) }>
        dx = Gradient <xs = ["x"], zs = ["z"], y = "y"> (x, z) }""",
        lambda x, z: grad(x.exp() if z.sum() > 0 else x.sin() * x, x)),
    "a branch that x does not reach": (
        """f (float[3] x, float[3] z) => (float[3] dx) {
        s = ReduceSum <keepdims = 0> (z) zero = Constant <value: tensor = float {0}> () c = Greater (s, zero)
        h = If (c) <then_branch = a () => (float[3] p) { p = Exp (z) },
                    else_branch = b () => (float[3] q) { n = Sin (z) q = Mul (n, z) }>
        y = Mul (x, h)
        dx = Gradient <xs = ["x"], zs = ["z"], y = "y"> (x, z) }""",
        lambda x, z: (z.exp(),)),
    "a branch at another value": (
        """f (float[3] x, float[3] z, float[3] v) => (float[3] dx) {
        s = ReduceSum <keepdims = 0> (z) zero = Constant <value: tensor = float {0}> () c = Greater (s, zero)
        h = If (c) <then_branch = a () => (float[3] p) { p = Exp (z) },
                    else_branch = b () => (float[3] q) { n = Sin (z) q = Mul (n, z) }>
        y = Mul (x, h)
        dx = Gradient <xs = ["x"], zs = ["z"], y = "y"> (x, v) }""",
        lambda x, z, v: (v.exp(),)),
    "integers on the way": (
        """f (float[3, 2] table) => (float[3, 2] d) <int64[4] i = {2, 0, 2, 1}> {
        y = Gather (table, i) z = Mul (y, y)
        d = Gradient <xs = ["table"], zs = ["i"], y = "z"> (table, i) }""",
        lambda table: grad(table[torch.tensor([2, 0, 2, 1])] ** 2, table)),
    "names that a lowering would give": (
        """f (float[3] x) => (float[3] dx) {
        constant = Exp (x) Sum = Mul (constant, x) y = Add (Sum, constant)
        dx = Gradient <xs = ["x"], y = "y"> (x) }""",
        lambda x: grad(x.exp() * x + x.exp(), x)),
}  # fmt: skip


def check(model: onnx.ModelProto, function: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    lowered = lower(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert lint(model) == lint(lowered) == []
    assert all(node.domain != DOMAIN for node in lowered.graph.node)
    rng = np.random.default_rng(0)
    arrays = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        arrays[value.name] = (0.5 + rng.random(shape)).astype(np.float32)
    got = stock_session(lowered).run(None, arrays)
    wanted = function(*(torch.tensor(array, requires_grad=True) for array in arrays.values()))
    assert len(got) == len(wanted)
    for value, a, b in zip(model.graph.output, got, wanted, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=1e-6, err_msg=value.name)


@pytest.mark.parametrize("name", MODEL_TESTS)
def test_onnxs_own_tests_pass_on_stock_onnxruntime(name: str):
    run_test(name)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_what_pytorch_finds(name: str):
    text, function = CASES[name]
    check(spec_model(text), function)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", ["a broadcast", "another value in between", "a gradient of a gradient"])
def test_a_gradient_at_other_opsets(name: str, opset: int):
    text, function = CASES[name]
    model = spec_model(text, opset)
    assert {o.domain: o.version for o in lower(model).opset_import}[""] == max(opset, 18)
    check(model, function)


def test_a_gradient_in_a_function():
    text = "f (float[3] x, float[3] w) => (float[3] y, float[3] d) { y, d = own.g (x, w) }"
    functions = f"""<domain: "own", opset_import: ["": 18, "{DOMAIN}": 1]> g (X, W) => (Y, D) {{
        Y = Mul (X, W) S = Sin (Y) D = Gradient <xs = ["W"], zs = ["X"], y = "S"> (W, X) }}"""
    model = spec_model(text, functions=functions, own=True)
    check(model, lambda x, w: (x * w, *grad((x * w).sin(), w)))
    assert all(f.domain != "own" for f in lower(model).functions)


def test_a_graph_without_names_of_nodes_gets_names_for_the_new_ones():
    lowered = lower(spec_model(CASES["two values"][0]))
    names = [node.name for node in lowered.graph.node if node.name]
    assert len(set(names)) == len(names)
    assert any(name.endswith(".grad") for name in names)


def test_nodes_that_only_the_way_back_needs_are_not_computed_twice():
    lowered = lower(spec_model(CASES["two values"][0]))
    assert [node.op_type for node in lowered.graph.node].count("Sin") == 1


def test_a_model_without_training_operators_is_returned_as_it_is():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> f (float[3] x) => (float[3] y) { y = Exp (x) }'
    )
    assert lower(model) is model


def test_lowering_leaves_the_given_model_as_it_is():
    model = spec_model(CASES["an output that the graph skips"][0])
    before = model.SerializeToString()
    lower(model)
    assert model.SerializeToString() == before


def test_lowering_twice_is_lowering_once():
    lowered = lower(spec_model(CASES["a gradient of a gradient"][0]))
    assert lower(lowered) is lowered


def test_a_session_and_vjp_take_a_model_with_a_gradient():
    model = spec_model(CASES["one value"][0])
    x = np.array([0.1, 0.2, 0.3], np.float32)
    got = rm.runtime.InferenceSession(model, "cpu").run({"x": x})
    np.testing.assert_allclose(got["dx"], np.exp(x), rtol=1e-6)
    second = stock_session(vjp(model)).run(["x_grad"], {"x": x, "dx_grad": np.ones(3, np.float32)})[0]
    np.testing.assert_allclose(second, np.exp(x), rtol=1e-6)


def test_the_tools_keep_the_names_in_a_gradient():
    text, function = CASES["two values"]
    model = spec_model(text)
    check(convert_opset(model, 21), function)
    check(inline(model), function)
    check(strip(model), function)
    check(add_prefix(model, "net/"), function)
    head = spec_model("g (float[3] p) => (float[3] q) { q = Neg (p) }")
    check(merge(model, head, {"da": "p"}, prefix2="head/"), lambda a, b: ((g := function(a, b))[1], -g[0]))


# Errors

REFUSED = {
    "a name that nobody has": (
        'f (float[3] x) => (float[3] dx) { dx = Gradient <xs = ["x"], y = "nobody"> (x) }', rm.ConversionError,
        "lower: Gradient must name values in xs, zs and y, got 'nobody' in node 'dx', which is none."),
    "an input too few": (
        'f (float[3] x) => (float[3] dx) { y = Exp (x) dx = Gradient <xs = ["x"], zs = ["y"], y = "y"> (x) }',
        rm.ConversionError,
        "lower: Gradient must have a y, and an input for every name in xs and zs, got 1 inputs for 2 names in node "
        "'dx'."),
    "no y": (
        'f (float[3] x) => (float[3] dx) { dx = Gradient <xs = ["x"]> (x) }', rm.ConversionError,
        "lower: Gradient must have a y, and an input for every name in xs and zs, got 1 inputs for 1 names in node "
        "'dx'."),
    "a gradient with respect to integers": (
        'f (int64[3] x) => (int64[3] dx) { y = Cast <to = 1> (x) dx = Gradient <xs = ["x"], y = "y"> (x) }',
        rm.ConversionError,
        "lower: Gradient must be of floats with respect to floats, got 'x', which is int64[3], in node 'dx'."),
    "a gradient of integers": (
        'f (float[3] x) => (int64[3] dx) { y = Cast <to = 7> (x) dx = Gradient <xs = ["x"], y = "y"> (x) }',
        rm.ConversionError,
        "lower: Gradient must be of floats with respect to floats, got 'y', which is int64[3], in node 'dx'."),
    "a gradient in a branch": (
        """f (float[3] x, bool c) => (float[3] dx) { y = Exp (x)
        dx = If (c) <then_branch = a () => (float[3] p) { p = Gradient <xs = ["x"], y = "y"> (x) },
                     else_branch = b () => (float[3] q) { q = Neg (x) }> }""", rm.ConversionError,
        "lower: Gradient must stand in a graph or in an algorithm, got node 'p' in a body of control flow. Move it "
        "out."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_specification_forbids_is_an_error(name: str):
    text, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        lower(spec_model(text))
    assert str(error.value) == message


def test_an_operator_without_a_rule_is_an_error():
    text = """f (float[3, 3] x) => (float[3, 3] dx) { d = Det (x) y = Neg (d)
        dx = Gradient <xs = ["x"], y = "y"> (x) }"""
    model = spec_model(text.replace("Det (x)", "own.g (x)"), own=True)
    model.graph.value_info.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, []))
    with pytest.raises(rm.GradientError) as error:
        lower(model)
    assert str(error.value) == (
        "own.g: there is no gradient rule, but y depends on x through it. Freeze what lies before it, or register a "
        "rule with renom_onnx.gradients.gradient. It is node 'd' of the model."
    )


def test_a_value_of_unknown_type_is_an_error():
    text = """f (float[3] x) => (float[3] dx) { h = own.g (x) y = Neg (h)
        dx = Gradient <xs = ["h"], y = "y"> (h) }"""
    with pytest.raises(rm.ConversionError) as error:
        lower(spec_model(text, own=True))
    assert str(error.value) == (
        "lower: the element type of every value must be known, got 'h' without one, which Gradient needs in node 'dx'. "
        "Give it a value_info."
    )
