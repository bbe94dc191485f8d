"""`TrainingSession`: steps, what they are fed, evaluation, the learning rate, and what an error leaves unchanged."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx
from renom_onnx.runtime import Loss, TrainingSession
from renom_onnx.runtime.feed import MAX_SIGNATURES
from renom_onnx.runtime.sizes import MAX_FIXED_SESSIONS, BySize
from tests.converters.programs import Program, classes, features, feeds, graph, perceptron
from tests.converters.test_training_file import stock_session

Array = np.ndarray[Any, Any]


def session_of(loss: str = "mlp", optimizer: str = "Adam", **options: Any) -> TrainingSession:
    return TrainingSession(Program(loss, optimizer, 18).model(), "cpu", threads=1, **options)


def batch(rows: int = 4, seed: int = 0) -> dict[str, Array]:
    return feeds(Program("mlp", "Adam", 18).model(), rows, seed)


def state(session: TrainingSession) -> dict[str, Array]:
    model = session.to_model()
    tensors = [*model.graph.initializer, *model.training_info[0].algorithm.initializer]
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors}


def assert_same(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(b[name], value, strict=True, err_msg=name)


def assert_trains_on(session: TrainingSession, before: dict[str, Array]) -> None:
    """A session that refused something goes on as one that never was asked."""
    assert_same(state(session), before)
    other = session_of()
    for name in session.parameters:
        other.write(name, before[name])
    for name, array in before.items():
        if ".adam_" in name or name in ("step", "learning_rate"):
            other.write(name, array)
    assert [float(session.step(batch(4, i))) for i in range(3)] == [float(other.step(batch(4, i))) for i in range(3)]
    assert_same(state(session), state(other))


# What a session tells


def test_a_session_tells_its_feeds_outputs_targets_and_parameters():
    session = session_of("summed")
    assert [f"{f.name} {f.dtype}{list(f.shape or ())}" for f in session.feeds] == [
        "x float32['N', 6]",
        "y int64['N']",
        "learning_rate float32[]",
    ]
    assert session.outputs == ("output1", "output2")
    assert session.targets == ("y",)
    assert session.loss_name == "loss"
    names = ["dense1.w", "dense1.b", "dense2.w", "dense2.b", "dense3.w", "dense3.b"]
    assert list(session.parameters) == names


def test_parameters_are_copies():
    session = session_of()
    session.parameters["dense1.w"][:] = 0
    session.read("dense1.w")[:] = 0
    assert session.parameters["dense1.w"].all()


def test_a_written_parameter_is_the_one_of_the_next_step():
    session, other = session_of(), session_of()
    other.step(batch())
    for name, array in other.parameters.items():
        session.write(name, array)
    assert float(session.step(batch())) == float(other.evaluate(batch())["loss"])


# Steps


def test_steps_make_the_loss_smaller():
    session = session_of()
    losses = [float(session.step(batch(8))) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_loss_of_a_step_is_that_before_the_update():
    session = session_of()
    expected = session.evaluate(batch())["loss"]
    assert float(session.step(batch())) == expected
    assert session.evaluate(batch())["loss"] < expected


def test_a_loss_that_is_read_late_is_still_its_own():
    eager, late = session_of(), session_of()
    wanted = [float(eager.step(batch(4, i))) for i in range(5)]
    losses = [late.step(batch(4, i)) for i in range(5)]
    late.evaluate(batch(3))
    assert [float(loss) for loss in losses] == wanted
    assert [float(loss) for loss in reversed(losses)] == wanted[::-1]
    assert len(set(wanted)) == 5


def test_a_loss_prints_as_its_number():
    loss = session_of().step(batch())
    assert repr(loss) == repr(float(loss))
    assert f"{loss:.3f}" == f"{float(loss):.3f}"
    assert repr(Loss.of(0.25)) == "0.25"


def test_short_batches_train_like_any_other():
    session = session_of()
    reference = session_of()
    for rows in (4, 4, 3, 4, 1):
        expected = reference.evaluate(batch(rows))["loss"]
        assert float(session.step(batch(rows))) == pytest.approx(expected, rel=1e-6)
        reference = TrainingSession(session.to_model(), "cpu", threads=1)


def test_more_batch_sizes_than_fixed_sessions_give_the_same_numbers():
    sizes = [4, 1, 7, 2, 5, 3, 6, 4, 1, 7, 2, 5]
    assert len(set(sizes)) > MAX_FIXED_SESSIONS + 1
    session, single = session_of(), session_of()
    for i, rows in enumerate(sizes):
        loss = float(session.step(batch(rows, i)))
        single._runs, single._known = BySize(), {}  # a session of its own for every step
        assert loss == pytest.approx(float(single.step(batch(rows, i))), rel=1e-6)
    assert len(session._runs) == MAX_FIXED_SESSIONS + 1
    for name, value in state(session).items():  # a session for all sizes has the bodies of the file
        np.testing.assert_allclose(state(single)[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_feeds_that_were_checked_are_not_checked_again_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch):
    session = session_of()
    session.step(batch(4))
    with monkeypatch.context() as patch:
        patch.setattr("renom_onnx.runtime.training.check_feeds", None)
        session.step(batch(4, 1))
        with pytest.raises(TypeError):
            session.step(batch(5))
    for rows in range(1, MAX_SIGNATURES + 3):
        session.step(batch(rows))
    assert len(session._known) == MAX_SIGNATURES


def test_an_empty_batch_runs_and_opens_no_session_of_its_own():
    session = session_of("regression", "Sgd")
    model = Program("regression", "Sgd", 18).model()
    session.step(feeds(model, 0))
    session.step(feeds(model, 0))
    assert (len(session._runs), len(session._runs._fixed)) == (1, 0)


def test_lists_and_numbers_are_taken_where_their_type_is_plain():
    session = session_of()
    session.step({**batch(), "learning_rate": 0.5})
    assert session.learning_rate == 0.5


def test_arrays_that_are_not_contiguous_are_read_right():
    session, other = session_of(), session_of()
    x, y = batch(8)["x"], batch(8)["y"]
    strided = {"x": np.asfortranarray(x)[::2], "y": y[::2]}
    assert not strided["x"].flags.c_contiguous
    assert float(session.step(strided)) == float(other.step({k: v.copy() for k, v in strided.items()}))


def test_a_batch_is_copied():
    session, other = session_of(), session_of()
    changed = batch()
    losses = []
    for i in range(3):
        for name, array in batch(4, i).items():
            changed[name][:] = array
        losses.append(session.step(changed))
    assert [float(loss) for loss in losses] == [float(other.step(batch(4, i))) for i in range(3)]


def test_two_sessions_do_not_disturb_each_other():
    alone, a, b = session_of(), session_of(), session_of("mlp", "Sgd")
    wanted = [float(alone.step(batch(4, i))) for i in range(4)]
    got = []
    for i in range(4):
        got.append(a.step(batch(4, i)))
        b.step(batch(4, i))
    assert [float(loss) for loss in got] == wanted


# Evaluation


@pytest.mark.parametrize("loss", ["mlp", "summed", "shared", "frozen"])
def test_evaluate_gives_what_a_stock_runtime_infers_from_the_saved_file(loss: str):
    session = session_of(loss)
    model = Program(loss, "Adam", 18).model()
    session.step(feeds(model, 4))
    data = {"x": feeds(model, 5, 1)["x"]}
    got = session.evaluate(data)
    assert tuple(got) == session.outputs
    for name, value in zip(session.outputs, stock_session(session.to_model()).run(None, data), strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


def test_evaluate_returns_the_loss_where_the_targets_are_fed():
    session = session_of()
    assert list(session.evaluate(batch())) == ["output", "loss"]
    assert list(session.evaluate({"x": batch()["x"]})) == ["output"]


def test_evaluate_changes_nothing():
    session, other = session_of(), session_of()
    session.step(batch())
    other.step(batch())
    before = state(session)
    for rows in (2, 9, 4):
        session.evaluate(batch(rows))
        session.evaluate({"x": batch(rows)["x"]})
    assert_same(state(session), before)
    assert float(session.step(batch())) == float(other.step(batch()))


def test_evaluate_sees_the_weights_of_the_latest_step():
    session = session_of()
    for i in range(4):
        expected = session.evaluate(batch(4, i))["loss"]
        assert float(session.step(batch(4, i))) == expected


def test_what_evaluate_returned_stays():
    session = session_of()
    first = session.evaluate(batch())["output"]
    kept = first.copy()
    session.step(batch())
    session.evaluate(batch())
    np.testing.assert_array_equal(first, kept)


# The learning rate


def test_the_learning_rate_of_the_file_is_the_default():
    assert session_of("mlp", "Sgd").learning_rate == np.float32(0.05)


def test_a_learning_rate_that_is_set_or_fed_counts_for_the_next_steps():
    by_feed, by_property = session_of("mlp", "Sgd"), session_of("mlp", "Sgd")
    by_feed.step({**batch(), "learning_rate": np.array(0.2, np.float32)})
    by_feed.step(batch(4, 1))
    by_property.learning_rate = 0.2
    by_property.step(batch())
    by_property.step(batch(4, 1))
    assert by_feed.learning_rate == np.float32(0.2)
    assert_same(state(by_feed), state(by_property))


def test_a_learning_rate_of_zero_changes_no_parameter():
    session = session_of("mlp", "Sgd")
    session.learning_rate = 0
    before = session.parameters
    session.step(batch())
    assert_same(session.parameters, before)


# Errors


FEEDS = "one of learning_rate, x, y"
WRONG: dict[str, tuple[Callable[[dict[str, Array]], dict[str, Any]], type[rm.RenomError], str]] = {
    "missing": (
        lambda b: {"x": b["x"]}, rm.ShapeError, "every input must be fed, got 'x', but 'y' is missing.",
    ),
    "none": (lambda b: {}, rm.ShapeError, "every input must be fed, got none, but 'x' is missing."),
    "unknown": (
        lambda b: {**b, "z": b["x"]}, rm.ShapeError, f"a feed must be {FEEDS}, got 'z'.",
    ),
    "wrong float": (
        lambda b: {**b, "x": b["x"].astype("float64")}, rm.DTypeError,
        'feed \'x\' must be float32[N, 6], got float64[4, 6]. Convert with x.astype("float32").',
    ),
    "wrong integer": (
        lambda b: {**b, "y": b["y"].astype("int32")}, rm.DTypeError,
        'feed \'y\' must be int64[N], got int32[4]. Convert with y.astype("int64").',
    ),
    "text": (
        lambda b: {**b, "y": np.array(["a"] * 4)}, rm.DTypeError,
        'feed \'y\' must be int64[N], got str32[4]. Convert with y.astype("int64").',
    ),
    "a list of floats": (
        lambda b: {**b, "x": b["x"].tolist()}, rm.DTypeError,
        'feed \'x\' must be float32[N, 6], got float64[4, 6]. Convert with x.astype("float32").',
    ),
    "wrong size": (
        lambda b: {**b, "x": b["x"][:, :5]}, rm.ShapeError, "feed 'x' must be float32[N, 6], got float32[4, 5].",
    ),
    "wrong rank": (
        lambda b: {**b, "x": b["x"][0]}, rm.ShapeError, "feed 'x' must be float32[N, 6], got float32[6].",
    ),
    "two sizes of N": (
        lambda b: {**b, "y": b["y"][:3]}, rm.ShapeError,
        "feed 'y' must be int64[N] with N = 4 as in the feeds before it, got int64[3].",
    ),
    "learning rate of another shape": (
        lambda b: {**b, "learning_rate": np.ones(1, np.float32)}, rm.ShapeError,
        "feed 'learning_rate' must be float32[], got float32[1].",
    ),
    "learning rate of another type, after right feeds": (
        lambda b: {**b, "learning_rate": np.array(0.1)}, rm.DTypeError,
        "feed 'learning_rate' must be float32[], got float64[]. Convert with learning_rate.astype(\"float32\").",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_feed_that_does_not_fit_is_told_and_changes_nothing(name: str):
    spoil, kind, message = WRONG[name]
    session = session_of()
    session.step(batch())
    before = state(session)
    with pytest.raises(kind) as error:
        session.step(spoil(batch()))
    assert str(error.value) == f"TrainingSession.step: {message}"
    assert_trains_on(session, before)


def test_evaluate_tells_a_missing_target_and_a_foreign_feed():
    session = session_of("summed")
    with pytest.raises(rm.ShapeError) as error:
        session.evaluate({"y": batch()["y"]})
    assert str(error.value) == "TrainingSession.evaluate: every input must be fed, got 'y', but 'x' is missing."
    with pytest.raises(rm.ShapeError) as error:
        session.evaluate({"x": batch()["x"], "z": batch()["x"]})
    assert str(error.value) == "TrainingSession.evaluate: a feed must be one of x, got 'z'."


def test_a_write_that_does_not_fit_is_told_and_changes_nothing():
    session = session_of()
    before = state(session)
    with pytest.raises(rm.ShapeError) as error:
        session.write("dense1.b", np.zeros((2, 8), np.float32))
    assert str(error.value) == "dense1.b: an array must have shape [1, 8], got [2, 8]."
    with pytest.raises(rm.DTypeError) as error:
        session.write("dense1.b", np.zeros((1, 8)))
    assert str(error.value) == "dense1.b: an array must be float32, got float64."
    with pytest.raises(rm.ConversionError) as error:
        session.write("nobody", np.zeros(1))
    names = "step, dense1.w, dense1.w.adam_m, dense1.w.adam_v, dense1.b, dense1.b.adam_m, dense1.b.adam_v, "
    names += names.removeprefix("step, ").replace("dense1", "dense2")
    assert str(error.value) == f"TrainingSession.write: the name must be one of {names}learning_rate, got 'nobody'."
    with pytest.raises(rm.ConversionError) as error:
        session.read("nobody")
    assert str(error.value) == f"TrainingSession.read: the name must be one of {names}learning_rate, got 'nobody'."
    assert_trains_on(session, before)


def folded() -> onnx.ModelProto:
    """A program that only batches of 3 rows fit."""
    rm.set_seed(0)
    x = graph.DistributorElement(features(6), classes(6), batch_size=3).get_output_graphs()[0]
    return to_training_onnx(graph.ConstantLoss()(graph.square(perceptron()(x).reshape(3, 3))), graph.Adam(0.01))


def test_an_error_of_onnxruntime_is_told_and_changes_nothing():
    session, other = (TrainingSession(folded(), "cpu", threads=1) for _ in range(2))
    first = session.step({"x": features(3)})
    before = state(session)
    with pytest.raises(rm.RunError) as error:
        session.step({"x": features(4), "learning_rate": np.array(9, np.float32)})
    assert str(error.value).startswith("TrainingSession.step: onnxruntime stopped, got: ")
    assert str(error.value).endswith(
        "The input tensor cannot be reshaped to the requested shape. Input shape:{4,3}, requested shape:{3,3}."
    )
    with pytest.raises(rm.RunError) as error:
        session.evaluate({"x": features(4)})
    assert str(error.value) == (
        "TrainingSession.evaluate: onnxruntime stopped, got: Error in execution: Non-zero status code returned while "
        "running Reshape node. Name:'Reshape1' Status Message: The input tensor cannot be reshaped to the requested "
        "shape. Input shape:{4,3}, requested shape:{3,3}."
    )
    assert_same(state(session), before)
    assert float(first) == float(other.step({"x": features(3)}))
    assert float(session.step({"x": features(3)})) == float(other.step({"x": features(3)}))


def test_an_executor_answers_an_error_of_onnxruntime_with_the_users_line():
    rm.set_seed(0)
    x, _ = graph.DistributorElement(features(7), classes(7), batch_size=4, shuffle=False).get_output_graphs()
    row = perceptron()(x).reshape(4, 3)
    loss = graph.ConstantLoss()(graph.square(row))
    line = row.output.node.site[1]
    text = "The input tensor cannot be reshaped to the requested shape. Input shape:{3,3}, requested shape:{4,3}."
    for executor in (loss.get_training_executor(graph.Sgd(0.1), ["cpu"]), loss.get_inference_executor(device="cpu")):
        with pytest.raises(rm.RunError) as error:
            executor.execute(progress=False)
        assert str(error.value) == (
            f"Reshape: onnxruntime stopped, got: {text} Created at test_training_session.py:{line}."
        )


def test_an_executor_finds_the_users_line_of_an_error_in_a_gradient():
    rm.set_seed(0)
    x, _ = graph.DistributorElement(features(7), classes(7), batch_size=4, shuffle=False).get_output_graphs()
    row = perceptron()(x).reshape(4, 3)
    loss = graph.ConstantLoss()(row)  # whose gradient does not read the row, which is left out of the step
    line = row.output.node.site[1]
    with pytest.raises(rm.RunError) as error:
        loss.get_training_executor(graph.Sgd(0.1), ["cpu"]).execute(progress=False)
    assert str(error.value).startswith(("ReshapeGrad: onnxruntime stopped", "Reshape: onnxruntime stopped"))
    assert str(error.value).endswith(f"Created at test_training_session.py:{line}.")


def test_a_model_without_a_training_step_is_an_error():
    model = to_onnx(perceptron(), inputs={"x": ("N", 6)})
    with pytest.raises(rm.ConversionError) as error:
        TrainingSession(model, "cpu")
    assert str(error.value) == (
        "training: a model must hold training_info, got one with 0 entries. Write it with rm.export_training."
    )


def test_a_binding_of_nobody_is_an_error():
    model = Program("mlp", "Sgd", 18).model()
    model.training_info[0].update_binding[0].key = "nobody"
    with pytest.raises(rm.ConversionError) as error:
        TrainingSession(model, "cpu")
    assert str(error.value) == "training: update_binding must name initializers, got nobody, which is none."


def test_an_algorithm_without_a_loss_is_an_error():
    model = Program("mlp", "Sgd", 18).model()
    del model.training_info[0].algorithm.output[0]
    with pytest.raises(rm.ConversionError) as error:
        TrainingSession(model, "cpu")
    assert str(error.value) == "training: the algorithm must have the loss among its outputs, got only next values."


def test_an_operator_that_onnxruntime_does_not_know_is_an_error_when_a_step_is_taken():
    model = Program("mlp", "Sgd", 18).model()
    model.training_info[0].algorithm.node[0].op_type = "Nothing"
    session = TrainingSession(model, "cpu")
    with pytest.raises(rm.RunError) as error:
        session.step(batch())
    assert str(error.value).startswith("onnxruntime refused the model: ")
    assert "Nothing" in str(error.value)


# Memory


@pytest.mark.parametrize("optimizer", ["Sgd", "momentum", "Adam"])
def test_a_step_allocates_no_array_as_large_as_a_parameter(optimizer: str):
    rm.set_seed(0)
    loss = graph.SoftmaxCrossEntropy()(graph.Sequential([graph.Dense(4096), graph.Dense(3)])(features(8)), classes(8))
    model = to_training_onnx(
        loss, {"Sgd": graph.Sgd(0.1), "momentum": graph.Sgd(0.1, 0.9), "Adam": graph.Adam()}[optimizer]
    )
    session = TrainingSession(model, "cpu", threads=1)
    smallest = 4096 * 4  # bytes of dense1.b; dense2.b has three numbers
    for _ in range(3):
        session.step(batch())
    tracemalloc.start()
    try:
        for _ in range(10):
            session.step(batch_of_zeros)
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < smallest, f"10 steps allocated {peak} bytes at once and kept {current}"


batch_of_zeros = {"x": np.zeros((4, 6), np.float32), "y": np.zeros(4, np.int64)}
