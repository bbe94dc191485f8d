"""The rule by which a list of kernels is read, held against what sessions of onnxruntime do on the CPU."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from renom_onnx.converters.doctor import kernels, providers
from renom_onnx.converters.doctor.kernels import CPU, CUDA, Kernel, has_kernel
from renom_onnx.converters.importer import import_graph
from renom_onnx.graph import schema
from renom_onnx.graph.node import Node
from renom_onnx.runtime import acceptance


@functools.cache
def registered() -> dict[tuple[str, str], tuple[Kernel, ...]]:
    """The kernels of the installed onnxruntime, as it lists them itself."""
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state", reason="lists kernels")
    found: dict[tuple[str, str], list[Kernel]] = {}
    for k in state.get_all_opkernel_def():
        first, last = k.version_range
        types = {
            name: frozenset(t.removeprefix("tensor(").removesuffix(")") for t in kinds if t.startswith("tensor("))
            for name, kinds in k.type_constraints.items()
        }
        types = {name: kinds for name, kinds in types.items() if kinds}
        found.setdefault((k.domain, k.op_name), []).append(Kernel(first, None if last >= 2**31 - 1 else last, types))
    return {key: tuple(entries) for key, entries in found.items()}


def node_tests() -> list[Any]:
    """ONNX's node tests whose model is one node of ONNX's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose
        return [case for case in load_model_tests(kind="node") if "expanded" not in case.name]


def single(case: Any) -> tuple[bytes | None, Node] | None:
    """The question about a model's one node, and the node."""
    model = case.model or onnx.load(f"{case.model_dir}/model.onnx")
    if len(model.graph.node) != 1 or model.functions or model.graph.node[0].domain not in ("", "ai.onnx", "ai.onnx.ml"):
        return None
    graph = import_graph(model)
    node, proto = graph.nodes[0]
    return None if node.is_leaf else (providers.question(model, proto, graph.values), node)


def test_the_rule_says_what_sessions_do():
    """A kernel that the rule finds is taken; where it finds none, the node is refused or replaced by its body."""
    wrong, n_taken, n_refused = [], 0, 0
    for case in node_tests():
        question, node = single(case) or (None, None)
        if question is None:
            continue
        refused = acceptance.refusal(question)
        listed = has_kernel(node, CPU, table=registered())
        if refused is not None and "Could not find an implementation" not in refused:
            continue  # an attribute or a type that no kernel takes, which no list of kernels tells
        if listed and refused is not None:
            wrong.append(f"{case.name}: listed, but {refused}")
        is_half = any(v.dtype == "float16" for v in node.inputs if v is not None)  # the CPU computes it in float32
        has_body = schema.has_body(node.op_type, node.opset, node.domain)
        if not listed and refused is None and not has_body and not is_half:
            wrong.append(f"{case.name}: not listed, but taken")
        n_taken, n_refused = n_taken + listed, n_refused + (refused is not None)
    assert not wrong, "\n".join(wrong)
    assert n_taken > 500
    assert n_refused > 20


@pytest.mark.parametrize(
    ("first", "last", "served"),
    [(12, None, {12}), (11, 21, set(range(11, 22))), (22, 22, {22})],
    ids=["from 12 on", "11 to 21", "22 alone"],
)
def test_a_kernel_that_is_registered_from_a_version_on_serves_this_one_alone(
    first: int, last: int | None, served: set[int]
):
    assert {version for version in range(30) if Kernel(first, last, {}).serves(version)} == served


def one_node(text: str, opset: int) -> Node:
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    model = onnx.parser.parse_model(f"{header} f (float[1, 2, 8, 8] x) => (float[a, b, c, d] y) {{ y = {text} }}")
    return import_graph(model).nodes[0][0]


@pytest.mark.parametrize(
    ("text", "opset", "expected"),
    [
        ("MaxPool<kernel_shape = [2, 2]>(x)", 21, True),
        ("MaxPool<kernel_shape = [2, 2]>(x)", 22, False),
        ("GlobalAveragePool(x)", 21, True),
        ("GlobalAveragePool(x)", 22, True),
        ("Relu(x)", 22, True),
        ("Relu(x)", 18, True),
        ("Col2Im(x, x, x)", 18, False),
        ("Foo(x)", 18, False),
    ],
)
def test_cuda_has_kernels_by_exact_version(text: str, opset: int, expected: bool):
    assert has_kernel(one_node(text, opset), CUDA) is expected


def test_element_types_count():
    node = one_node("Relu(x)", 18)
    node.inputs[0].dtype = node.output.dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT32)
    assert not has_kernel(node, CUDA)
    assert has_kernel(node, CPU)


def test_the_list_is_of_one_release_and_has_both_providers():
    assert kernels.release().startswith("onnxruntime-gpu 1.")
    assert len(kernels.kernels(CUDA)) > 200
    assert {key for key in registered() if key[0] == ""} >= {key for key in kernels.kernels(CPU) if key[0] == ""}


def test_an_operator_of_a_vendor_is_looked_up_by_name():
    node = Node("FastGelu", [], [], opset=18, domain="com.microsoft")
    assert has_kernel(node, CUDA)
    assert not has_kernel(Node("Swoosh", [], [], opset=18, domain="com.microsoft"), CUDA)
    assert not has_kernel(Node("FastGelu", [], [], opset=18, domain="mine"), CUDA)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Relu(x)", None),
        ("Foo(x)", '("x0": tensor(float),) -> ("y0",) , Error No Op registered for Foo with domain_version of 18'),
    ],
)
def test_onnxruntime_says_what_it_refuses(text: str, reason: str | None):
    header = '<ir_version: 10, opset_import: ["": 18]>'
    model = onnx.parser.parse_model(f"{header} f (float[1, 2, 8, 8] x) => (float[a, b, c, d] y) {{ y = {text} }}")
    graph = import_graph(model)
    question = providers.question(model, graph.nodes[0][1], graph.values)
    assert question is not None
    assert acceptance.refusal(question) == reason
    assert acceptance.release().startswith("onnxruntime 1.")


def test_nodes_that_are_alike_are_one_question():
    text = "f (float[1, 8] x) => (float[a, b] y) { h = Relu(x) y = Relu(h) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {text}')
    graph = import_graph(model)
    first, second = (providers.question(model, proto, graph.values) for _, proto in graph.nodes)
    assert first == second


def test_a_node_of_unknown_element_type_cannot_be_asked_about():
    text = "f (float[1, 8] x) => (float[a, b] y) { h = Foo(x) y = Relu(h) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {text}')
    graph = import_graph(model)
    assert providers.question(model, graph.nodes[1][1], graph.values) is None
