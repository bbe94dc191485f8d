"""Names of an export: the attribute path in a Model, else layer kind and ordinal in tree order; the program decides."""

import numpy as np
import pytest

import renom_onnx as rm

g = rm.graph
X = np.ones((2, 3), np.float32)


def dense(units=3):
    return g.Dense(units)


def called(thing, x):
    """Call what an attribute holds: a layer, or several in a list or dict."""
    if isinstance(thing, g.Layer):
        return thing(x)
    for item in thing.values() if isinstance(thing, dict) else thing:
        x = called(item, x)
    return x


class Net(g.Model):
    """A model that calls its attributes in the order in which they were given."""

    def __init__(self, **parts):
        super().__init__()
        self._order = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        for name in self._order:
            x = called(getattr(self, name), x)
        return x


class Head(Net):
    pass


def two(first, second):
    x = g.StaticVariable(X)
    return first(x) + second(x)


def weights(element) -> list[str]:
    return [t.name for t in rm.converters.to_onnx(element).graph.initializer if t.name.endswith("w")]


PROGRAMS = {
    "one-layer": (lambda: dense()(X), ["dense1.w"]),
    "two-layers": (lambda: dense()(dense()(X)), ["dense1.w", "dense2.w"]),
    "kinds-count-apart": (
        lambda: dense()(g.Flatten()(g.Conv(2, kernel=1)(g.Conv(2, kernel=1)(X.reshape(2, 3, 1))))),
        ["conv1.w", "conv2.w", "dense1.w"],
    ),
    "sequential": (lambda: g.Sequential([dense(), g.Relu(), dense()])(X), ["dense1.w", "dense2.w"]),
    "nested-sequential": (
        lambda: g.Sequential([dense(), g.Sequential([dense(), dense()]), dense()])(X),
        ["dense1.w", "sequential1.dense1.w", "sequential1.dense2.w", "dense2.w"],
    ),
    "model": (lambda: Net(fc1=dense(), fc2=dense())(X), ["fc1.w", "fc2.w"]),
    "model-in-model": (lambda: Net(encoder=Net(fc1=dense()), fc2=dense())(X), ["encoder.fc1.w", "fc2.w"]),
    "list": (lambda: Net(fcs=[dense(), dense()])(X), ["fcs.0.w", "fcs.1.w"]),
    "dict-of-lists": (
        lambda: Net(towers={"left": [dense()], "right": [dense()]})(X),
        ["towers.left.0.w", "towers.right.0.w"],
    ),
    "sequential-in-model": (
        lambda: Net(body=g.Sequential([dense(), g.Relu(), dense()]))(X),
        ["body.dense1.w", "body.dense2.w"],
    ),
    "model-in-sequential": (lambda: g.Sequential([Net(fc=dense()), dense()])(X), ["net1.fc.w", "dense1.w"]),
    "model-and-layer": (lambda: two(Net(fc=dense()), dense()), ["fc.w", "dense1.w"]),
    "two-models": (lambda: two(Net(fc=dense()), Net(fc=dense())), ["net1.fc.w", "net2.fc.w"]),
    "two-kinds-of-model": (lambda: two(Net(fc=dense()), Head(fc=dense())), ["net1.fc.w", "head1.fc.w"]),
    "two-sequentials": (lambda: two(g.Sequential([dense()]), g.Sequential([dense()])), ["dense1.w", "dense2.w"]),
}


@pytest.mark.parametrize(("program", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_parameter_is_named_by_its_place_in_the_program(program, expected):
    assert weights(program()) == expected


def test_a_shared_layer_has_one_name():
    shared = dense()
    model = Net(first=shared, second=shared)
    assert weights(model(X)) == ["first.w"]
    assert weights(shared(shared(X))) == ["dense1.w"]


def test_names_are_given_in_tree_order_not_in_order_of_creation():
    late, early = dense(), dense()
    late(X), early(X)
    element = late(early(X))
    initializers = rm.converters.to_onnx(element).graph.initializer
    assert [t.name for t in initializers] == ["dense1.w", "dense1.b", "dense2.w", "dense2.b"]
    assert initializers[0].raw_data == early.params["w"].as_ndarray().tobytes()


def test_nodes_are_called_by_the_layer_that_made_them():
    shared = dense()
    y = shared(g.Relu()(shared(X))) * 2 - 1
    assert [n.name for n in rm.converters.to_onnx(y).graph.node] == [
        "dense1/Gemm",
        "relu1/Relu",
        "dense1/Gemm_2",
        "Mul1",
        "Sub1",
    ]


def test_training_values_are_named_after_their_parameter():
    loss = g.MeanSquared()(Net(fc=dense(1))(X), np.ones((2, 1), np.float32))
    model = rm.converters.to_training_onnx(loss, g.Adam())
    names = [t.name for t in model.training_info[0].algorithm.initializer]
    assert {"step", "learning_rate", "fc.w.adam_m", "fc.w.adam_v", "fc.b.adam_m", "fc.b.adam_v"} <= set(names)
    bindings = {b.key: b.value for b in model.training_info[0].update_binding}
    assert bindings["fc.w"] == "fc.w.next"
    assert bindings["fc.w.adam_m"] == "fc.w.adam_m.next"
    outputs = {name for n in model.training_info[0].algorithm.node for name in n.output}
    assert {"fc.w.grad", "fc.b.grad", "loss"} <= outputs


def test_inputs_are_named_by_the_distributor_and_outputs_are_output():
    x, y = g.DistributorElement(X, np.ones((2, 1), np.float32)).get_output_graphs()
    model = rm.converters.to_training_onnx(g.MeanSquared()(dense(1)(x), y), g.Sgd(0.1))
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["output"]
    assert [i.name for i in model.training_info[0].algorithm.input] == ["y", "learning_rate"]


def test_arrays_given_to_layers_are_inputs_called_x_and_y():
    model = rm.converters.to_training_onnx(g.MeanSquared()(dense(1)(X), np.ones((2, 1), np.float32)), g.Sgd(0.1))
    assert [i.name for i in model.graph.input] == ["x"]
    assert "y" in [i.name for i in model.training_info[0].algorithm.input]


def test_the_same_program_gives_the_same_bytes():
    def program():
        rm.set_seed(5)
        loss = g.SoftmaxCrossEntropy()(Net(a=dense(4), b=[g.Relu(), dense(2)])(X), np.array([0, 1]))
        return rm.converters.to_training_onnx(loss, g.Adam()).SerializeToString(deterministic=True)

    assert program() == program()
