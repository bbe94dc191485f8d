"""`make_trainable(checkpoint=...)`: the same training to the last bit, in less memory, of any model."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import renom_onnx as rm
from renom_onnx.cli import main
from renom_onnx.converters import FineTuning, lint, to_onnx
from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.structure import inferred_types
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.training_info import training_step
from renom_onnx.graph.node import Input, Node, ancestors
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.segment import Chain
from tests.layers.oracle import normal

g = rm.graph
ROWS = 4


class Residual(g.Model):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = g.Conv(channels, padding=1), g.BatchNormalize()
        self.conv2, self.norm2 = g.Conv(channels, padding=1), g.BatchNormalize()

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        return g.relu(x + self.norm2(self.conv2(g.relu(self.norm1(self.conv1(x))))))


class Decoder(g.Model):
    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.token, self.head = g.Embedding(8, 11), g.Dense(11)
        self.attention = [g.MultiHeadAttention(2, causal=True) for _ in range(depth)]
        self.norm = [g.LayerNormalize() for _ in range(depth)]

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        y = self.token(x)
        for attention, norm in zip(self.attention, self.norm, strict=True):
            y = y + attention(norm(y))
        return g.transpose(self.head(y), (0, 2, 1))


def twice(channels: int) -> g.Sequential:
    return g.Sequential(
        [part for _ in range(2) for part in (g.Conv(channels, padding=1), g.InstanceNormalize(), g.Relu())]
    )


class Ladder(g.Model):
    """Values of the way down are read on the way up, so that few places have one value that crosses."""

    def __init__(self) -> None:
        super().__init__()
        self.down = [twice(4 * 2**i) for i in range(3)]
        self.up = [twice(4 * 2**i) for i in range(2)]
        self.head = g.Dense(3)

    def forward(self, x: g.GraphElement) -> g.GraphElement:
        first = self.down[0](x)
        second = self.down[1](g.MaxPool(2, 0, 2)(first))
        y = self.down[2](g.MaxPool(2, 0, 2)(second))
        y = self.up[1](g.concatenate([second, g.Resize(2, mode="linear")(y)], axis=1))
        y = self.up[0](g.concatenate([first, g.Resize(2, mode="linear")(y)], axis=1))
        return self.head(g.Flatten()(y))


def chain() -> onnx.ModelProto:
    layers = [layer() for _ in range(24) for layer in (functools.partial(g.Dense, 16), g.Tanh)]
    return to_onnx(g.Sequential([*layers, g.Dense(3)]), inputs={"x": ("N", 16)})


def residual() -> onnx.ModelProto:
    network = g.Sequential([g.Conv(4, padding=1), *(Residual(4) for _ in range(5)), g.GlobalAvgPool(), g.Flatten()])
    return to_onnx(g.Sequential([network, g.Dense(3)]), inputs={"x": ("N", 2, 8, 8)})


CLASSES = np.array([0, 2, 1, 2])
NETWORKS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "chain": (chain, {"x": normal(ROWS, 16), "labels": CLASSES}, {}),
    "residual": (residual, {"x": normal(ROWS, 2, 8, 8), "labels": CLASSES}, {"train_statistics": True, "dropout": 0.4}),
    "ladder": (
        lambda: to_onnx(Ladder()(normal(ROWS, 2, 8, 8))),
        {"x": normal(ROWS, 2, 8, 8), "labels": CLASSES},
        {},
    ),
    "decoder": (
        lambda: to_onnx(Decoder()(np.zeros((ROWS, 6), np.int64))),
        {"x": np.arange(24).reshape(ROWS, 6) % 11, "labels": np.arange(24).reshape(ROWS, 6) % 7},
        {},
    ),
}


@functools.cache
def network(name: str) -> onnx.ModelProto:
    rm.set_seed(0)
    proto: onnx.ModelProto = NETWORKS[name][0]()
    return proto


def tuned(name: str, checkpoint: Any, **settings: Any) -> FineTuning:
    proto = network(name)
    rm.set_seed(0)
    options = {"loss": "softmax_cross_entropy", "optimizer": g.Adam(0.01), **NETWORKS[name][2], **settings}
    return FineTuning(proto, checkpoint=checkpoint, **options)


def trained(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return the losses of some steps, and what they leave behind, by stock onnxruntime on what the file says."""
    step = training_step(proto)
    session = onnxruntime.InferenceSession(step.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    state, losses = dict(step.state), []
    for _ in range(3):
        given = {**feeds, **step.optional, **state}
        read = {value.name for value in session.get_inputs()}
        found = dict(zip(names, session.run(names, {n: a for n, a in given.items() if n in read}), strict=True))
        losses.append(found[step.loss])
        state = {name: found[following] for name, following in step.bindings.items()}
    return {"losses": np.array(losses), **state}


def again(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.training_info[0].algorithm.node if node.name.endswith(".again")]


@pytest.mark.parametrize("checkpoint", ["auto", 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_the_same_to_the_last_bit(name: str, checkpoint: Any):
    kept, computed = (tuned(name, c).to_model() for c in (False, checkpoint))
    assert not again(kept)
    assert len(again(computed)) > 3
    assert lint(computed) == []
    assert list(computed.graph.node) == list(kept.graph.node)  # the inference reading
    expected, found = (trained(proto, NETWORKS[name][1]) for proto in (kept, computed))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_nothing_changes_where_nothing_is_computed_again():
    options = {"loss": "softmax_cross_entropy", "optimizer": g.Adam(0.01)}
    assert tuned("ladder", False).to_model() == rm.make_trainable(network("ladder"), **options)
    assert tuned("chain", True).to_model() == tuned("chain", "auto").to_model()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_session_trains_the_same(name: str):
    """But for rounding: on the CPU it takes other bodies where it sees forward and gradient together."""
    losses = []
    for checkpoint in (False, "auto"):
        session = rm.runtime.TrainingSession(tuned(name, checkpoint).to_model(), "cpu", threads=1)
        losses.append([float(session.step(NETWORKS[name][1])) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def most_at_once(proto: onnx.ModelProto) -> int:
    """Return the most bytes that activations and their gradients take at once, in the file's order.

    Each is freed after its last reader; what is made within one gradient, and what has no rows, is not among them.
    """
    step = training_step(proto)
    own = {name for node in step.model.graph.node for name in node.output}
    types = {name: value_type(t) for name, t in inferred_types(step.model, step.model.graph).items()}
    nodes = inline_calls(step.model, lambda _: True).graph.node
    last = {name: i for i, node in enumerate(nodes) for name in node.input}

    def size(name: str) -> int:
        dtype, shape = types.get(name, (None, None))
        if name not in own or dtype is None or not shape or shape[0] not in ("N", ROWS):
            return 0
        return int(np.prod([d if isinstance(d, int) else ROWS for d in shape])) * int(dtype.itemsize)

    live: set[str] = set()
    most = 0
    for i, node in enumerate(nodes):
        live.update(name for name in node.output if name)
        most = max(most, sum(map(size, live)))
        live = {name for name in live if last.get(name, -1) > i}
    return most


SAVED = {"chain": 0.5, "residual": 0.7, "ladder": 0.8, "decoder": 0.5}
"""At most so much is left, of each network, of what is in memory at once."""


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_in_memory_at_once(name: str):
    kept, computed = (most_at_once(tuned(name, checkpoint).to_model()) for checkpoint in (False, "auto"))
    assert 0 < computed < SAVED[name] * kept


def test_values_are_kept_where_names_say():
    plan = tuned("chain", ["tanh8/Tanh", "tanh16/*"])
    assert plan.notes[-1] == "The backward pass computes 2 segments again; values are kept at 2 places."
    computed = again(plan.to_model())
    tanh = [int(name.split("/")[0].removeprefix("tanh")) for name in computed if "Tanh" in name]
    assert sorted(tanh) == [*range(1, 8), *range(9, 16)]


def test_an_output_is_a_name_too():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    proto = model_of(nodes)
    for chosen in ("c", ["c"], "[c]"):
        made = rm.make_trainable(proto, loss="mean_squared", optimizer=g.Sgd(0.1), checkpoint=chosen)
        operators = [n.op_type for n in made.training_info[0].algorithm.node if n.name.endswith((".again", ".after"))]
        assert operators == ["After", "MatMul", "Tanh"]  # b and what it is made of; c is kept


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(normal(4, 4), "w")
    made = helper.make_graph(nodes, "model", infos[:1], infos[1:], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_of_one_operator_has_nothing_to_compute_again():
    proto = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])])
    made = [FineTuning(proto, loss="mean_squared", checkpoint=checkpoint) for checkpoint in (False, "auto")]
    assert made[1].notes[-1] == "The backward pass computes nothing again: it would save no memory."
    assert made[0].to_model() == made[1].to_model()


def test_random_numbers_are_drawn_once():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("RandomNormalLike", ["a"], ["noise"], seed=1.0),
        helper.make_node("Add", ["a", "noise"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    plan = FineTuning(model_of(nodes), loss="mean_squared", optimizer=g.Sgd(0.1), checkpoint="d")
    made = plan.to_model()
    every = [node.op_type for node in (*made.graph.node, *made.training_info[0].algorithm.node)]
    assert every.count("RandomNormalLike") == 1
    assert "Tanh" in every[len(made.graph.node) :]


def test_what_does_not_train_is_not_computed_again():
    plan = tuned("chain", 4, freeze=[f"dense{i}.*" for i in range(1, 13)])
    tanh = [int(n.split("/")[0].removeprefix("tanh")) for n in again(plan.to_model()) if "Tanh" in n]
    assert tanh
    assert min(tanh) > 12


def test_of_equal_operators_in_a_row_the_square_root_is_kept():
    n = 100
    value = Input(np.dtype("float32"), ("N", 4), name="x").output
    weight = Parameter(np.ones((), np.float32), None, "w").output
    nodes: list[Node] = []
    for _ in range(n):
        nodes.append(Node("Mul", [value, weight], [(value.dtype, value.shape)], opset=18))
        value = nodes[-1].output
    row = Chain(ancestors([value]), [value], {node.output for node in nodes})
    cuts = row.best_cuts()
    lengths = [b - a for a, b in itertools.pairwise([-1, *cuts, n - 1])]
    assert 8 <= len(lengths) <= 16
    assert max(lengths) <= 14
    assert row.peak(cuts)[0] < 0.3 * row.peak([])[0]


def negative() -> None:
    tuned("chain", -1)


def one() -> None:
    tuned("chain", 1)


def unknown() -> None:
    tuned("chain", ["tanh1/Tanh", "nothing*"])


NAMES = "dense1/Gemm, tanh1/Tanh, dense2/Gemm, tanh2/Tanh, dense3/Gemm, tanh3/Tanh, dense4/Gemm, tanh4/Tanh"
ERRORS = {
    negative: "make_trainable: checkpoint must be 2 segments or more, got -1.",
    one: "make_trainable: checkpoint must be 2 segments or more, got 1.",
    unknown: (
        "make_trainable: checkpoint must name nodes or outputs between the first weight that trains and the loss, got "
        f"'nothing*', which names none of {NAMES} and 41 more."
    ),
}


@pytest.mark.parametrize("call", ERRORS, ids=lambda call: call.__name__)
def test_errors_say_what_to_do(call: Any):
    with pytest.raises(rm.ConversionError) as error:
        call()
    assert str(error.value) == ERRORS[call]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [(["auto"], "auto"), (["5"], 5), (["*Tanh"], "*Tanh"), (["tanh8/*", "tanh16/*"], ["tanh8/*", "tanh16/*"])],
    ids=["auto", "number", "pattern", "patterns"],
)
def test_the_command_makes_the_same_file(given: list[str], chosen: Any, tmp_path: Any, capsys: Any):
    onnx.save(network("chain"), tmp_path / "m.onnx")
    words = [word for text in given for word in ("--checkpoint", text)]
    paths = [str(tmp_path / "m.onnx"), str(tmp_path / "t.onnx")]
    assert main(["make-trainable", *paths, "--optimizer", "adam", "--learning-rate", "0.01", *words]) == 0
    assert onnx.load(tmp_path / "t.onnx") == tuned("chain", chosen).to_model()
    assert "The backward pass computes " in capsys.readouterr().err
