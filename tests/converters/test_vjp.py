"""`vjp`: its interface, and its numbers against central differences of the model in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from renom_onnx import ConversionError, GradientError, RenomError
from renom_onnx.converters import vjp
from tests.converters.test_training_file import stock_session
from tests.gradients.cases import node_tests

Array = np.ndarray[Any, Any]


def model_of(text: str, opset: int = 18, ir_version: int = 10) -> onnx.ModelProto:
    """Parse ``f (float[N] x) => (float[N] y) { y = Exp(x) }``; floats are double, so that differences are exact."""
    domains = ', "my": 1' if "my." in text else ""
    return onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}{domains}]> {text}')


def names(values: Sequence[Any]) -> list[str]:
    return [value.name for value in values]


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    outputs = names(model.graph.output)
    return dict(zip(outputs, onnx.reference.ReferenceEvaluator(model).run(outputs, dict(feeds)), strict=True))


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    onnx.checker.check_model(model, full_check=True)
    outputs = names(model.graph.output)
    return dict(zip(outputs, stock_session(model).run(outputs, dict(feeds)), strict=True))


def float_inputs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[str]:
    return [name for name in names(model.graph.input) if np.asarray(feeds[name]).dtype.kind == "f"]


def assert_derivative(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """The products of ``vjp`` are the central differences of the model along random directions."""
    targets = float_inputs(model, feeds)
    product = vjp(model, targets)
    rng = np.random.default_rng(0)
    added = [i.name for i in product.graph.input][len(model.graph.input) :]
    values = reference(model, feeds)
    floats = [name for name in names(model.graph.output) if values[name].dtype.kind == "f"]
    seeds = {s: np.asarray(rng.standard_normal(values[y].shape)) for s, y in zip(added, floats, strict=True)}
    got = run(product, {**feeds, **seeds})
    for y, value in values.items():
        np.testing.assert_allclose(got[y], value, rtol=1e-6)

    gradients = names(product.graph.output)[len(model.graph.output) :]
    for target, gradient in zip(targets, gradients, strict=True):
        assert got[gradient].shape == feeds[target].shape
        direction = np.asarray(rng.standard_normal(feeds[target].shape))
        h = 1e-6
        ends = [reference(model, {**feeds, target: feeds[target] + s * h * direction}) for s in (1, -1)]
        wanted = sum(
            (dy * (ends[0][y] - ends[1][y]) / (2 * h)).sum() for y, dy in zip(floats, seeds.values(), strict=True)
        )
        assert (got[gradient] * direction).sum() == pytest.approx(wanted, rel=1e-6, abs=1e-8), target


def doubles(**shapes: Sequence[int]) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {name: np.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}


FUNCTION = """<domain: "my", opset_import: ["": 18]>
scaled <k> (a) => (b) { c = Constant<value_float: float=@k>() d = CastLike(c, a) e = Mul(a, d) b = Mul(a, e) }"""
NESTED = """<domain: "my", opset_import: ["": 18]> inner (a, s) => (b) { c = Mul(a, s) b = Tanh(c) }
<domain: "my", opset_import: ["": 18, "my": 1]>
outer (a, s) => (b) { c = my.inner(a, s) d = my.inner(c, c) b = Exp(d) }"""

MODELS = {
    "one operator": ("f (double[N,3] x) => (double[N,3] y) { y = Exp(x) }", {"x": (2, 3)}),
    "fan-out": ("f (double[N,3] x) => (double[N,3] y) { a = Exp(x) b = Mul(a, x) y = Add(a, b) }", {"x": (2, 3)}),
    "the same operand twice": ("f (double[N] x) => (double[N] y) { y = Mul(x, x) }", {"x": (4,)}),
    "broadcast row": ("f (double[N,3] x, double[3] w) => (double[N,3] y) { y = Mul(x, w) }", {"x": (2, 3), "w": (3,)}),
    "two symbols, equal sizes": (
        "f (double[N,3] x, double[M,3] z) => (double[K,3] y) { y = Mul(x, z) }", {"x": (2, 3), "z": (2, 3)},
    ),
    "two symbols, one of size 1": (
        "f (double[N,3] x, double[M,3] z) => (double[K,3] y) { y = Mul(x, z) }", {"x": (1, 3), "z": (4, 3)},
    ),
    "two symbols and a lower rank": (
        "f (double[A,B] x, double[C] z) => (double[D,E] y) { y = Div(x, z) }", {"x": (2, 1), "z": (3,)},
    ),
    "a rank that only the run knows": (
        "f (double[N] x, int64[R] s) => (double[N] y) "
        "{ a = Reshape(x, s) b = Mul(a, a) m = Constant<value_ints=[-1]>() y = Reshape(b, m) }",
        {"x": (6,), "s": np.array([2, 3])},
    ),
    "several outputs": (
        "f (double[N,3] x) => (double[N,3] y, double[N] z, int64[2] s) "
        "{ y = Exp(x) a = Constant<value_ints=[1]>() z = ReduceSum<keepdims=0>(y, a) s = Shape(x) }",
        {"x": (2, 3)},
    ),
    "an output that another reads": (
        "f (double[N] x) => (double[N] y, double[N] z) { y = Exp(x) z = Sin(y) }", {"x": (3,)},
    ),
    "an unused output of a node": (
        "f (double[N,4] x) => (double[N,2] y) { s = Constant<value_ints=[2,2]>() y, z = Split<axis=1>(x, s) }",
        {"x": (2, 4)},
    ),
    "a skipped output of a node": (
        "f (double[N,4] x) => (double[N,2] y) { s = Constant<value_ints=[2,2]>() , y = Split<axis=1>(x, s) }",
        {"x": (2, 4)},
    ),
    "an input that nothing reads": (
        "f (double[N] x, double[N,2] u) => (double[N] y) { y = Exp(x) }", {"x": (3,), "u": (3, 2)},
    ),
    "an input that is an output": ("f (double[N] x) => (double[N] x) { }", {"x": (3,)}),
    "a gradient that goes to two inputs": (
        "f (double[N] x, double[N] z) => (double[N] y) { y = Add(x, z) }", {"x": (3,), "z": (3,)},
    ),
    "an absent optional operand": (
        "f (double[N,3] x, double[3,2] w) => (double[N,2] y) { y = Gemm(x, w) }", {"x": (2, 3), "w": (3, 2)},
    ),
    "an operand left out in the middle": (
        "f (double[N] x, double h) => (double[N] y) { y = Clip(x, , h) }", {"x": (5,), "h": ()},
    ),
    "a piecewise constant path beside the real one": (
        "f (double[N] x) => (double[N] y) { a = Floor(x) y = Mul(a, x) }", {"x": (5,)},
    ),
    "a function": ("f (double[N] x) => (double[N] y) { y = my.scaled<k=2.5>(x) }\n" + FUNCTION, {"x": (3,)}),
    "a function called with two attributes": (
        "f (double[N] x) => (double[N] y) { a = my.scaled<k=2.5>(x) y = my.scaled<k=0.5>(a) }\n" + FUNCTION,
        {"x": (3,)},
    ),
    "a function that calls a function": (
        "f (double[N] x, double[N] s) => (double[N] y) { y = my.outer(x, s) }\n" + NESTED, {"x": (3,), "s": (3,)},
    ),
    "a condition beside the path": (
        "f (double[N] x, bool c) => (double[N] y) { k = If (c) <then_branch = t () => (double o) "
        "{ o = Constant<value = double {2.0}>() }, "
        "else_branch = e () => (double p) { p = Constant<value = double {3.0}>() }> y = Mul(x, k) }",
        {"x": (3,), "c": np.array(True)},
    ),
}  # fmt: skip


def case(name: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    text, shapes = MODELS[name]
    drawn = doubles(**{n: s for n, s in shapes.items() if isinstance(s, tuple)})
    return model_of(text), {n: drawn.get(n, s) for n, s in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_product_is_the_central_difference(name: str):
    model, feeds = case(name)
    onnx.checker.check_model(model, full_check=True)
    assert_derivative(model, feeds)


TWICE = [
    name
    for name in MODELS
    if name not in ("an input that is an output", "a condition beside the path", "an input that nothing reads")
]


@pytest.mark.parametrize("name", TWICE)
def test_the_product_of_the_product_is_its_central_difference(name: str):
    model, feeds = case(name)
    once = vjp(model)
    rng = np.random.default_rng(2)
    values = reference(model, feeds)
    seeds = names(once.graph.input)[len(model.graph.input) :]
    floats = [y for y in names(model.graph.output) if values[y].dtype.kind == "f"]
    feeds = {
        **feeds,
        **{s: np.asarray(rng.standard_normal(values[y].shape)) for s, y in zip(seeds, floats, strict=True)},
    }
    # The reference evaluator computes with the last of several bodies of one name: it gets the model written out.
    inlined = vjp(model, inline=True)
    assert_same_product(once, inlined, feeds)
    assert_derivative(inlined, feeds)


def assert_same_product(model: onnx.ModelProto, inlined: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """A model and the same without functions have the same product."""
    products = [vjp(m, float_inputs(model, feeds)) for m in (model, inlined)]
    assert names(products[0].graph.input) == names(products[1].graph.input)
    assert names(products[0].graph.output) == names(products[1].graph.output)
    rng = np.random.default_rng(3)
    values = run(model, feeds)
    added = names(products[0].graph.input)[len(model.graph.input) :]
    floats = [y for y in names(model.graph.output) if values[y].dtype.kind == "f"]
    seeds = {s: np.asarray(rng.standard_normal(values[y].shape)) for s, y in zip(added, floats, strict=True)}
    results = [run(product, {**feeds, **seeds}) for product in products]
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_the_product_of_the_product_of_the_product_is_the_third_derivative():
    model = model_of("f (double[N] x) => (double[N] y) { a = Mul(x, x) y = Mul(a, a) }")
    x, one = np.array([0.5, 2.0]), np.ones(2)
    first = vjp(model, "x")
    second = vjp(only(first, "x_grad"), "x")
    third = vjp(only(second, "x_grad_2"), "x")
    feeds = {"x": x, **dict.fromkeys(names(third.graph.input)[1:], one)}
    np.testing.assert_allclose(run(third, feeds)[names(third.graph.output)[-1]], 24 * x)


def only(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Return the model with one output."""
    kept = [o for o in model.graph.output if o.name == output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


# The interface


INTERFACE = {
    "inputs, then gradients of float outputs": (
        "f (float[N] x, int64[N] i) => (float[N] y, int64[1] s) { y = GatherElements(x, i) s = Shape(y) }", None,
        ["x", "i", "y_grad"], ["y", "s", "x_grad"],
    ),
    "wrt orders the gradients": (
        "f (float[N] a, float[N] b) => (float[N] y) { y = Mul(a, b) }", ["b", "a"],
        ["a", "b", "y_grad"], ["y", "b_grad", "a_grad"],
    ),
    "wrt is one name": (
        "f (float[N] a, float[N] b) => (float[N] y) { y = Mul(a, b) }", "b", ["a", "b", "y_grad"], ["y", "b_grad"],
    ),
    "initializers that hold floats are differentiated": (
        "f (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}, int64[1] k = {3}> { y = Mul(x, w) }", None,
        ["x", "y_grad"], ["y", "x_grad", "w_grad"],
    ),
    "no float output": ("f (float[N] x) => (int64[1] y) { y = Shape(x) }", None, ["x"], ["y", "x_grad"]),
    "no float input": ("f (int64[N] x) => (int64[N] y) { y = Neg(x) }", None, ["x"], ["y"]),
    "a taken name gets a number": (
        "f (float[N] x, float[N] y_grad) => (float[N] y) { x_grad = Exp(x) y = Add(x_grad, y_grad) }", None,
        ["x", "y_grad", "y_grad_2"], ["y", "x_grad_2", "y_grad_grad"],
    ),
    "an input that is an output": ("f (float[N] x) => (float[N] x) { }", None, ["x", "x_grad"], ["x", "x_grad_2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", INTERFACE)
def test_the_interface_is_the_models_and_the_gradients(name: str):
    text, wrt, inputs, outputs = INTERFACE[name]
    product = vjp(model_of(text), wrt)
    onnx.checker.check_model(product, full_check=True)
    assert (names(product.graph.input), names(product.graph.output)) == (inputs, outputs)
    stock_session(product)


def test_an_initializer_that_is_an_input_too_is_differentiated_once():
    model = model_of("f (double[N,2] x, double[2] w) => (double[N,2] y) { y = Mul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1.0, 2.0]), "w"))
    product = vjp(model)
    assert names(product.graph.output) == ["y", "x_grad", "w_grad"]
    x, dy = np.ones((3, 2)), np.full((3, 2), 2.0)
    got = run(product, {"x": x, "y_grad": dy})
    np.testing.assert_array_equal(got["x_grad"], dy * [1.0, 2.0])
    np.testing.assert_array_equal(got["w_grad"], [6.0, 6.0])


def test_an_input_that_no_output_depends_on_has_zeros_of_its_shape_and_type():
    product = vjp(model_of("f (double[N] x, float16[N,M] u) => (double[N] y) { y = Exp(x) }"))
    got = run(product, {"x": np.ones(2), "u": np.ones((2, 3), np.float16), "y_grad": np.ones(2)})
    np.testing.assert_array_equal(got["u_grad"], np.zeros((2, 3), np.float16), strict=True)


def test_a_path_through_indices_has_zeros():
    product = vjp(model_of("f (float[N,3] x) => (float[N] y) { i = ArgMax<axis=1, keepdims=0>(x) y = Cast<to=1>(i) }"))
    got = run(product, {"x": np.ones((2, 3), np.float32), "y_grad": np.ones(2, np.float32)})
    np.testing.assert_array_equal(got["x_grad"], np.zeros((2, 3), np.float32), strict=True)


def test_the_models_nodes_and_metadata_are_kept_and_training_info_is_not():
    model = model_of("f (float[N] x) => (float[N] y) { [first] y = Exp(x) }")
    model.metadata_props.add(key="who", value="me")
    model.training_info.add()
    product = vjp(model)
    assert product.graph.node[0] == model.graph.node[0]
    assert product.metadata_props == model.metadata_props
    assert not product.training_info
    assert [node.name for node in product.graph.node] == ["first", "first.grad"]
    assert model.training_info, "the model given must not be changed"


@pytest.mark.parametrize("form", ["ModelProto", "bytes", "path", "Path"])
def test_a_model_is_taken_in_every_form(form: str, tmp_path: Path):
    model = model_of("f (float[N] x) => (float[N] y) { y = Exp(x) }")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    source = {"ModelProto": model, "bytes": model.SerializeToString(), "path": str(path), "Path": path}[form]
    assert vjp(source) == vjp(model)


# Opsets


def default_opset(model: onnx.ModelProto) -> int:
    return {o.domain: o.version for o in model.opset_import}[""]


def test_an_opset_below_18_is_upgraded_to_18():
    model = model_of("f (double[N,3] x) => (double[N] y) { y = ReduceSum<axes=[1], keepdims=0>(x) }", 11, 6)
    product = vjp(model)
    assert default_opset(product) == 18
    got = run(product, {"x": np.ones((2, 3)), "y_grad": np.array([1.0, 2.0])})
    np.testing.assert_array_equal(got["x_grad"], [[1, 1, 1], [2, 2, 2]])


def test_functions_of_an_opset_below_18_are_upgraded_with_their_model():
    body = '<domain: "my", opset_import: ["": 13]> mean (a) => (b) { b = ReduceMean<axes=[1], keepdims=0>(a) }'
    product = vjp(model_of(f"f (double[N,2] x) => (double[N] y) {{ y = my.mean(x) }}\n{body}", 13, 8))
    got = run(product, {"x": np.ones((2, 2)), "y_grad": np.array([1.0, 2.0])})
    np.testing.assert_array_equal(got["x_grad"], [[0.5, 0.5], [1, 1]])


def test_a_newer_opset_is_kept():
    newest = onnx.defs.onnx_opset_version()
    product = vjp(model_of("f (double[N] x) => (double[N] y) { y = Gelu(x) }", newest))
    assert default_opset(product) == newest
    assert {o.version for f in product.functions for o in f.opset_import if o.domain == ""} == {newest}


# Errors


BRANCH = """f (float[N] x, bool c) => (float[N] y) { a = Exp(x) y = If (c) <
then_branch = t () => (float[N] o) { s = Optional(a) [pick] o = OptionalGetElement(s) },
else_branch = e () => (float[N] p) { p = Identity(a) }> }"""
OPTIONAL = "(it handles optional values, through which no gradient passes yet)"
PATH = "but an output depends on x through it."
ADVICE = "Freeze what lies before it, or register a rule with renom_onnx.gradients.gradient."

ERRORS: dict[str, tuple[str, Any, type[RenomError], str]] = {
    "an optional value in a branch": (
        BRANCH, None, GradientError,
        f"OptionalGetElement: there is no gradient rule {OPTIONAL}, but the loss depends on a through it. {ADVICE} "
        "It is node 'pick' of the model.",
    ),
    "an operator that nobody knows": (
        "f (float[N] x) => (float[N] y) { y = my.Own(x) }", None, GradientError,
        f"my.Own: there is no gradient rule, {PATH} {ADVICE} It is node 'y' of the model.",
    ),
    "a value of unknown type beside the path": (
        "f (float[N] x, float[N] c) => (float[N] y) { a = my.Own(c) m = Mul(x, a) y = Exp(m) }", "x", ConversionError,
        "vjp: the element type of every value must be known, got 'a' without one. Give it a value_info. "
        "It is node 'm' of the model.",
    ),
    "an optional value on the path": (
        "f (float[N] x) => (float[N] y) { s = Optional(x) [pick] m = OptionalGetElement(s) y = Exp(m) }",
        None, GradientError,
        f"OptionalGetElement: there is no gradient rule {OPTIONAL}, {PATH} {ADVICE} It is node 'pick' of the model.",
    ),
    "an attribute that the operator does not have": (
        "f (float[N] x) => (float[N] y) { [first] y = Exp<axes=[1]>(x) }", None, ConversionError,
        "load: an attribute of Exp must be one of none, got axes of node 'first'.",
    ),
    "wrt names nothing": (
        "f (float[N] x, int64 n) => (float[N] y) { y = Exp(x) }", ["nobody"], ConversionError,
        "vjp: wrt must name inputs or initializers that hold floats, got 'nobody'. There are: x.",
    ),
    "wrt names integers": (
        "f (int64[N] x) => (int64[N] y) { y = Neg(x) }", "x", ConversionError,
        "vjp: wrt must name inputs or initializers that hold floats, got 'x'. There are: none.",
    ),
    "an output that nobody writes": (
        "f (float[N] x) => (float[N] z) { y = Exp(x) }", None, ConversionError,
        "load: every output must be written by a node, got z, which none writes.",
    ),
    "an input that nobody writes": (
        "f (float[N] x) => (float[N] y) { [first] y = Exp(z) }", None, ConversionError,
        "load: every input must be written before it is read, got z read by node first.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_was_got_and_what_to_do(name: str):
    text, wrt, kind, message = ERRORS[name]
    with pytest.raises(kind) as error:
        vjp(model_of(text), wrt)
    assert str(error.value) == message


def test_an_opset_that_cannot_be_upgraded_is_an_error():
    with pytest.raises(ConversionError) as error:
        vjp(model_of("f (float[N] x) => (float[N] y) { y = Own(x) }", 11))
    assert str(error.value) == (
        "convert_opset: every operator must exist at opset 11 and at 18, got Own in node 'y', which does not at 11."
    )


def test_a_scan_over_batches_is_not_taken_for_the_scan_of_today():
    model = node_tests()["test_scan_sum"].model
    with pytest.raises(ConversionError) as error:
        vjp(model)
    assert str(error.value) == (
        "convert_opset: every operator must have a form at opset 18, got Scan in node 'y', which has none."
    )
