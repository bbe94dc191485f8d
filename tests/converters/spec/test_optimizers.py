"""Momentum, Adam and Adagrad of the specification on stock onnxruntime, against ONNX's tests and onnx.reference."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import renom_onnx as rm
from renom_onnx.converters import lint, lower
from tests.converters.spec.conformance import TRAINING_TESTS, run_test
from tests.converters.surgery.alike import parsed
from tests.converters.test_training_file import stock_session

DOMAIN = "ai.onnx.preview.training"
STATES = {"Adagrad": "H", "Adam": "VH", "Momentum": "V"}
# Numbers whose difference from 1 float32 holds too: the reference computes it in float32 for attributes that are given.
ATTRIBUTES: dict[str, list[dict[str, Any]]] = {
    "Adagrad": [{}, {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.01}],
    "Adam": [
        {},
        {"alpha": 0.75, "beta": 0.625, "epsilon": 1e-2, "norm_coefficient": 0.01, "norm_coefficient_post": 0.125},
    ],
    "Momentum": [
        {"alpha": 0.9, "beta": 1.0, "mode": "standard", "norm_coefficient": 0.0},
        {"alpha": 0.9, "beta": 0.3, "mode": "standard", "norm_coefficient": 0.01},
        {"alpha": 0.8, "beta": 0.5, "mode": "nesterov", "norm_coefficient": 0.01},
    ],
}
CASES = [(op_type, i) for op_type, attributes in ATTRIBUTES.items() for i in range(len(attributes))]


@pytest.mark.parametrize("name", [name for name in TRAINING_TESTS if "gradient" not in name])
def test_onnxs_own_tests_pass_on_stock_onnxruntime(name: str):
    run_test(name)


def one_node(
    op_type: str, attributes: dict[str, Any], n: int, element: int = TensorProto.FLOAT, rate_shape: tuple[int, ...] = ()
) -> onnx.ModelProto:
    """A model of one node that updates n tensors of different sizes."""
    letters = f"XG{STATES[op_type]}"
    shapes: list[tuple[int, ...]] = [(3,), (2, 2), ()][:n]
    names = [f"{letter}{i}" for letter in letters for i in range(n)]
    outputs = [f"{letter}{i}_new" for letter in letters.replace("G", "") for i in range(n)]
    node = helper.make_node(op_type, ["R", "T", *names], outputs, domain=DOMAIN, name="update", **attributes)
    inputs = [helper.make_tensor_value_info("R", TensorProto.FLOAT, rate_shape)]
    inputs.append(helper.make_tensor_value_info("T", TensorProto.INT64, rate_shape))
    inputs += [helper.make_tensor_value_info(name, element, shapes[int(name[1:])]) for name in names]
    results = [helper.make_tensor_value_info(name, element, shapes[int(name[1:-4])]) for name in outputs]
    graph = helper.make_graph([node], "update", inputs, results)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def random_feeds(model: onnx.ModelProto, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = rng.standard_normal(shape)
        if value.name == "T":
            array = np.full(shape, count)
        elif value.name == "R":
            array = np.full(shape, 0.1)
        elif value.name[0] == "H":
            array = np.abs(array)
        feeds[value.name] = np.asarray(array, dtype)
    return feeds


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize(("op_type", "which"), CASES)
def test_a_node_computes_what_onnx_reference_does(op_type: str, which: int, count: int):
    for n, element in itertools.product((1, 3), (TensorProto.FLOAT, TensorProto.DOUBLE)):
        model = one_node(op_type, ATTRIBUTES[op_type][which], n, element)
        feeds = random_feeds(model, count)
        wanted = ReferenceEvaluator(model).run(None, feeds)
        lowered = lower(model)
        onnx.checker.check_model(lowered, full_check=True)
        assert lint(lowered) == []
        got = stock_session(lowered).run(None, feeds)
        for value, a, b in zip(model.graph.output, got, wanted, strict=True):
            b = np.asarray(b)  # the reference returns float32 for several tensors of Adam, whatever they are
            tolerance = 2e-6 if np.float32 in (a.dtype, b.dtype) else 1e-12
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=value.name)


@pytest.mark.parametrize("op_type", STATES)
def test_a_rate_and_a_count_of_one_element_serve_tensors_without_axes(op_type: str):
    attributes = ATTRIBUTES[op_type][-1]
    results = []
    for rate_shape in ((), (1,)):
        model = one_node(op_type, attributes, 3, rate_shape=rate_shape)
        results.append(stock_session(lower(model)).run(None, random_feeds(model, 2)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == b.shape


def test_nodes_with_the_same_attributes_share_a_function_whatever_the_sizes():
    model = one_node("Momentum", ATTRIBUTES["Momentum"][0], 1)
    model.graph.input.append(helper.make_tensor_value_info("Y", TensorProto.FLOAT, (2, 5)))
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[0])
    node.input[2:] = ["Y", "Y", "Y"]
    node.output[:] = ["Y_new", "W_new"]
    model.graph.node.append(node)
    lowered = lower(model)
    assert [(f.domain, f.name, f.overload) for f in lowered.functions] == [(DOMAIN, "Momentum", "")]


def test_nodes_with_other_attributes_get_an_overload_each():
    model = one_node("Momentum", ATTRIBUTES["Momentum"][0], 1)
    other = one_node("Momentum", ATTRIBUTES["Momentum"][2], 1).graph.node[0]
    other.output[:] = ["other", "another"]
    other.name = "another"
    model.graph.node.append(other)
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (3,)))
    feeds = random_feeds(model, 3)
    lowered = lower(model)
    assert len({f.overload for f in lowered.functions} - {""}) == 2
    assert lowered.ir_version == 10
    got = stock_session(lowered).run(None, feeds)
    for a, b in zip(got, ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_function_that_the_file_has_is_left_alone():
    function = f'<domain: "{DOMAIN}", opset_import: ["": 18]> Adam (R, T, X, G, V, H) => (XN, VN, HN) {{ XN = Neg (X) '
    function += "VN = Neg (V) HN = Neg (H) }"
    model = one_node("Adam", {}, 1)
    model.functions.append(onnx.parser.parse_function(function))
    assert lower(model) is model


def test_an_optimizer_in_a_function_is_written_out_of_it():
    own = f'<domain: "own", opset_import: ["": 18, "{DOMAIN}": 1]> update (R, T, X, G, H) => (XN) '
    own += f"{{ XN, HN = {DOMAIN}.Adagrad (R, T, X, G, H) }}"
    text = """f (float r, int64 t, float[3] x, float[3] g, float[3] h) => (float[3] y) {
        y = own.update (r, t, x, g, h) }"""
    lowered = lower(parsed(text, functions=own))
    assert [f.name for f in lowered.functions] == ["Adagrad"]
    feeds = {name: np.full(3, 0.5, np.float32) for name in "xgh"}
    feeds |= {"r": np.array(0.1, np.float32), "t": np.array(0)}
    (got,) = stock_session(lowered).run(None, feeds)
    np.testing.assert_allclose(got, 0.5 - 0.1 * 0.5 / (np.sqrt(0.75) + 1e-6), rtol=1e-6)


# Errors


def test_inputs_that_do_not_come_out_even_are_an_error():
    model = one_node("Adam", {}, 1)
    del model.graph.node[0].input[-1]
    with pytest.raises(rm.ConversionError) as error:
        lower(model)
    assert str(error.value) == (
        "lower: Adam must have the inputs R and T, and then X, G, V and H for every tensor, got 5 inputs in node "
        "'update'."
    )


def test_an_operator_that_the_domain_does_not_have_is_an_error():
    model = one_node("Momentum", ATTRIBUTES["Momentum"][0], 1)
    model.graph.node[0].op_type = "Lion"
    with pytest.raises(rm.ConversionError) as error:
        lower(model)
    assert str(error.value) == (
        "lower: an operator of ai.onnx.preview.training must be Gradient, Adagrad, Adam, Momentum, got Lion in node "
        "'update'."
    )


def test_an_attribute_that_is_missing_is_an_error():
    model = one_node("Momentum", ATTRIBUTES["Momentum"][0], 1)
    del model.graph.node[0].attribute[:]
    with pytest.raises(rm.ConversionError) as error:
        lower(model)
    assert str(error.value) == "Momentum: the attribute alpha must be given, got none."


def test_a_value_of_unknown_type_is_an_error():
    text = f"""f (float r, int64 t, float[3] x) => (float[3] y) {{
        h = own.unknown (x) y, z = {DOMAIN}.Adagrad (r, t, x, x, h) }}"""
    model = parsed(text, functions="")
    model.opset_import.extend([helper.make_opsetid("own", 1), helper.make_opsetid(DOMAIN, 1)])
    with pytest.raises(rm.ConversionError) as error:
        lower(model)
    assert str(error.value) == (
        "lower: the element type of every value must be known, got 'h' without one, which Adagrad reads in node 'y'. "
        "Give it a value_info."
    )
