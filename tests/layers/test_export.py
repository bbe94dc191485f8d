"""Every layer trains from a file of the newest opset, with its functions and written out."""

import pytest

import renom_onnx as rm
from renom_onnx.converters import lint, to_training_onnx
from renom_onnx.runtime import TrainingSession
from tests.layers.oracle import assert_close, normal

g = rm.graph
IMAGE, ROWS, SEQUENCE = normal(4, 4, 6, 6), normal(4, 6), normal(4, 3, 6)
LAYERS = [
    (IMAGE, [g.Bias(), g.Conv(2), g.Deconv(2), g.MaxPool(), g.AvgPool(), g.GlobalAvgPool(), g.GlobalMaxPool(),
             g.BatchNormalize(), g.BatchNormalize(axis=None), g.GroupNormalize(2), g.InstanceNormalize(), g.L2Norm(),
             g.Lrn(), g.PRelu(per_channel=True), g.Resize(), g.Resize(size=4, mode="linear")]),
    (ROWS, [g.Dense(2), g.WeightNormalize(2), g.Maxout(4), g.Relu6(), g.LeakyRelu(), g.Elu(), g.Selu(), g.Celu(),
            g.Sigmoid(), g.Tanh(), g.Softmax(), g.Softplus(), g.Softsign(), g.HardSigmoid(), g.HardSwish(), g.Gelu(),
            g.Swish(2.0), g.Mish(), g.Dropout(0.5), g.BatchNormalize()]),
    (SEQUENCE, [g.LayerNormalize(), g.RmsNormalize(), g.Rnn(2), g.Lstm(2, bidirectional=True), g.PeepholeLstm(2),
                g.Gru(2, return_sequences=True), g.MultiHeadAttention(2, causal=True), g.PositionalEmbedding()]),
]  # fmt: skip
CASES = [(x, layer) for x, layers in LAYERS for layer in layers]


@pytest.mark.parametrize("x, layer", CASES, ids=[layer.kind for _, layer in CASES])
def test_layer_trains_at_opset_21_and_written_out(x, layer):
    bias = g.Bias()
    loss = g.ConstantLoss("mean")(g.square(layer(bias(x))))
    found = []
    for options in ({}, {"opset": 21}, {"inline": True}):
        file = to_training_onnx(loss, g.Sgd(0.01), **options)
        assert lint(file) == []
        if options.get("inline"):
            assert not file.functions
        session = TrainingSession(file, device="cpu")
        losses = [float(session.step({"x": x})) for _ in range(2)]
        found.append([*losses, session.read("bias1.b")])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_close(b, a, "the same numbers")


def test_inference_export_of_standard_operators_has_no_functions():
    for x, layer in CASES:
        functions = {f.name for f in rm.converters.to_onnx(layer(x)).functions}
        assert functions <= {"Gelu", "Swish", "GroupNormalization", "RMSNormalization"}
        assert bool(functions) == (layer.kind in {"gelu", "swish", "group_normalize", "rms_normalize"})


def test_same_program_gives_the_same_bytes():
    def made():
        rm.set_seed(0)
        model = g.Sequential(
            [g.Lstm(3, return_sequences=True), g.RmsNormalize(), g.Gelu(), g.Gru(2), g.BatchNormalize()]
        )
        return to_training_onnx(g.ConstantLoss()(model(SEQUENCE))).SerializeToString(deterministic=True)

    assert made() == made()
