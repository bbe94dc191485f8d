"""`Rewrite`: names that nothing else has, in bodies neither, and a step without what nobody reads any longer."""

from __future__ import annotations

import onnx

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.rewrite import Rewrite

TEXT = """<ir_version: 10, opset_import: ["": 18], producer_name: "somebody">
f (bool c, float[N, 2] x) => (float[N, 2] y) <float[1] w = {2}> {
    [scale] a = Mul (x, w)
    [turn] b = Neg (a)
    y = If (c) <
        then_branch = inside () => (float[N, 2] z) { [inner] z = Abs (b) },
        else_branch = other () => (float[N, 2] v) { v = Neg (x) }
    >
}"""


def rewrite() -> Rewrite:
    model = onnx.parser.parse_model(TEXT)
    return Rewrite(model, KnownShapes(model, {"N": 3}))


def test_new_names_are_those_of_nothing_in_the_step_or_in_its_bodies():
    step = rewrite()
    assert [step.fresh(name) for name in "cxwabyzvu"] == [*(f"{name}_2" for name in "cxwabyzv"), "u"]
    names = [step.node(node, "Exp", ["x"]).name for node in (onnx.NodeProto(name="inner"), onnx.NodeProto(name="turn"))]
    assert names == ["inner/Exp", "turn/Exp"]
    made = onnx.helper.make_node("Exp", ["x"], ["e"], name="inner/Exp")
    model = onnx.parser.parse_model(TEXT)
    model.graph.node[2].attribute[0].g.node.append(made)
    assert Rewrite(model, KnownShapes(model, {})).node(onnx.NodeProto(name="inner"), "Exp", ["x"]).name == "inner/Exp_2"


def test_what_a_body_reads_is_read():
    step = rewrite()
    assert step.made_by("b", "Neg", reads=1) is not None
    assert step.made_by("a", "Mul", reads=1) is not None


def test_what_nobody_reads_any_longer_is_left_out_and_everything_else_stays():
    step = rewrite()
    ((place, turn),) = step.candidates("Neg")
    step.replace(place, [step.node(turn, "Mul", ["x", step.constant(-2)], "b")])
    model = step.model()
    assert [node.op_type for node in model.graph.node] == ["Mul", "If"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "rewritten.constant"]
    old = onnx.parser.parse_model(TEXT)
    assert model.graph.node[1] == old.graph.node[2]
    for part in ("input", "output", "name"):
        assert getattr(model.graph, part) == getattr(old.graph, part)
    assert (model.opset_import, model.producer_name) == (old.opset_import, "somebody")


def test_a_step_that_nothing_was_replaced_in_is_the_same_object():
    model = onnx.parser.parse_model(TEXT)
    assert Rewrite(model, KnownShapes(model, {})).model() is model
