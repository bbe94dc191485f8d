"""Bodies of If, Loop and Scan: read as part of the graph, written as they were."""

from __future__ import annotations

import warnings

import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import renom_onnx as rm
from renom_onnx.converters import to_onnx
from renom_onnx.converters.importer import import_graph
from renom_onnx.converters.names import Names
from renom_onnx.converters.writer import FunctionTable, Writer, read_values
from renom_onnx.graph.body import captures
from renom_onnx.graph.node import ancestors


def written(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of the model that have bodies, read and written again."""
    graph = import_graph(model)
    nodes = [node for node, _ in graph.nodes]
    names = Names()
    for value in graph.values.values():
        names.fix(value, str(value.name))
    read = read_values(nodes, graph.outputs.values())
    node_names = {node: proto.name for node, proto in graph.nodes}
    writer = Writer(names, functions=FunctionTable(nodes, read), node_names=node_names)
    writer.write(nodes, read)
    return [bare(node, name="") for node in writer.nodes if has_body(node)]


def has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)


def given(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of the model that have bodies."""
    return [bare(node, name="") for node in model.graph.node if has_body(node)]


def bare(node: onnx.NodeProto, name: str | None = None) -> onnx.NodeProto:
    """Return the node in one of the several forms that mean the same."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.doc_string = ""
    copy.domain, copy.name, copy.overload = node.domain, node.name if name is None else name, node.overload
    attributes = sorted(copy.attribute, key=lambda a: a.name)
    del copy.attribute[:]
    for attribute in attributes:
        attribute.ClearField("doc_string")
        if attribute.HasField("t"):
            attribute.t.CopyFrom(raw(attribute.t, ""))
        if attribute.HasField("g"):
            graph = attribute.g
            nodes, tensors = [bare(inner) for inner in graph.node], [raw(t, t.name) for t in graph.initializer]
            del graph.node[:], graph.initializer[:]
            graph.node.extend(nodes)
            graph.initializer.extend(tensors)
            graph.ClearField("value_info")
            for info in [*graph.input, *graph.output]:
                info.ClearField("doc_string")
                if not info.type.HasField("tensor_type"):
                    info.ClearField("type")
        copy.attribute.append(attribute)
    return copy


def raw(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor), name)


def control_flow_tests() -> dict[str, onnx.ModelProto]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = [*load_model_tests(kind="node"), *load_model_tests(kind="simple")]
    models = {test.name: test.model for test in tests if test.model is not None}
    names = {"If", "Loop", "Scan", "SequenceMap"}
    return {k: m for k, m in models.items() if names.intersection(n.op_type for n in m.graph.node)}


CONTROL_FLOW = control_flow_tests()

NESTED = """
<ir_version: 10, opset_import: ["": 18, "own": 1]>
nested (float[N, 2] x, bool c, int64 m) => (float[N, 2] y, float[T, N, 2] ys)
<float[2] w = {1, 2}>
{
   one = Constant <value = float {1}> ()
   true = Constant <value = bool {1}> ()
   [loop] y, ys = Loop (m, true, x) <body = steps (int64 i, bool go, float[N, 2] v)
         => (bool go, float[N, 2] v_next, float[N, 2] out) <float[2] b = {3, 4}> {
      [twice] d = own.Twice (v)
      [if] v_next, out = If (c) <
         else_branch = other () => (float[N, 2] e, float[N, 2] f) { [sub] e = Sub (d, one) [mul] f = Mul (v, b) },
         then_branch = this () => (float[N, 2] e, float[N, 2] f) {
            [half] half = Constant <value = float {0.5}> ()
            [add] e = Add (v, w)
            [inner] f = If (go) <
               then_branch = deep () => (float[N, 2] g) { [deepest] g = Mul (x, half) },
               else_branch = deep2 () => (float[N, 2] g) { [same] g = Identity (w2) }
            >
         }
      >
   }>
}
<domain: "own", opset_import: ["": 18]> Twice (a) => (b) { b = Add (a, a) }
"""


def nested() -> onnx.ModelProto:
    return onnx.parser.parse_model(NESTED.replace("(w2)", "(d)"))


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_models_of_onnx_tests_are_exported_as_they_were(name: str):
    model = CONTROL_FLOW[name]
    assert to_onnx(rm.load(model)) == model


def test_nested_bodies_are_written_as_they_were():
    model = nested()
    onnx.checker.check_model(model, full_check=True)
    again = to_onnx(rm.load(model))
    assert [bare(node) for node in again.graph.node] == [bare(node) for node in model.graph.node]
    assert to_onnx(rm.load(again)) == again  # byte for byte, once the tensors are encoded as we do it
    assert written(model) == given(model)


def test_what_bodies_capture_are_inputs_of_the_node():
    graph = import_graph(nested())
    loop = graph.outputs["y"].node
    ((body, outside),) = captures(loop)
    assert [value.name for value in loop.inputs] == ["m", "true", "x", "c", "one", "w", "x"]
    assert [value.name for value in outside] == ["c", "one", "w", "x"]
    assert [value.name for value in body.captures] == ["c", "one", "w", "x"]
    inner = next(node for node in body.nodes if node.op_type == "If")
    assert [(b.name, [v.name for v in found]) for b, found in captures(inner)] == [
        ("other", ["d", "one", "v", "b"]),
        ("this", ["v", "w", "go", "x", "d"]),
    ]
    assert {"m", "c", "x", "w"} <= {node.output.name for node in ancestors([graph.outputs["ys"]])}
    assert [str(v) for v in loop.outputs] == ["float32[N, 2]", "float32[T, N, 2]"]
