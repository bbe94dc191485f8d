"""What all layers have: parameters, freezing, activation, and errors that say what to do."""

import numpy as np
import pytest

import renom_onnx as rm
from tests.layers.oracle import normal

g = rm.graph
END = "Created at test_layer.py:{line}."


def test_parameters_are_reached_by_name():
    dense = g.Dense(3)
    dense(normal(2, 4))
    assert dense["w"] is dense.params["w"]
    assert dense.params["b"].as_ndarray().shape == (1, 3)
    model = g.Sequential([dense])
    assert model[0]["w"] is dense["w"]


def test_a_parameter_that_is_not_there_is_said():
    dense = g.Dense(3)
    for text in (
        "Dense: parameters are made by the first call, got 'w' before it. Call it first.",
        "Dense: a parameter must be one of w, b, got 'v'.",
    ):
        with pytest.raises(KeyError) as raised:
            dense["w" if "first" in text else "v"]
        assert raised.value.args == (text,)
        dense(normal(2, 4))


def test_named_parameters_are_those_of_an_export():
    class Net(g.Model):
        def __init__(self):
            super().__init__()
            self.encoder = g.Sequential([g.Dense(4, activation=g.PRelu()), g.BatchNormalize(), g.Dense(3)])
            self.heads = [g.Dense(2), g.Dense(2)]

        def forward(self, x):
            h = self.encoder(x)
            return self.heads[0](h) + self.heads[1](h)

    net = Net()
    file = rm.converters.to_onnx(net(normal(5, 2)))
    names = {t.name for t in file.graph.initializer}
    assert {name for name, _ in net.named_parameters()} == names
    assert "encoder.dense1.p_relu1.slope" in names and "heads.1.b" in names
    assert {p for _, p in net.named_parameters()} == set(net.parameters())


@pytest.mark.parametrize("when", ["before", "after"])
def test_freezing_by_pattern_holds_parameters(when):
    model = g.Sequential([g.Dense(4), g.Relu(), g.Dense(3), g.Dense(2)])
    if when == "before":
        model.set_updatable(False, "dense[12].*")
    x = normal(5, 2)
    loss = g.ConstantLoss()(model(x))
    if when == "after":
        model.set_updatable(False, "dense[12].*")
    start = {name: p.array for name, p in model.named_parameters()}
    loss.backward().update(g.Sgd(0.1))
    moved = [name for name, p in model.named_parameters() if (p.array != start[name]).any()]
    assert moved == ["dense3.w", "dense3.b"]
    model.set_updatable(True)
    assert all(p.trainable for _, p in model.named_parameters())


def test_frozen_parameters_have_no_update_in_a_file():
    model = g.Sequential([g.Dense(4), g.Dense(3)])
    model.set_updatable(False, "dense1.*")
    file = rm.converters.to_training_onnx(g.ConstantLoss()(model(normal(5, 2))), g.Sgd(0.1, momentum=0.0))
    assert [b.key for b in file.training_info[0].update_binding] == ["dense2.w", "dense2.b"]


def test_activation_is_part_of_no_attribute_path():
    dense = g.Dense(3, activation="relu")
    file = rm.converters.to_onnx(dense(normal(2, 4)))
    assert [t.name for t in file.graph.initializer] == ["dense1.w", "dense1.b"]
    assert [n.op_type for n in file.graph.node] == ["Gemm", "Relu"]


@pytest.mark.parametrize(
    "layer",
    [
        g.Conv(2, activation="relu"),
        g.Deconv(2, activation="relu"),
        g.BatchNormalize(activation="relu"),
        g.Bias(activation="relu"),
        g.WeightNormalize(2, activation="relu"),
        g.Dense(2, activation=g.Relu()),
    ],
    ids=lambda layer: layer.kind,
)
def test_factories_take_an_activation(layer):
    assert layer(normal(2, 3, 5, 5)).as_ndarray().min() == 0


IMAGE = np.zeros((2, 3, 5, 5), np.float32)
ROW = np.zeros((2, 3), np.float32)
ERRORS = {
    "Dense": (
        lambda: g.Dense(2)(np.zeros(3, np.float32)),
        "Dense: x must have two axes or more, (N, F), got x is float32[N]. Reshape it first.",
    ),
    "Dense-other": (
        lambda: (dense := g.Dense(2)) and (dense(ROW), dense(IMAGE[0, 0])),
        "Dense: an input must fit the parameters of the first call, got one that needs w of shape [5, 2], but w is "
        "float32[3, 2]. Use a new Dense for it.",
    ),
    "Conv": (
        lambda: g.Conv(2)(ROW),
        "Conv: x must have three axes or more, (N, C, *S), got x is float32[N, 3]. Reshape it first.",
    ),
    "Conv-groups": (
        lambda: g.Conv(4, groups=2)(IMAGE),
        "Conv: groups must divide the channels of x and y, got groups 2, 3 channels of x and 4 of y.",
    ),
    "Conv-kernel": (
        lambda: g.Conv(4, kernel=(3, 3, 3))(IMAGE),
        "Conv: kernel must be one number or 2, one per spatial axis, got [3, 3, 3].",
    ),
    "Deconv-output_padding": (
        lambda: g.Deconv(4, stride=2, output_padding=2)(IMAGE),
        "Deconv: output_padding must be less than stride or dilation, got output_padding [2, 2], stride [2, 2], "
        "dilation [1, 1].",
    ),
    "GroupNormalize": (
        lambda: g.GroupNormalize(2)(IMAGE),
        "GroupNormalize: groups must divide the channels of x, got groups 2, 3 channels of x.",
    ),
    "BatchNormalize": (
        lambda: g.BatchNormalize(axis=2),
        "BatchNormalize: axis must be 1 or None, or mode 'feature' or 'activation', got 2.",
    ),
    "Maxout": (lambda: g.Maxout(0), "Maxout: slice_size must be positive, got 0."),
    "UnPool": (
        lambda: g.UnPool(g.AvgPool()(IMAGE)),
        "UnPool: prev_pool must be the output of a MaxPool, got AveragePool.",
    ),
    "UnPool-shape": (
        lambda: g.UnPool(g.MaxPool()(IMAGE))(IMAGE),
        "UnPool: x must have the shape of prev_pool, got x is float32[N, 3, 5, 5], prev_pool is float32[N, 3, 3, 3].",
    ),
    "RoiPool": (
        lambda: g.RoiPool()(ROW, ROW),
        "RoiPool: x must have 4 axes, (N, C, H, W), got x is float32[N, 3]. Reshape it first.",
    ),
    "Lstm": (
        lambda: g.Lstm(2)(ROW),
        "Lstm: x must have 3 axes, (N, T, F), got x is float32[N, 3]. Reshape it first.",
    ),
    "MultiHeadAttention": (
        lambda: g.MultiHeadAttention(2)(IMAGE[:, 0]),
        "MultiHeadAttention: heads must divide E = 5, got 2 heads.",
    ),
    "PositionalEmbedding": (
        lambda: g.PositionalEmbedding(4)(IMAGE[:, 0]),
        "PositionalEmbedding: a sequence must have at most max_length = 4 positions, got 5: x is float32[N, 5, 5].",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_rule_and_what_was_got(name):
    make, text = ERRORS[name]
    with pytest.raises(rm.ShapeError) as found:
        make()
    said, _, line = str(found.value).rpartition(" Created at ")
    assert said == text
    assert line.startswith("test_layer.py:")


def test_embedding_wants_integers(message):
    text = f"Embedding: x must hold integers, got x is float32[N, 3]. Convert it with astype('int64'). {END}"
    with message(rm.DTypeError, text):
        g.Embedding(2, vocabulary=3)(ROW)


def test_unknown_activation_names_those_that_exist(message):
    text = (
        "Activation: the name must be one of celu, elu, gelu, hard sigmoid, hard swish, leaky relu, maxout, mish, "
        f"prelu, relu, relu6, selu, sigmoid, silu, softmax, softplus, softsign, swish, tanh, got 'rleu'. {END}"
    )
    with message(rm.ConversionError, text):
        g.Dense(2, activation="rleu")


def test_size_that_only_the_run_knows_is_refused(message):
    x = g.StaticVariable(IMAGE)
    x.output.shape = ("N", "C", 5, 5)
    text = (
        "BatchNormalize: the sizes of axes [1] of x must be known, got x is float32[N, C, 5, 5]. Give the input fixed "
        f"sizes there. {END}"
    )
    with message(rm.ShapeError, text):
        g.BatchNormalize()(x)


def test_rebuilt_graph_of_unknown_sizes_makes_one_function():
    def made():
        return g.gelu(g.StaticVariable(IMAGE)[g.StaticVariable(np.array([0]))].max(0)).output.node.function

    assert made() is made()
    layer = g.Gelu()
    x = g.StaticVariable(IMAGE)
    a, b = g.StaticVariable(IMAGE), g.StaticVariable(IMAGE)
    a.output.shape, b.output.shape = ("?100", 3), ("?101", 3)
    assert layer(a).output.node.function is layer(b).output.node.function
    assert layer(a).shape[0] != layer(b).shape[0]
    assert layer(x).shape == IMAGE.shape


EMPTY = {
    "image": [g.Conv(2), g.Deconv(2), g.MaxPool(), g.AvgPool(), g.GlobalAvgPool(), g.BatchNormalize(), g.Lrn(),
              g.BatchNormalize(axis=None), g.GroupNormalize(2), g.InstanceNormalize(), g.L2Norm(), g.Maxout(3),
              g.Resize()],
    "sequence": [g.Dense(2), g.LayerNormalize(), g.RmsNormalize(), g.Rnn(2), g.MultiHeadAttention(2), g.Gelu(),
                 g.PositionalEmbedding(), g.WeightNormalize(2)],
}  # fmt: skip


@pytest.mark.parametrize(
    "kind, layer", [(k, layer) for k in EMPTY for layer in EMPTY[k]], ids=lambda v: getattr(v, "kind", v)
)
def test_layer_takes_the_empty_batch(kind, layer):
    shape = (0, 4, 6, 6) if kind == "image" else (0, 5, 6)
    assert layer(np.zeros(shape, np.float32)).as_ndarray().shape[0] == 0


@pytest.mark.parametrize("kind", ["Lstm", "Gru"])
def test_empty_batch_of_a_recurrent_layer_is_an_error_and_no_crash(kind):
    with pytest.raises(rm.RunError) as found:
        getattr(g, kind)(2)(np.zeros((0, 5, 6), np.float32)).as_ndarray()
    said, _, _ = str(found.value).rpartition(" Created at ")
    assert said == (
        f"{kind.upper()}: a batch must have rows, got none. Stop before the empty batch that ends an even division."
    )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda n: g.Dense(n(3)), (2, 4)),
        (lambda n: g.Conv(n(4), kernel=n(3), padding=n(1), stride=n(1), groups=n(2)), (2, 4, 8, 8)),
        (lambda n: g.Deconv(n(3), kernel=n(3), padding=n(1), stride=n(2)), (2, 4, 8, 8)),
        (lambda n: g.AvgPool(n(2), stride=n(2), padding=n(0)), (2, 4, 8, 8)),
        (lambda n: g.Lstm(n(4)), (2, 5, 3)),
        (lambda n: g.MultiHeadAttention(n(2)), (2, 5, 8)),
        (lambda n: g.Resize(n(16)), (2, 4, 8, 8)),
    ],
)
def test_sizes_may_be_numbers_of_numpy(make, shape):
    """As in Dense(labels.max() + 1)."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rm.set_seed(0)
    expected = make(int)(x).as_ndarray()
    rm.set_seed(0)
    np.testing.assert_array_equal(make(np.int64)(x).as_ndarray(), expected)
