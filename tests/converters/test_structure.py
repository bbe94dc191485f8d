"""The structure of models: what is in bodies of control flow, what is called, which names are taken."""

from __future__ import annotations

import onnx

from renom_onnx.converters.structure import (
    called,
    drop_unused,
    every_node,
    functions_of,
    names_of,
    subgraphs,
    value_names,
)
from renom_onnx.graph.body import WITH_BODIES

TEXT = """<ir_version: 10, opset_import: ["": 18, "own": 1, "unused": 3]>
f (bool c, float[N] x) => (float[N] y) {
    y = If (c) <
        then_branch = inside () => (float[N] z) { z = own.Outer (x) },
        else_branch = other () => (float[N] w) { [named] w = Neg (x) }
    >
}
<domain: "own", opset_import: ["": 18, "own": 1]> Outer (a) => (b) { b = own.Inner (a) }
<domain: "own", opset_import: ["": 18]> Inner (a) => (b) { b = Abs (a) }
<domain: "own", opset_import: ["": 18, "own": 1]> Nobody (a) => (b) { b = own.Inner (a) }"""


def test_the_standard_operators_with_bodies_are_those_of_the_schemas():
    graphs = (onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS)
    found = {
        schema.name
        for schema in onnx.defs.get_all_schemas_with_history()
        if not schema.domain and any(attribute.type in graphs for attribute in schema.attributes.values())
    }
    assert found == WITH_BODIES


def test_bodies_of_other_domains_are_found_too():
    body = onnx.GraphProto(name="body")
    for domain in ("own", "ai.onnx"):
        node = onnx.helper.make_node("Repeat", [], ["y"], domain=domain, body=body, bodies=[body, body])
        assert [graph.name for graph in subgraphs(node)] == ["body"] * 3


def test_names_in_bodies_are_taken():
    model = onnx.parser.parse_model(TEXT)
    assert value_names(model.graph) == {"c", "x", "y", "z", "w"}
    names = names_of(model)
    assert [names.fresh(name) for name in ("w", "v", "w")] == ["w_2", "v", "w_3"]
    assert [names.fresh_node(name) for name in ("named", "w", "named")] == ["named_2", "w", "named_3"]


def test_what_bodies_call_is_kept():
    model = onnx.parser.parse_model(TEXT)
    functions = functions_of(model)
    assert {name for _, name, _ in called(model.graph.node, functions)} == {"Outer", "Inner"}
    drop_unused(model)
    assert [function.name for function in model.functions] == ["Outer", "Inner"]
    assert [opset.domain for opset in model.opset_import] == ["", "own"]
    drop_unused(model)
    assert sorted(node.op_type for node in every_node(model.graph.node)) == ["If", "Neg", "Outer"]
