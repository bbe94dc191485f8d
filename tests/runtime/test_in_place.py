"""Weights and state that a step writes over: the same bits, half of the memory, and nothing lost by an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.in_place import in_place
from renom_onnx.runtime import ParallelTrainingSession, TrainingSession, step_model
from renom_onnx.runtime.specialization import FORMS, for_sizes
from tests.converters.programs import LOSSES, classes, features, feeds, graph, perceptron
from tests.converters.test_data_parallel import model_of, node

OPTIMIZERS: dict[str, Callable[[], graph.Optimizer]] = {
    "Sgd": lambda: graph.Sgd(0.05),
    "momentum": lambda: graph.Sgd(0.05, momentum=0.9),
    "Adam": lambda: graph.Adam(0.01),
}


def attention() -> graph.GraphElement:
    x = np.random.default_rng(0).standard_normal((8, 5, 4)).astype(np.float32)
    block = graph.Sequential([graph.LayerNormalize(), graph.MultiHeadAttention(2), graph.Flatten(), graph.Dense(3)])
    return graph.SoftmaxCrossEntropy()(block(x), classes(8))


def recurrent() -> graph.GraphElement:
    x = np.random.default_rng(0).standard_normal((8, 5, 4)).astype(np.float32)
    return graph.SoftmaxCrossEntropy()(graph.Sequential([graph.Lstm(6), graph.Dense(3)])(x), classes(8))


def convolution(pixels: int) -> graph.GraphElement:
    x = np.random.default_rng(0).standard_normal((8, 6, pixels, pixels)).astype(np.float32)
    layers = [graph.Conv(8), graph.Relu(), graph.Conv(7), graph.GlobalAvgPool(), graph.Flatten(), graph.Dense(3)]
    return graph.SoftmaxCrossEntropy()(graph.Sequential(layers)(x), classes(8))


NETWORKS = {
    "mlp": LOSSES["mlp"],
    "cnn": LOSSES["cnn"],
    "normalized": LOSSES["normalized"],
    "attention": attention,
    "recurrent": recurrent,
    "large images": lambda: convolution(40),
}


def model_with(optimizer: str, loss: Callable[[], graph.GraphElement]) -> onnx.ModelProto:
    rm.set_seed(0)
    return to_training_onnx(loss(), OPTIMIZERS[optimizer]())


def session_of(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, *, ping_pong: bool = False) -> TrainingSession:
    with monkeypatch.context() as patch:
        if ping_pong:
            patch.setattr(step_model, "in_place", lambda *arguments, **options: set())
        return TrainingSession(model, "cpu", threads=1)


def n_bytes(session: TrainingSession) -> int:
    """Of all memory for weights and state."""
    own = session._memory.bindings  # not parts of another's memory
    tensors = {id(state[name]): state[name] for state in session._state.sets for name in own}
    return sum(t.view().nbytes for t in tensors.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_is_the_same_to_the_last_bit(network: str, optimizer: str, monkeypatch: pytest.MonkeyPatch):
    model = model_with(optimizer, NETWORKS[network])
    over, apart = (session_of(model, monkeypatch, ping_pong=p) for p in (False, True))
    assert over._step_model.in_place and not apart._step_model.in_place
    for i in range(20):
        batch = feeds(model, 8 if i % 5 else 3, i)
        assert float(over.step(batch)) == float(apart.step(batch))
    for name in over._held():
        np.testing.assert_array_equal(over.read(name), apart.read(name), err_msg=name)


def test_the_state_of_adam_is_held_once(monkeypatch: pytest.MonkeyPatch):
    model = model_with("Adam", LOSSES["mlp"])
    over, apart = (session_of(model, monkeypatch, ping_pong=p) for p in (False, True))
    sizes = {name: over.read(name).nbytes for name in over._step.bindings}
    assert n_bytes(apart) == 2 * sum(sizes.values())
    # Also the weights: where they are updated together, all gradients are there first. The count of steps is not, which
    # goes on before any label was looked at.
    assert n_bytes(over) == sum(sizes.values()) + sizes["step"]


def test_weights_that_the_gradient_below_reads_are_held_twice(monkeypatch: pytest.MonkeyPatch):
    session = session_of(model_with("Sgd", LOSSES["mlp"]), monkeypatch)
    assert session.held_once == {"dense1.w", "dense1.b", "dense2.b"}


def test_kernels_whose_gradient_is_made_in_steps_hold_state_once(monkeypatch: pytest.MonkeyPatch):
    models = [model_with("Sgd", lambda pixels=pixels: convolution(pixels)) for pixels in (6, 40)]
    scans = [sum(n.op_type == "Scan" for f in model.functions for n in f.node) for model in models]
    assert scans == [0, 2]
    small, large = (session_of(model, monkeypatch).held_once for model in models)
    assert small == large >= {"conv1.w", "conv2.b", "dense1.b"}


def test_what_is_held_once_is_told_by_its_own_names():
    model = model_with("Adam", LOSSES["mlp"])
    alone, several = TrainingSession(model, "cpu"), ParallelTrainingSession(model, ["cpu", "cpu"])
    assert alone.held_once == set(alone._step.bindings) - {"step"}
    assert several.held_once == set(alone._step.bindings)  # labels were looked at in the stages before


def pooled() -> graph.GraphElement:
    x = np.random.default_rng(0).standard_normal((8, 3, 6, 6)).astype(np.float32)
    layers = [graph.Conv(4, kernel=3), graph.Relu(), graph.MaxPool(2, stride=2), graph.Flatten(), graph.Dense(3)]
    return graph.SoftmaxCrossEntropy()(graph.Sequential(layers)(x), classes(8))


@pytest.mark.parametrize("form", ["updates", "pooling", "both"])
def test_a_form_that_reads_a_weight_later_than_the_filed_one_is_left_out(
    form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Which form a step has is told here by what nothing else makes: no functions, or Max."""
    model = model_with("Sgd", pooled)
    safe, opened = step_model.in_place, []

    def less(proto: onnx.ModelProto, *arguments: Any, **options: Any) -> set[str]:
        found = safe(proto, *arguments, **options)
        made_by = {"updates": not proto.functions, "pooling": any(n.op_type == "Max" for n in proto.graph.node)}
        broken = any(made_by.values()) if form == "both" else made_by[form]
        return found - {"conv1.w"} if broken else found

    monkeypatch.setattr(step_model, "in_place", less)
    monkeypatch.setattr(step_model, "open_session", lambda data, *a, **k: opened.append(data))
    session = TrainingSession(model, "cpu")
    with caplog.at_level("DEBUG"), pytest.raises(AttributeError):
        session.step(feeds(model, 8))
    left_out = set(FORMS) if form == "both" else {form}
    filed = session._step_model._bytes
    assert opened == [for_sizes(filed, session.device, {"N": 8}, set(FORMS) - left_out)]
    assert (opened == [filed]) == (form == "both")
    assert [record.getMessage() for record in caplog.records] == [
        f"The step for sizes {{'N': 8}} is written without the forms {sorted(left_out)}, which would read weights or "
        "state after they were written over."
    ]


def test_weights_updated_together_are_held_twice_where_the_loss_reads_one_of_them(monkeypatch: pytest.MonkeyPatch):
    """By its own name, and maybe later than they are all updated."""
    rm.set_seed(0)
    layers = perceptron()
    loss = graph.SoftmaxCrossEntropy()(layers(features(8)), classes(8))
    decay = graph.ConstantLoss()(graph.square(layers[2].params["w"]))
    model = to_training_onnx(loss + 0.01 * decay, graph.Adam(0.01))
    over, apart = (session_of(model, monkeypatch, ping_pong=p) for p in (False, True))
    assert over._step_model.in_place == {"joined.dense1.w.adam_m", "joined.dense1.w.adam_v"}
    for i in range(5):
        assert float(over.step(feeds(model, 8, i))) == float(apart.step(feeds(model, 8, i)))


WRONG = {"too large": 3, "too small": -4}


@pytest.mark.parametrize("label", WRONG)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_label_out_of_range_changes_nothing(optimizer: str, label: str):
    model = model_with(optimizer, LOSSES["mlp"])
    session = TrainingSession(model, "cpu", threads=1)
    session.step(feeds(model, 8))
    before = {name: session.read(name) for name in session._held()}
    batch = feeds(model, 8, 1)
    batch["y"][5] = WRONG[label]
    with pytest.raises(rm.RunError):
        session.step(batch)
    for name, value in before.items():
        np.testing.assert_array_equal(session.read(name), value, err_msg=name)


def test_a_model_whose_labels_are_looked_at_beside_its_updates_keeps_two_sets(monkeypatch: pytest.MonkeyPatch):
    rm.set_seed(0)
    loss = graph.SoftmaxCrossEntropy(ignore_index=-1)(perceptron()(features(8)), classes(8))
    assert not session_of(to_training_onnx(loss, graph.Adam(0.01)), monkeypatch)._step_model.in_place


SGD = [node("Mul", "g rate", "step"), node("Sub", "p step", "p_next")]


@pytest.mark.parametrize(
    ("nodes", "is_safe"),
    [
        ([node("Gemm", "g rate p", "p_next")], True),
        ([node("Gemm", "p rate g", "p_next")], False),
        ([node("Gemm", "g p p", "p_next")], False),
        ([node("MatMul", "part g", "q"), node("Mul", "q rate", "step"), node("Sub", "p step", "p_next")], True),
        ([*SGD, node("MatMul", "part g", "other")], False),
        ([node("Sub", "p part", "p_next")], False),
        ([node("GatedAdd", "g p rate", "p_next")], True),
        ([node("GatedAdd", "p g rate", "p_next")], True),
        ([node("GatedAdd", "p p rate", "p_next")], False),
        ([node("GatedAdd", "g rate p", "p_next")], False),
        ([node("MatMul", "p g", "other"), node("Shape", "other", "s"), node("Expand", "rate s", "g2"),
          node("Sub", "p g2", "p_next")], False),
    ],
    ids=["summand", "factor", "summand and factor", "part read before", "part read beside", "part read by the writer",
         "gated", "gated sum", "gated twice", "gate", "sizes of what reads it"],
)  # fmt: skip
def test_products_and_parts(nodes: list[onnx.NodeProto], is_safe: bool):
    outputs = ["p_next"] + ["other"] * any("other" in n.output for n in nodes)
    model = model_of(nodes, ["p", "g", "rate", "part"], outputs)
    assert in_place(model, {"p": "p_next"}, {"p": ["part"]}) == ({"p"} if is_safe else set())


@pytest.mark.parametrize(
    ("nodes", "is_safe"),
    [
        ([node("Gather", "g i", "row"), node("Sub", "p row", "p_next")], True),
        ([node("Gather", "g i", "other"), *SGD], False),
        ([node("Gather", "g i", "other"), node("Reshape", "i s", "j"), node("Gather", "g j", "row"),
          node("Sub", "p row", "p_next")], True),
        ([node("Gather", "g k", "other"), node("Gather", "g i", "row"), node("Sub", "p row", "p_next")], False),
    ],
    ids=["before", "beside", "the same before and beside", "another beside"],
)  # fmt: skip
def test_indices_that_may_end_a_step(nodes: list[onnx.NodeProto], is_safe: bool):
    outputs = ["p_next"] + ["other"] * any("other" in n.output for n in nodes)
    model = model_of(nodes, ["p", "g", "rate", "i", "k", "s"], outputs)
    assert in_place(model, {"p": "p_next"}) == {"p"}
    assert in_place(model, {"p": "p_next"}, survives_errors=True) == ({"p"} if is_safe else set())


@pytest.mark.parametrize(("index", "is_safe"), [("fixed", True), ("own", True), ("k", False), ("number", False)])
def test_an_index_inside_of_a_scan(index: str, is_safe: bool):
    number, row = (helper.make_tensor_value_info(name, 7, []) for name in ("number", "row"))
    steps = [node("Gather", f"{index} zero", "i"), node("Gather", "table i", "row")]
    body = helper.make_graph(steps, "body", [number], [row])
    held = {"own": np.array([0]), "zero": np.array(0)}
    body.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    scan = helper.make_node("Scan", ["numbers"], ["other"], body=body, num_scan_inputs=1)
    model = model_of([scan, *SGD], ["p", "g", "rate", "k", "numbers", "table"], ["p_next", "other"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "fixed"))
    assert in_place(model, {"p": "p_next"}, survives_errors=True) == ({"p"} if is_safe else set())


def test_control_flow_beside_an_update_may_end_a_step():
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("g", 1, [64, 64])])
    branch = helper.make_node("If", ["condition"], ["other"], then_branch=body, else_branch=body)
    model = model_of([branch, *SGD], ["p", "g", "rate", "condition"], ["p_next", "other"])
    assert in_place(model, {"p": "p_next"}) == {"p"}
    assert in_place(model, {"p": "p_next"}, survives_errors=True) == set()


@pytest.mark.parametrize(
    ("first", "last", "data", "is_safe"),
    [(0, 4, "table", True), (0, 5, "table", False), (-1, 4, "table", False), (0, 4, "g", False)],
    ids=["within", "behind the end", "before the start", "of unknown length"],
)
def test_an_index_that_is_cut_off_where_a_table_ends_ends_no_step(first: int, last: int, data: str, is_safe: bool):
    nodes = [node("Clip", "i first last", "place"), node("Gather", f"{data} place", "other"), *SGD]
    model = model_of(nodes, ["p", "g", "rate", "i"], ["p_next", "other"])
    held = {"first": np.array(first), "last": np.array(last), "table": np.zeros(5, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    assert in_place(model, {"p": "p_next"}, survives_errors=True) == ({"p"} if is_safe else set())
