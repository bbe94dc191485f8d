"""TrainingInfoProto applied: initialization, its bindings, and several training steps in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import lint, merge, to_training_onnx
from renom_onnx.runtime import ParallelTrainingSession, TrainingSession
from tests.converters.programs import LOSSES, Program, feeds
from tests.converters.spec.test_gradient import DOMAIN, GRADIENT
from tests.converters.surgery.alike import adam, parsed

HEADER = f'<ir_version: 10, opset_import: ["": 18, "{DOMAIN}": 1]>'


def session_of(model: onnx.ModelProto, training_info: int | str = 0) -> TrainingSession:
    return TrainingSession(model, "cpu", training_info=training_info, threads=1)


# Initialization


def test_a_reset_starts_state_and_counters_over_and_leaves_the_weights():
    model = adam()
    session = session_of(model)
    for i in range(3):
        session.step(feeds(model, 4, i))
    weights = session.parameters
    session.reset()
    for name, value in weights.items():
        np.testing.assert_array_equal(session.read(name), value)
        assert not session.read(f"{name}.adam_m").any() and not session.read(f"{name}.adam_v").any()
    assert session.read("step") == 0


def test_a_reset_with_reinitialize_trains_as_at_the_beginning():
    rm.set_seed(0)
    model = to_training_onnx(LOSSES["mlp"](), rm.graph.Adam(0.01), reinitialize=True)
    assert lint(model) == []
    session = session_of(model)
    first = [float(session.step(feeds(model, 4, i))) for i in range(3)]
    session.reset(reinitialize=True)
    assert [float(session.step(feeds(model, 4, i))) for i in range(3)] == first


def test_a_reset_before_the_first_step_and_between_steps_of_both_buffers():
    model = adam()
    wanted = session_of(model)
    losses = [float(wanted.step(feeds(model, 4, i))) for i in range(3)]
    for n_before in (0, 1, 2):
        session = session_of(model)
        for i in range(n_before):
            session.step(feeds(model, 4, i + 7))
        session.reset()
        for name in wanted.parameters:
            session.write(name, session_of(model).read(name))
        assert [float(session.step(feeds(model, 4, i))) for i in range(3)] == losses


def test_reinitialize_writes_the_weights_of_the_moment_into_the_file():
    rm.set_seed(0)
    plain = to_training_onnx(LOSSES["mlp"](), rm.graph.Sgd(0.1, momentum=0.9))
    rm.set_seed(0)
    model = to_training_onnx(LOSSES["mlp"](), rm.graph.Sgd(0.1, momentum=0.9), reinitialize=True)
    weights = [tensor.name for tensor in model.graph.initializer]
    assert [b.key for b in model.training_info[0].initialization_binding] == [
        *(b.key for b in plain.training_info[0].initialization_binding), *weights,
    ]  # fmt: skip
    del model.training_info[0].initialization_binding[:]
    del plain.training_info[0].initialization_binding[:]
    model.training_info[0].ClearField("initialization")
    plain.training_info[0].ClearField("initialization")
    assert model == plain


def test_a_reset_of_several_devices_resets_them_all():
    model = adam()
    session = ParallelTrainingSession(model, ["cpu", "cpu"])
    session.step(feeds(model, 4))
    session.reset()
    assert session.read("step") == 0
    session.step(feeds(model, 4, 1))
    assert session.read("step") == 1


def random_start() -> onnx.ModelProto:
    """A file as the specification's example has it: the initialization draws the weights."""
    graph = "f (float[N, 2] x) => (float[N, 2] y) <float[2] w = {0, 0}> { y = Mul (x, w) }"
    algorithm = f"""descent () => (float loss, float[2] w_new, int64 count_new)
        <int64 count = {{7}}, float rate = {{0.5}}, int64 one = {{1}}> {{
            loss = ReduceSum <keepdims = 0> (y)
            dw = {GRADIENT} <xs = ["w"], zs = ["x"], y = "loss"> (w, x)
            step = Mul (dw, rate) w_new = Sub (w, step) count_new = Add (count, one) }}"""
    initialization = """start () => (float[2] drawn, int64 zero) {
        drawn = RandomUniform <shape = [2], low = 5.0, high = 6.0> ()
        zero = Constant <value: tensor = int64 {0}> () }"""
    model = onnx.parser.parse_model(f"{HEADER} {graph}")
    info = model.training_info.add()
    info.algorithm.CopyFrom(onnx.parser.parse_model(f"{HEADER} {algorithm}").graph)
    info.initialization.CopyFrom(onnx.parser.parse_model(f"{HEADER} {initialization}").graph)
    info.update_binding.add(key="w", value="w_new")
    info.update_binding.add(key="count", value="count_new")
    info.initialization_binding.add(key="w", value="drawn")
    info.initialization_binding.add(key="count", value="zero")
    return model


def test_an_initialization_that_draws_weights_is_run_when_it_is_asked_for():
    model = random_start()
    assert lint(model) == []
    session = session_of(model)
    assert not session.read("w").any() and session.read("count") == 7
    session.reset()
    assert not session.read("w").any() and session.read("count") == 0
    session.reset(reinitialize=True)
    assert ((session.read("w") >= 5) & (session.read("w") < 6)).all()
    before = session.read("w")
    session.step({"x": np.ones((1, 2), np.float32)})
    np.testing.assert_allclose(session.read("w"), before - 0.5, rtol=1e-6)


def test_what_only_the_initialization_sets_is_set_too():
    model = random_start()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "shift"))
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["x", "shift"], ["shifted"]))
    model.graph.node[1].input[0] = "shifted"
    model.training_info[0].initialization_binding.add(key="shift", value="drawn")
    session = session_of(model)
    session.reset(reinitialize=True)
    np.testing.assert_array_equal(session.read("shift"), session.read("w"))
    x = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(session.evaluate({"x": x})["y"][0], session.read("w") ** 2, rtol=1e-6)
    session.step({"x": x})
    saved = {t.name: onnx.numpy_helper.to_array(t) for t in session.to_model().graph.initializer}
    np.testing.assert_array_equal(saved["shift"], session.read("shift"))


def test_a_reset_of_a_file_without_state_does_nothing():
    model = Program("mlp", "Sgd", 18).model()
    session = session_of(model)
    session.step(feeds(model, 4))
    before = session.parameters
    session.reset()
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value)


@pytest.mark.parametrize(
    ("optimizer", "got"), [("Sgd", "nothing"), ("momentum", "dense1.w.momentum, dense1.b.momentum, ")]
)
def test_weights_that_the_initialization_does_not_set_are_an_error(optimizer: str, got: str):
    session = session_of(Program("mlp", optimizer, 18).model())
    with pytest.raises(rm.ConversionError) as error:
        session.reset(reinitialize=True)
    assert str(error.value).startswith(
        f"TrainingSession.reset: with reinitialize=True the file's initialization must set weights, got one that sets "
        f"{got}"
    )
    assert str(error.value).endswith(". Export it with reinitialize=True.")


# Several training steps


def adversaries() -> onnx.ModelProto:
    """Two steps of one graph: `a` is made smaller where the graph is large, and `b` larger. Each reads the other's."""
    graph = """f (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> {
        p = Mul (x, a) y = Mul (p, b) }"""
    model = onnx.parser.parse_model(f"{HEADER} {graph}")
    for name, other, op_type, rate in (("a", "b", "Sub", 0.125), ("b", "a", "Add", 0.25)):
        algorithm = f"""train_{name} (float {name}_learning_rate) => (float loss_{name}, float[2] {name}_new)
            <float {name}_learning_rate = {{{rate}}}> {{
                loss_{name} = ReduceSum <keepdims = 0> (y)
                "{name}.grad" = {GRADIENT} <xs = ["{name}"], zs = ["x", "{other}"], y = "loss_{name}">
                    ({name}, x, {other})
                step_{name} = Mul ("{name}.grad", {name}_learning_rate)
                {name}_new = {op_type} ({name}, step_{name}) }}"""
        info = model.training_info.add()
        info.algorithm.CopyFrom(onnx.parser.parse_model(f"{HEADER} {algorithm}").graph)
        info.update_binding.add(key=name, value=f"{name}_new")
    return model


ONES = {"x": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("entry", "trained", "kept"), [(0, "a", "b"), (1, "b", "a"), ("train_a", "a", "b"), ("train_b", "b", "a")]
)
def test_a_step_is_chosen_by_position_or_name_and_trains_its_own(entry: int | str, trained: str, kept: str):
    model = adversaries()
    assert lint(model) == []
    session = session_of(model, entry)
    before = {name: session.read(name) for name in "ab"}
    assert session.loss_name == f"loss_{trained}"
    assert float(session.step(ONES)) == 11
    assert (session.read(trained) != before[trained]).all()
    np.testing.assert_array_equal(session.read(kept), before[kept])
    saved = session.to_model()
    for a, b in zip(saved.training_info, model.training_info, strict=True):
        assert a.algorithm.node == b.algorithm.node and a.update_binding == b.update_binding
    values = {t.name: onnx.numpy_helper.to_array(t) for t in saved.graph.initializer}
    np.testing.assert_array_equal(values[trained], session.read(trained))
    np.testing.assert_array_equal(values[kept], before[kept])


def test_sessions_of_two_steps_take_turns():
    model = adversaries()
    first, second = session_of(model, "train_a"), session_of(model, "train_b")
    a, b = np.array([1, 2.0]), np.array([3, 4.0])
    for _ in range(4):
        assert float(first.step(ONES)) == pytest.approx(float((a * b).sum()))
        a = a - 0.125 * b
        second.copy_weights(first)
        np.testing.assert_allclose(second.evaluate(ONES)["y"][0], a * b, rtol=1e-6)
        assert float(second.step(ONES)) == pytest.approx(float((a * b).sum()))
        b = b + 0.25 * a
        first.copy_weights(second)
        np.testing.assert_allclose(first.evaluate(ONES)["y"][0], a * b, rtol=1e-6)
    np.testing.assert_allclose(first.read("a"), a, rtol=1e-6)
    np.testing.assert_allclose(first.read("b"), b, rtol=1e-6)


def test_a_checkpoint_of_one_step_is_read_by_the_other(tmp_path: Path):
    session = session_of(adversaries(), "train_a")
    session.step(ONES)
    session.learning_rate = 0.5
    session.save(tmp_path / "checkpoint.onnx")
    other = TrainingSession(tmp_path / "checkpoint.onnx", "cpu", training_info="train_b")
    np.testing.assert_array_equal(other.read("a"), session.read("a"))
    assert other.learning_rate == 0.25
    again = TrainingSession(tmp_path / "checkpoint.onnx", "cpu", training_info="train_a")
    assert again.learning_rate == 0.5


def test_several_devices_take_a_step_by_name():
    model = adversaries()
    session = ParallelTrainingSession(model, ["cpu", "cpu"], training_info="train_b")
    one = session_of(model, "train_b")
    batch = {"x": np.array([[1, 2], [3, 4]], np.float32)}
    for _ in range(2):
        assert float(session.step(batch)) == pytest.approx(float(one.step(batch)))
    np.testing.assert_allclose(session.read("b"), one.read("b"), rtol=1e-6)
    np.testing.assert_array_equal(session.read("a"), one.read("a"))


def test_the_steps_of_a_merged_model_are_found_by_their_names():
    widen = parsed("f (float[N, 3] narrow) => (float[N, 6] wide) { wide = Concat <axis = 1> (narrow, narrow) }")
    first, second = adam(), Program("regression", "momentum", 18).model()
    merged = merge(merge(first, widen, {"output": "narrow"}), second, {"wide": "x"}, prefix1="a/", prefix2="b/")
    batch = feeds(first, 6)
    one = session_of(merged, "a/training")
    assert float(one.step({f"a/{name}": array for name, array in batch.items()})) == float(
        session_of(first).step(batch)
    )
    two = session_of(merged, "b/training")
    target = np.ones((6, 3), np.float32)
    losses = [float(two.step({"a/x": batch["x"], "b/y": target})) for _ in range(20)]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(two.read("a/dense1.w"), session_of(first).read("dense1.w"))


# Errors


@pytest.mark.parametrize("entry", [2, -1, "train_c"])
def test_a_step_that_the_file_does_not_have_is_an_error(entry: int | str):
    with pytest.raises(rm.ConversionError) as error:
        session_of(adversaries(), entry)
    assert str(error.value) == (
        f"training: training_info must be 0 to 1 or the name of one algorithm, got {entry!r}. There are: train_a, "
        "train_b."
    )


def test_a_name_of_two_steps_is_an_error():
    model = adversaries()
    model.training_info[1].algorithm.name = "train_a"
    with pytest.raises(rm.ConversionError) as error:
        session_of(model, "train_a")
    assert str(error.value) == (
        "training: training_info must be 0 to 1 or the name of one algorithm, got 'train_a'. There are: train_a, "
        "train_a."
    )
