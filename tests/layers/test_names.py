"""Contract: every name of ReNom v3's layers, activations, losses, initializers and operations, in both spellings."""

import pytest

import renom_onnx as rm

SPELLINGS = {
    "Dense": ["DenseGraphElement"],
    "Bias": ["BiasGraphElement"],
    "Conv": ["ConvolutionalGraphElement"],
    "Deconv": ["DeconvolutionalGraphElement"],
    "MaxPool": ["MaxPoolGraphElement"],
    "AvgPool": ["AvgPoolGraphElement"],
    "UnPool": ["MaxUnPoolGraphElement"],
    "BatchNormalize": ["BatchNormalizeElement", "BatchNormalizeGraphElement"],
    "LayerNormalize": ["LayerNormGraphElement"],
    "WeightNormalize": ["WeightNormGraphElement"],
    "L2Norm": ["L2NormGraphElement"],
    "Lrn": ["LrnGraphElement"],
    "Lstm": ["LstmGraphElement"],
    "Gru": ["GruGraphElement"],
    "PeepholeLstm": [],
    "Embedding": ["EmbeddingGraphElement"],
    "Dropout": ["DropoutGraphElement"],
    "RoiPool": [],
    "Relu": ["ReluGraphElement"],
    "Elu": ["EluGraphElement"],
    "Selu": ["SeluGraphElement"],
    "LeakyRelu": ["LeakyReluGraphElement"],
    "Tanh": ["TanhGraphElement"],
    "Sigmoid": ["SigmoidGraphElement"],
    "Softmax": ["SoftmaxGraphElement"],
    "Softplus": ["SoftplusGraphElement"],
    "Maxout": ["MaxoutGraphElement"],
    "Activation": [],
    "ConstantLoss": ["ConstantLossElement"],
    "MeanSquared": ["MeanSquaredGraphElement", "MeanSquaredElement"],
    "CrossEntropy": ["CrossEntropyGraphElement", "CrossEntropyElement"],
    "SoftmaxCrossEntropy": ["SoftmaxCrossEntropyGraphElement", "SoftmaxCrossEntropyElement"],
    "SigmoidCrossEntropy": ["SigmoidCrossEntropyGraphElement", "SigmoidCrossEntropyElement"],
    "SmoothL1": ["SmoothedL1GraphElement", "SmoothL1Element"],
    "Add": ["AddElement"],
    "Mul": ["MulElement"],
    "GetItem": ["GetItemElement"],
    "Reshape": ["ReshapeElement"],
    "Clip": ["ClipElement"],
    "Sequential": ["SequentialSubGraph"],
}
ALONE = [
    "Sub",
    "Div",
    "Pow",
    "Exp",
    "Log",
    "Sqrt",
    "Square",
    "Sum",
    "Mean",
    "Max",
    "Min",
    "Concatenate",
    "StaticVariable",
    "DistributorElement",
    "relu",
    "elu",
    "selu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "softmax",
    "softplus",
    "maxout",
    "mean_squared",
    "cross_entropy",
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "smooth_l1",
    "sum",
    "mean",
    "max",
    "min",
    "exp",
    "log",
    "sqrt",
    "square",
    "clip",
    "reshape",
    "concatenate",
    "rand_normal",
    "rand_uniform",
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_layer_has_both_spellings(name):
    for alias in SPELLINGS[name]:
        assert getattr(rm.graph, alias) is getattr(rm.graph, name)
        assert alias in rm.graph.__all__
    assert name in rm.graph.__all__
    assert getattr(rm.graph, name).__doc__


@pytest.mark.parametrize("name", ALONE)
def test_name_exists(name):
    assert name in rm.graph.__all__
    assert getattr(rm.graph, name).__doc__


@pytest.mark.parametrize(
    "name", ["Constant", "GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "Gaussian", "Uniform", "Orthogonal"]
)
def test_initializer_exists(name):
    assert name in rm.utility.initializer.__all__


def test_every_public_name_is_there_and_sorted():
    for module in (rm.graph, rm.graph.layers, rm.graph.losses, rm.utility.initializer):
        assert all(hasattr(module, name) for name in module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)
