"""`add_prefix`: other names, the same training."""

from __future__ import annotations

import onnx
import pytest
from onnx import compose

import renom_onnx as rm
from renom_onnx.converters import add_prefix, lint
from tests.converters.programs import Program, feeds
from tests.converters.surgery.alike import ONE_OF_EACH, adam, assert_infers_alike, assert_trains_alike, parsed


def prefixed(name: str) -> str:
    return f"net/{name}"


@pytest.mark.parametrize("program", ONE_OF_EACH, ids=str)
def test_a_prefixed_file_trains_and_infers_to_the_same_bits(program: Program):
    model = program.model()
    renamed = add_prefix(model, "net/")
    assert lint(renamed) == []
    assert_trains_alike(renamed, model, prefixed)
    assert_infers_alike(renamed, model, prefixed)


def test_onnxs_own_leaves_old_names_in_the_training_step_and_lint_says_so():
    assert any("the key must name an initializer" in p for p in lint(compose.add_prefix(adam(), "net/")))


def test_everything_is_renamed_but_functions_symbols_and_metadata():
    model = adam()
    renamed = add_prefix(model, "net/")
    info, old = renamed.training_info[0], model.training_info[0]
    assert [(b.key, b.value) for b in info.update_binding] == [
        (prefixed(b.key), prefixed(b.value)) for b in old.update_binding
    ]
    assert [(b.key, b.value) for b in info.initialization_binding] == [
        (prefixed(b.key), prefixed(b.value)) for b in old.initialization_binding
    ]
    for graph in (renamed.graph, info.algorithm, info.initialization):
        names = [v.name for v in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]]
        names += [name for node in graph.node for name in [*node.input, *node.output, node.name] if name]
        assert all(name.startswith("net/") for name in names)
    assert info.algorithm.name == "net/training"
    assert renamed.functions == model.functions and renamed.metadata_props == model.metadata_props
    assert renamed.graph.input[0].type == model.graph.input[0].type


def test_names_to_keep_stay():
    kept = ["x", "y", "output", "loss", "learning_rate"]
    renamed = add_prefix(adam(), "net/", keep=kept)
    assert [value.name for value in renamed.graph.input] == ["x"]
    assert [value.name for value in renamed.graph.output] == ["output"]
    session = rm.runtime.TrainingSession(renamed, "cpu")
    assert [spec.name for spec in session.feeds] == ["x", "y", "learning_rate"]
    assert_trains_alike(renamed, adam(), lambda name: name if name in kept else prefixed(name))


def test_a_session_finds_the_learning_rate_and_the_evaluation_loss_under_a_prefix():
    model = Program("dropout", "Sgd", 18).model()
    sessions = [rm.runtime.TrainingSession(m, "cpu", threads=1) for m in (model, add_prefix(model, "net/"))]
    batches = [feeds(model, 4), {prefixed(name): array for name, array in feeds(model, 4).items()}]
    for session in sessions:
        session.learning_rate = 0.5
    assert sessions[1].learning_rate == 0.5
    assert sessions[1].loss_name == "net/loss"
    a, b = (session.evaluate(batch) for session, batch in zip(sessions, batches, strict=True))
    assert b["net/loss"] == a["loss"]


def test_names_in_branches_and_of_absent_operands():
    model = parsed("""f (float[3] x, bool c) => (float[3] y) {
        y = If (c) <then_branch = a () => (float[3] p) { p = Clip (x, , h) },
                    else_branch = b () => (float[3] q) { n = Neg (x) q = Neg (n) }> }""")
    node = onnx.helper.make_node("ReduceMax", ["x"], ["h"], name="h", keepdims=0)
    model.graph.node.insert(0, node)
    renamed = add_prefix(model, "a.")
    onnx.checker.check_model(renamed, full_check=True)
    branch = renamed.graph.node[1].attribute[0].g
    assert list(branch.node[0].input) == ["a.x", "", "a.h"]
    assert renamed.graph.node[0].name == "a.h" and not renamed.graph.node[1].name


def test_an_empty_prefix_changes_nothing():
    assert add_prefix(adam(), "") == adam()


# Errors


def test_a_name_to_keep_that_nobody_has_is_an_error():
    with pytest.raises(rm.ConversionError) as error:
        add_prefix(adam(), "net/", keep=["nobody"])
    assert str(error.value) == "add_prefix: keep must name values of the model, got 'nobody', which is none."


def test_a_name_to_keep_that_another_one_becomes_is_an_error():
    model = parsed("f (float[3] x) => (float[3] y) { net_x = Neg (x) y = Neg (net_x) }")
    with pytest.raises(rm.ConversionError) as error:
        add_prefix(model, "net_", keep=["net_x"])
    assert str(error.value) == (
        "add_prefix: a name must stay one value's own, got 'net_x' to keep, which 'x' becomes. Choose another prefix."
    )
