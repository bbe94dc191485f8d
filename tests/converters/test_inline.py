"""`inline=True`: the same step without functions, for runtimes that do not know them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest

import renom_onnx as rm
from renom_onnx.converters import lint, to_onnx, vjp
from tests.converters.programs import LOSSES, PROGRAMS, Program, feeds, perceptron, portable_bodies
from tests.converters.test_training_file import specified_concatenation, stock_session

every_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)
one_of_each = [p for p in PROGRAMS if (p.optimizer, p.opset) == ("Adam", 18)]
# onnx.reference (1.23) returns wrong Indices of MaxPool where windows overlap, as theirs do.
referable = [p for p in one_of_each if p.loss not in ("cnn", "integer_data")]


@every_program
def test_an_inlined_file_has_no_functions_and_one_domain(program: Program):
    model = program.model(inline=True)
    info = model.training_info[0]
    assert not model.functions
    assert [o.domain for o in model.opset_import] == [""]
    assert {n.domain for n in [*model.graph.node, *info.algorithm.node, *info.initialization.node]} == {""}
    assert lint(model) == []
    onnx.checker.check_model(specified_concatenation(model), full_check=True)


@every_program
@pytest.mark.parametrize("inline", [False, True], ids=["functions", "inlined"])
def test_node_names_are_unique_and_not_empty(program: Program, inline: bool):
    model = program.model(inline=inline)
    names = [node.name for node in [*model.graph.node, *model.training_info[0].algorithm.node]]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("program", one_of_each, ids=str)
def test_an_inlined_step_has_the_same_bits(program: Program, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.runtime.step_model.for_sizes", portable_bodies)
    sessions = [rm.runtime.TrainingSession(program.model(inline=inline), "cpu", threads=1) for inline in (False, True)]
    for i in range(5):
        losses = [float(session.step(feeds(program.model(), 6, i))) for session in sessions]
        assert losses[0] == losses[1]
    for name, value in sessions[0].parameters.items():
        np.testing.assert_array_equal(sessions[1].parameters[name], value, strict=True, err_msg=name)


@pytest.mark.parametrize("program", referable, ids=str)
def test_the_reference_evaluator_computes_the_same_step(program: Program):
    joined = specified_concatenation(program.model(inline=True))
    batch = feeds(program.model(), 3)
    batch["learning_rate"] = np.array(0.01, np.float32)
    names = [output.name for output in joined.graph.output]
    wanted = dict(zip(names, stock_session(joined).run(names, batch), strict=True))
    got = dict(zip(names, onnx.reference.ReferenceEvaluator(joined).run(names, batch), strict=True))
    for name in names:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_inference_export_is_the_same_with_and_without_inline():
    rm.set_seed(0)
    model = perceptron()
    exports = [to_onnx(model, inputs={"x": ("N", 6)}, inline=inline) for inline in (False, True)]
    assert exports[0] == exports[1]


@pytest.mark.parametrize("loss", LOSSES)
def test_an_inlined_vjp_has_no_functions_and_the_same_bits(loss: str):
    rm.set_seed(0)
    joined = specified_concatenation(Program(loss, "Sgd", 18).model())
    outputs = [o for o in joined.graph.output if o.name == "loss"]
    del joined.graph.output[:]
    joined.graph.output.extend(outputs)
    kept = forward_nodes(joined.graph)
    del joined.graph.node[:]
    joined.graph.node.extend(kept)
    called = {(node.op_type, node.overload) for node in kept}
    own = [f for f in joined.functions if (f.name, f.overload) in called]
    del joined.functions[:]
    joined.functions.extend(own)
    batch = {**feeds(Program(loss, "Sgd", 18).model(), 4), "loss_grad": np.ones((), np.float32)}
    results = []
    for inline in (False, True):
        model = vjp(joined, inline=inline)
        onnx.checker.check_model(model, full_check=True)
        assert (len(model.functions) > len(own)) is not inline
        results.append(stock_session(model).run(None, batch))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def forward_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the loss needs."""
    needed, kept = {"loss"}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
