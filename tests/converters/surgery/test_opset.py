"""`convert_opset`: equal numbers at another opset, judged by onnxruntime."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import defs, numpy_helper
from onnx.backend.test.loader import load_model_tests

import renom_onnx as rm
from renom_onnx.converters import convert_opset, lint
from renom_onnx.converters.surgery import opset as conversion
from tests.converters.programs import LOSSES, Program
from tests.converters.surgery.alike import adam, assert_infers_alike, assert_trains_alike, parsed
from tests.converters.test_training_file import stock_session

NEWEST = defs.onnx_opset_version()


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23, 24])
@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout", "normalized"])
def test_a_training_file_trains_to_the_same_bits_at_a_newer_opset(loss: str, opset: int):
    model = Program(loss, "Adam", 18).model()
    newer = convert_opset(model, opset)
    assert [o.version for o in newer.opset_import if o.domain == ""] == [opset]
    assert {o.version for f in newer.functions for o in f.opset_import if o.domain == ""} == {opset}
    assert lint(newer) == []
    assert_trains_alike(newer, model)
    assert_infers_alike(newer, model)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_program_has_the_same_functions_and_names_at_opset_21(loss: str):
    model = Program(loss, "Adam", 18).model()
    newer = convert_opset(model, 21)
    assert [(f.name, f.overload) for f in newer.functions] == [(f.name, f.overload) for f in model.functions]
    assert newer.training_info[0].update_binding == model.training_info[0].update_binding
    assert newer.metadata_props == model.metadata_props
    for a, b in ((newer.graph, model.graph), (newer.training_info[0].algorithm, model.training_info[0].algorithm)):
        assert [(n.name, n.op_type, n.input, n.output) for n in a.node] == [
            (n.name, n.op_type, n.input, n.output) for n in b.node
        ]
        assert a.initializer == b.initializer
    assert lint(newer) == []
    assert_trains_alike(newer, model)


def test_there_and_back_is_the_same_model():
    model = Program("cnn", "momentum", 18).model()
    assert convert_opset(convert_opset(model, 21), 18) == model


def test_the_same_opset_is_the_same_model():
    model = adam()
    assert convert_opset(model, 18) == model


@functools.cache
def all_node_tests() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def node_tests(first: int, last: int, opset: int) -> Iterator[tuple[str, onnx.ModelProto, dict[str, np.ndarray]]]:
    """ONNX's node tests at an opset of the range with an operator that has another version at the opset asked for."""
    taken: Counter[str] = Counter()
    for test in all_node_tests():
        versions = [o.version for o in test.model.opset_import if o.domain in ("", "ai.onnx")]
        if not versions or not first <= versions[0] <= last or any(n.domain for n in test.model.graph.node):
            continue
        changed = [n for n in test.model.graph.node if since(n, versions[0]) != since(n, opset)]
        arrays = [numpy_helper.to_array(a) if isinstance(a, onnx.TensorProto) else a for a in test.data_sets[0][0]]
        kind = test.model.graph.node[-1].op_type
        if changed and taken[kind] < 3 and kind != "Scan" and all(isinstance(array, np.ndarray) for array in arrays):
            taken[kind] += 1
            names = [value.name for value in test.model.graph.input]
            yield test.name, test.model, dict(zip(names, arrays, strict=False))


def since(node: onnx.NodeProto, opset: int) -> int:
    return defs.get_schema(node.op_type, opset).since_version


@pytest.mark.parametrize(("first", "last", "opset"), [(7, 17, 18), (18, 20, 21)])
def test_onnxs_node_tests_give_the_same_outputs_after_conversion(first: int, last: int, opset: int):
    compared = 0
    for name, model, batch in node_tests(first, last, opset):
        try:
            wanted = stock_session(model).run(None, batch)
        except Exception:
            continue  # onnxruntime has no kernel of it
        got = stock_session(convert_opset(model, opset)).run(None, batch)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
        compared += 1
    assert compared > 20


BROUGHT_TO_18 = {
    "axes become an input": ("f (float[2, 1] x) => (float[2] y) { y = Squeeze <axes = [1]> (x) }", 11),
    "axes in a branch": ("""f (float[2, 1] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] p) { p = Squeeze <axes = [1]> (x) },
                    else_branch = b () => (float[2] q) { n = Neg (x) q = Squeeze <axes = [1]> (n) }> }""", 11),
    "another meaning of the axis": ("f (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax <axis = 1> (x) }", 11),
    "two nodes of one kind": ("""f (float[2, 3, 4] x) => (float[2, 3, 4] y) {
        h = Softmax <axis = 1> (x) y = Softmax <axis = 2> (h) }""", 11),
    "an operator that was renamed": ("""f (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) {
        s = Constant <value: tensor = float[4] {1, 1, 2, 2}> () y = Upsample <mode = "nearest"> (x, s) }""", 9),
}  # fmt: skip


@pytest.mark.parametrize("name", BROUGHT_TO_18)
def test_old_models_compute_the_same_at_18(name: str):
    text, opset = BROUGHT_TO_18[name]
    model = parsed(text, opset, ir_version=6)
    newer = convert_opset(model, 18)
    onnx.checker.check_model(newer, full_check=True)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    batch = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32), "c": np.array(False)}
    batch = {value.name: batch[value.name] for value in model.graph.input}
    for a, b in zip(stock_session(newer).run(None, batch), stock_session(model).run(None, batch), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_group_normalization_keeps_its_numbers_where_onnxs_converter_changes_them():
    text = """f (float[2, 4, 3, 3] x, float[2] s, float[2] b) => (float[2, 4, 3, 3] y) {
        y = GroupNormalization <num_groups = 2> (x, s, b) }"""
    model = parsed(text)
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 4, 3, 3), "s": (2,), "b": (2,)}
    batch = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    newer = convert_opset(model, 21)
    onnx.checker.check_model(newer, full_check=True)
    (wanted,), (got,) = (stock_session(m).run(None, batch) for m in (model, newer))
    np.testing.assert_array_equal(got, wanted)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):  # two scales for four channels
        stock_session(onnx.version_converter.convert_version(model, 21)).run(None, batch)


def test_attributes_that_a_function_takes_from_its_call_stay():
    functions = (
        '<domain: "own", opset_import: ["": 18]> g <to> (X) => (Y) { H = Cast <to: int = @to> (X) Y = Identity (H) }'
    )
    model = parsed("f (float[3] x) => (int64[3] y) { y = own.g <to = 7> (x) }", functions=functions)
    newer = convert_opset(model, 21)
    assert newer.functions == convert_opset(newer, 21).functions
    cast = newer.functions[0].node[0]
    assert (cast.attribute[0].name, cast.attribute[0].ref_attr_name) == ("to", "to")
    batch = {"x": np.array([1.5, 2, -3], np.float32)}
    np.testing.assert_array_equal(stock_session(newer).run(None, batch)[0], [1, 2, -3])


def test_documentation_and_metadata_of_a_node_stay():
    model = parsed("f (float[2, 3] x) => (float[3, 2] y) { y = Transpose (x) }")
    node = model.graph.node[0]
    node.name, node.doc_string = "turn", "turns it"
    node.metadata_props.add(key="made by", value="hand")
    assert convert_opset(model, 21).graph.node[0] == node


# Errors


@pytest.mark.parametrize("opset", [6, NEWEST + 1])
def test_an_opset_that_nobody_knows_is_an_error(opset: int):
    with pytest.raises(rm.ConversionError) as error:
        convert_opset(adam(), opset)
    assert str(error.value) == f"convert_opset: opset must be 7 to {NEWEST}, got {opset}."


def test_an_operator_that_the_opset_lacks_is_an_error():
    model = parsed("f (float[3] x) => (float[3] y) { y = Gelu (x) }", opset=20)
    with pytest.raises(rm.ConversionError) as error:
        convert_opset(model, 18)
    assert str(error.value) == (
        "convert_opset: every operator must exist at opset 20 and at 18, got Gelu in node 'y', which does not at 18."
    )


def test_an_operator_without_a_way_back_is_an_error():
    text = "f (float[1, 1, 3, 3] x, float[1, 2, 2, 2] g) => (float[1, 1, 2, 2] y) { y = GridSample (x, g) }"
    with pytest.raises(rm.ConversionError) as error:
        convert_opset(parsed(text, opset=20), 18)
    assert str(error.value) == (
        "convert_opset: every operator must have a form at opset 18, got GridSample in node 'y', of which onnx's "
        "version converter says: No Adapter From Version $20 for GridSample."
    )


@pytest.mark.parametrize(
    ("text", "source", "target", "what"),
    [
        ("f () => (int64[2] y) { y = Constant <value_ints = [1, 2]> () }", 12, 11, "value_ints of Constant"),
        ("""f (float[1, 3, 2] x) => (float[1, 3, 2] y) {
            y = Scan <num_scan_inputs = 1, body = b (float[2] p) => (float[2] q) { q = Neg (p) }> (, x) }""",
            8, 18, "Scan"),
    ],
)  # fmt: skip
def test_what_the_opset_lacks_of_an_operator_is_an_error(text: str, source: int, target: int, what: str):
    with pytest.raises(rm.ConversionError) as error:
        convert_opset(parsed(text, opset=source), target)
    assert str(error.value) == (
        f"convert_opset: every operator must have a form at opset {target}, got {what} in node 'y', which has none."
    )


def test_attributes_from_a_call_for_an_operator_that_becomes_another_are_an_error():
    functions = '<domain: "own", opset_import: ["": 9]> g <m> (X, S) => (Y) { Y = Upsample <mode: string = @m> (X, S) }'
    text = 'f (float[1, 1, 2, 2] x, float[4] s) => (float[1, 1, 4, 4] y) { y = own.g <m = "linear"> (x, s) }'
    with pytest.raises(rm.ConversionError) as error:
        convert_opset(parsed(text, opset=9, functions=functions), 18)
    assert str(error.value) == (
        "convert_opset: an operator that becomes another one must have its attributes in the file, got Upsample in "
        "node 'Y', which takes them from a function's call. Inline it first."
    )


def test_equal_nodes_are_converted_once(monkeypatch):
    """A call of onnx's converter takes milliseconds, and a deep network has hundreds of nodes of a few kinds."""
    calls = []
    convert = conversion.version_converter.convert_version
    monkeypatch.setattr(conversion.version_converter, "convert_version", lambda *a: calls.append(a) or convert(*a))
    nodes = [
        f"h{i + 1} = Squeeze <axes=[1]> (u{i})  u{i + 1} = Unsqueeze <axes=[1]> (h{i + 1})  "
        f"a{i} = ReduceSum <axes=[0], keepdims=1> (h{i + 1})"
        for i in range(20)
    ]
    text = '<ir_version: 6, opset_import: ["": 11]> f (float[2, 1] u0) => (float[2, 1] u20) {' + "".join(nodes) + "}"
    newer = convert_opset(onnx.parser.parse_model(text), 18)
    assert len(calls) == 3
    onnx.checker.check_model(newer, full_check=True)
    assert [list(n.output) for n in newer.graph.node if n.op_type == "Unsqueeze"] == [[f"u{i + 1}"] for i in range(20)]
    assert len({name for n in newer.graph.node for name in n.output}) == len(newer.graph.node)
