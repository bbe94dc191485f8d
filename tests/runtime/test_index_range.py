"""Labels and indices out of range: what is said, from every way to run a model, and that nothing was changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import renom_onnx as rm
import renom_onnx.graph as g
from renom_onnx.converters import index_read, to_onnx, to_training_onnx
from renom_onnx.runtime import InferencePool, InferenceSession, ParallelTrainingSession, TrainingSession
from tests.messages import message_of

NODE = "It is node 'softmax_cross_entropy1/SoftmaxCrossEntropyLoss' of the model."
TOO_LARGE = (
    "SoftmaxCrossEntropyLoss: labels must be 0 to 2, for 3 classes, got 'y' with 6 in row 5. Labels count from 0: "
    "correct them, or give '{scores}' 7 classes. "
)


def rows(n: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)


def good() -> dict[str, Any]:
    return {"x": rows(8), "y": np.arange(8) % 3}


def bad(value: int = 6, row: int = 5) -> dict[str, Any]:
    feeds = good()
    feeds["y"][row] = value
    return feeds


def classifier(y: Any = None, **settings: Any) -> g.GraphElement:
    rm.set_seed(0)
    return g.SoftmaxCrossEntropy(**settings)(g.Dense(3)(rows(8)), good()["y"] if y is None else y)


def model(optimizer: g.Optimizer | None = None) -> onnx.ModelProto:
    return to_training_onnx(classifier(), optimizer or g.Adam(0.1))


SESSIONS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "session": lambda proto: TrainingSession(proto, "cpu", threads=1),
    "parallel": lambda proto: ParallelTrainingSession(proto, ["cpu", "cpu", "cpu"]),
}


@pytest.mark.parametrize("optimizer", [g.Sgd(0.1), g.Adam(0.1)], ids=["Sgd", "Adam"])
@pytest.mark.parametrize("kind", SESSIONS)
def test_a_step_names_the_label_and_changes_nothing(kind: str, optimizer: g.Optimizer):
    session, other = (SESSIONS[kind](model(optimizer)) for _ in range(2))
    for each in (session, other):
        each.step(good())
    before = {name: session.read(name) for name in session._held()}
    for _ in range(2):
        with pytest.raises(rm.IndexRangeError) as error:
            session.step(bad() | {"learning_rate": np.array(7, np.float32)})
        assert str(error.value) == TOO_LARGE.format(scores="output") + NODE
        assert "out of" in str(error.value.__cause__).lower()
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value, err_msg=name)
    assert [float(session.step(good())) for _ in range(2)] == [float(other.step(good())) for _ in range(2)]


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_prepared_step_and_an_evaluation_name_the_label_too(kind: str):
    session = SESSIONS[kind](model())
    session.step(good())
    before = session.parameters
    for run in (lambda: session.step(session.prepare(bad())), lambda: session.evaluate(bad())):
        with pytest.raises(rm.IndexRangeError) as error:
            run()
        assert str(error.value) == TOO_LARGE.format(scores="output") + NODE
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value)


@pytest.mark.parametrize("kind", SESSIONS)
def test_the_first_batch_is_looked_at_before_it_is_run(kind: str):
    """A label below 0 is one that kernels take for a class counted from the end."""
    session = SESSIONS[kind](model())
    before = session.parameters
    with pytest.raises(rm.IndexRangeError) as error:
        session.step(bad(-1))
    assert str(error.value) == (
        "SoftmaxCrossEntropyLoss: labels must be 0 to 2, for 3 classes, got 'y' with -1 in row 5. Labels count from 0: "
        "correct them, or leave those out with ignore_index=-1. " + NODE
    )
    assert error.value.__cause__ is None
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value)


def test_later_batches_are_not_looked_at(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    monkeypatch.setattr("renom_onnx.runtime.index_range._refuse", lambda *_: calls.append("looked"))
    session = TrainingSession(model(), "cpu", threads=1)
    for _ in range(5):
        session.step(good())
    assert calls == ["looked"]


def test_types_are_inferred_only_for_models_that_are_fed_indices(monkeypatch: pytest.MonkeyPatch):
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("renom_onnx.converters.index_read.inferred_types", never)
    loss = g.MeanSquared()(g.Dense(1)(rows(8)), np.zeros((8, 1), np.float32))
    TrainingSession(to_training_onnx(loss, g.Sgd(0.1)), "cpu").step({"x": rows(8), "y": np.zeros((8, 1), np.float32)})


WORDS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "labels from 1": (
        {},
        good()["y"] + 1,
        "labels must be 0 to 2, for 3 classes, got 'y' with 3 in row 2. Labels count from 0: subtract 1. ",
    ),
    "both ends": (
        {},
        [0, 1, 2, -5, 1, 0, 30, 1],
        "labels must be 0 to 2, for 3 classes, got 'y' with -5 in row 3 and 30 in row 6. Labels count from 0: correct "
        "them, or give '{scores}' 31 classes. ",
    ),
    "an ignored class": (
        {"ignore_index": -1},
        [0, -1, -1, -5, 1, 0, 0, 1],
        "labels must be 0 to 2, for 3 classes, or -1, which is ignored, got 'y' with -5 in row 3. Labels count from 0: "
        "correct them, or leave those out with ignore_index=-5. ",
    ),
}


@pytest.mark.parametrize(("settings", "y", "words"), WORDS.values(), ids=WORDS)
def test_an_executor_tells_of_its_data_when_it_is_made(settings: dict[str, Any], y: Any, words: str):
    loss = classifier(np.array(y), **settings)
    with pytest.raises(rm.IndexRangeError) as error:
        loss.get_training_executor(g.Sgd(0.1), ["cpu"])
    line = loss.output.node.site[1]
    created = f"Created at {Path(__file__).name}:{line}."
    assert str(error.value) == f"SoftmaxCrossEntropyLoss: {words.format(scores='output')}{created}"


def test_ignored_labels_are_in_range():
    executor = classifier(np.array([0, 1, 2, 9, 1, 9, 0, 1]), ignore_index=9).get_training_executor(g.Sgd(0.1), ["cpu"])
    assert np.isfinite(executor.step())


def batches(y: Any) -> g.DistributorElement:
    return g.DistributorElement(rows(8), y, batch_size=4, shuffle=False)


def dealt_loss(y: Any) -> tuple[g.GraphElement, str]:
    rm.set_seed(0)
    x, t = batches(y).get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Dense(3)(x), t)
    return loss, f"Created at {Path(__file__).name}:{loss.output.node.site[1]}."


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["session", "parallel"])
def test_an_executor_tells_of_what_its_data_become_with_the_users_line(devices: list[str]):
    y = good()["y"]
    loss, created = dealt_loss(y)
    executor = loss.get_training_executor(g.Sgd(0.1), devices)
    executor.execute(progress=False)
    y[5] = 6
    with pytest.raises(rm.IndexRangeError) as error:
        executor.execute(progress=False)
    words = TOO_LARGE.format(scores="output").replace("row 5", "row 1")  # of the second batch
    assert str(error.value) == words + created


@pytest.mark.parametrize(("is_ahead", "row", "of_batch"), [(False, 5, 1), (True, 2, 2)], ids=["in step", "ahead"])
def test_an_executor_tells_of_rows_that_are_read_when_they_are_needed(
    tmp_path: Path, is_ahead: bool, row: int, of_batch: int
):
    np.save(tmp_path / "y.npy", bad(row=row)["y"])
    loss, created = dealt_loss(np.load(tmp_path / "y.npy", mmap_mode="r"))
    executor = loss.get_training_executor(g.Sgd(0.1), ["cpu"], feed_ahead=is_ahead)
    with pytest.raises(rm.IndexRangeError) as error:
        executor.execute(progress=False)
    assert str(error.value) == TOO_LARGE.format(scores="output").replace("row 5", f"row {of_batch}") + created


def test_an_executor_tells_of_validation_data_before_it_trains():
    loss, created = dealt_loss(good()["y"])
    executor = loss.get_training_executor(g.Sgd(0.1), ["cpu"])
    before = executor.session.parameters
    for validation in ((rows(8), bad()["y"]), batches(bad()["y"])):
        with pytest.raises(rm.IndexRangeError) as error:
            executor.execute(progress=False, validation=validation)
        assert str(error.value) == TOO_LARGE.format(scores="output") + created
    for name, value in before.items():
        np.testing.assert_array_equal(executor.session.read(name), value)


def test_data_that_stay_on_a_device_are_looked_at_when_they_get_there():
    with pytest.raises(rm.IndexRangeError) as error:
        TrainingSession(model(), "cpu", resident=bad())
    assert str(error.value) == TOO_LARGE.format(scores="output") + NODE


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["session", "pool"])
def test_predictions_and_validations_name_the_index(devices: list[str]):
    rm.set_seed(0)
    indices = np.array([[0, 1], [2, 9]])
    found = g.Embedding(3, vocabulary=5)(indices)
    created = f"Created at {Path(__file__).name}:{found.output.node.site[1]}."
    words = (
        "Gather: indices must be -5 to 4, for 5 along axis 0 of 'embedding1.w', got 'x' with 9 in row 1. Indices count "
        "from 0: correct them, or make 'embedding1.w' larger. "
    )
    executor = found.get_inference_executor(devices=devices)
    for run in (executor.predict, executor.execute):
        with pytest.raises(rm.IndexRangeError) as error:
            run()
        assert str(error.value) == words + created


def test_sessions_and_pools_name_the_index_of_any_model():
    rm.set_seed(0)
    proto = to_onnx(g.Embedding(3, vocabulary=5)(np.array([[0, 1]])))
    words = (
        "Gather: indices must be -5 to 4, for 5 along axis 0 of 'embedding1.w', got 'x' with -6 in row 0 and 5 in "
        "row 1. Indices count from 0: correct them, or make 'embedding1.w' larger. It is node 'embedding1/Gather' of "
        "the model."
    )
    feeds = {"x": np.array([[-6, 0], [1, 5], [5, 4]])}
    session = InferenceSession(proto, "cpu")
    with InferencePool(proto, ["cpu"]) as pool:
        for run in (session.run, pool.run):
            with pytest.raises(rm.IndexRangeError) as error:
                run(feeds)
            assert str(error.value) == words
            run({"x": np.array([[0, 0], [0, 0], [-5, 4]])})
            with pytest.raises(rm.IndexRangeError) as error:
                run(feeds)
            assert str(error.value) == words


EAGER: dict[str, tuple[Callable[[], object], str]] = {
    "loss": (
        lambda: g.SoftmaxCrossEntropy()(rows(8), bad()["y"]).as_ndarray(),
        "SoftmaxCrossEntropyLoss: labels must be 0 to 3, for 4 classes, got 'y' with 6 in row 5. Labels count from 0: "
        "correct them, or give 'x' 7 classes. {created}",
    ),
    "gradient": (
        lambda: g.SoftmaxCrossEntropy()(rows(8), good()["y"] + 2).backward().as_ndarray(),
        "SoftmaxCrossEntropyLoss: labels must be 0 to 3, for 4 classes, got 'y' with 4 in row 2. Labels count from 0: "
        "subtract 1. {created}",
    ),
    "embedding": (
        lambda: g.Embedding(3, vocabulary=5)(np.array([[0, 7]])).as_ndarray(),
        "Gather: indices must be -5 to 4, for 5 along axis 0 of 'embedding1.w', got 'x' with 7 in row 0. Indices count "
        "from 0: correct them, or make 'embedding1.w' larger. {created}",
    ),
}


@pytest.mark.parametrize(("call", "words"), EAGER.values(), ids=EAGER)
def test_an_evaluation_names_the_index_and_the_users_line(call: Callable[[], object], words: str):
    assert message_of(call, rm.IndexRangeError) == words


def test_an_update_of_a_program_names_the_label_and_changes_nothing():
    rm.set_seed(0)
    dense = g.Dense(3)
    loss = g.SoftmaxCrossEntropy()(dense(rows(8)), bad()["y"])
    before = [p.as_ndarray() for p in dense.params.values()]
    with pytest.raises(rm.IndexRangeError) as error:
        loss.update(g.Sgd(0.1))
    assert str(error.value).startswith("SoftmaxCrossEntropyLoss: labels must be 0 to 2, for 3 classes, got 'y' with 6 ")
    for parameter, value in zip(dense.params.values(), before, strict=True):
        np.testing.assert_array_equal(parameter.as_ndarray(), value)


def language_model() -> onnx.ModelProto:
    """A model as an exporter writes it: ids int32, shifted and made positive before they are looked up."""
    table = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Slice", ["ids", "first", "last", "axes"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["found"], name="look_up"),
        helper.make_node("MatMul", ["found", "head"], ["scores"], name="score"),
        helper.make_node("ReduceMean", ["scores", "axes"], ["output"], keepdims=0),
    ]
    constants = {"first": [1], "last": [9], "axes": [1]}
    weights = [onnx.numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items()]
    weights += [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(table.T.copy(), "head")]
    made = helper.make_graph(
        nodes,
        "language",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["N", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 6])],
        weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_file_made_trainable_names_indices_and_labels():
    proto = rm.make_trainable(language_model(), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1))
    session = TrainingSession(proto, "cpu", threads=1)
    ids, labels = np.zeros((3, 4), np.int32), np.zeros(3, np.int64)
    ids[:, 0] = 99  # the position that the model does not read
    session.step({"ids": ids, "labels": labels})
    before = session.parameters
    wrong = ids.copy()
    wrong[2, 1] = 6
    for feeds, words in (
        (
            {"ids": wrong, "labels": labels},
            "Gather: indices must be -6 to 5, for 6 along axis 0 of 'table', got 'ids' with 6 in row 2. Indices count "
            "from 0: correct them, or make 'table' larger. It is node 'look_up' of the model.",
        ),
        (
            {"ids": ids, "labels": labels + 6},
            "SoftmaxCrossEntropyLoss: labels must be 0 to 5, for 6 classes, got 'labels' with 6 in row 0. Labels count "
            "from 0: subtract 1. It is node 'softmax_cross_entropy1/SoftmaxCrossEntropyLoss' of the model.",
        ),
    ):
        with pytest.raises(rm.IndexRangeError) as error:
            session.step(feeds)
        assert str(error.value) == words
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value)


def test_an_index_that_a_function_of_the_file_looks_up_is_named():
    look_up = helper.make_function(
        "of.an.exporter",
        "LookUp",
        ["table", "ids"],
        ["found"],
        [helper.make_node("Gather", ["table", "ids"], ["found"], name="gather")],
        [helper.make_opsetid("", 18)],
    )
    nodes = [
        helper.make_node("LookUp", ["table", "ids"], ["found"], domain="of.an.exporter", name="embedding"),
        helper.make_node("ReduceMean", ["found", "axes"], ["y"], keepdims=0),
    ]
    weights = [onnx.numpy_helper.from_array(rows(600), "table"), onnx.numpy_helper.from_array(np.array([1]), "axes")]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    proto = helper.make_model(
        helper.make_graph(nodes, "exported", [ids], [out], weights),
        functions=[look_up],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("of.an.exporter", 1)],
        ir_version=10,
    )
    words = (
        "Gather: indices must be -600 to 599, for 600 along axis 0 of 'table', got 'ids' with 600 in row 1. Indices "
        "count from 0: correct them, or make 'table' larger. It is node '{node}' of the model."
    )
    feeds = {"ids": np.array([[0, 0], [1, 600]])}
    trainable = rm.make_trainable(proto, loss="mean_squared", optimizer=g.Sgd(0.1))
    for run, node in (
        (lambda: InferenceSession(proto, "cpu").run(feeds), "embedding/gather"),
        (lambda: TrainingSession(trainable, "cpu").step({**feeds, "labels": rows(2)}), "embedding/Gather"),
    ):
        with pytest.raises(rm.IndexRangeError) as error:
            run()
        assert str(error.value) == words.format(node=node)


def test_an_index_into_data_is_judged_by_the_sizes_that_were_fed():
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=1, name="pick")]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "C"]) for name in "xy"]
    index = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    made = helper.make_graph(nodes, "pick", [infos[0], index], [helper.make_tensor_value_info("y", 1, ["N"])])
    session = InferenceSession(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "cpu"
    )
    with pytest.raises(rm.IndexRangeError) as error:
        session.run({"x": rows(8), "i": np.array(4)})
    assert str(error.value) == (
        "Gather: indices must be -4 to 3, for 4 along axis 1 of 'x', got 'i' with 4. Indices count from 0: correct "
        "them, or make 'x' larger. It is node 'pick' of the model."
    )


def test_computed_indices_keep_the_words_of_onnxruntime():
    def run() -> None:
        g.Embedding(3, vocabulary=5)(g.StaticVariable(np.array([0, 7])) + 1).as_ndarray()

    with pytest.raises(rm.RunError) as error:
        run()
    message = str(error.value)
    assert message.startswith("Gather: onnxruntime stopped, got: indices element out of data bounds, idx=8 ")


def test_reads_are_found_through_operators_that_keep_numbers():
    found = index_read.index_reads(language_model(), {})
    assert [(read.feed, read.node, read.size, read.is_whole) for read in found] == [("ids", "look_up", 6, False)]
