"""The graph of ReNom v3: elements, layers, losses, optimizers and distributors.

Short names are the field's; the seed's and the releases' spellings are aliases of them, at the end of this file.
"""

from renom_onnx.graph import core, schedule, spelling as _spelling, train
from renom_onnx.graph.activation import (
    celu,
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    maxout,
    mish,
    relu6,
    selu,
    silu,
    softplus,
    softsign,
    swish,
)
from renom_onnx.graph.autocast import autocast
from renom_onnx.graph.clipping import with_gradient_clipping
from renom_onnx.graph.data_input import DataInput
from renom_onnx.graph.distributor import DistributorElement
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.indexing import get_item
from renom_onnx.graph.layer import Layer, Model, Sequential
from renom_onnx.graph.layers import (
    Activation,
    Add,
    AvgPool,
    BatchNormalize,
    Bias,
    Celu,
    Clip,
    Concatenate,
    Conv,
    Deconv,
    Dense,
    Div,
    Dropout,
    Elu,
    Embedding,
    Exp,
    Flatten,
    Gelu,
    GetItem,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNormalize,
    Gru,
    HardSigmoid,
    HardSwish,
    InstanceNormalize,
    L2Norm,
    LayerNormalize,
    LeakyRelu,
    Log,
    Lrn,
    Lstm,
    Max,
    Maxout,
    MaxPool,
    Mean,
    Min,
    Mish,
    Mul,
    MultiHeadAttention,
    Pad,
    PeepholeLstm,
    PositionalEmbedding,
    Pow,
    PRelu,
    Relu,
    Relu6,
    Reshape,
    Resize,
    RmsNormalize,
    Rnn,
    RoiPool,
    Selu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Softsign,
    SpatialDropout,
    Sqrt,
    Square,
    Sub,
    Sum,
    Swish,
    Tanh,
    UnPool,
    WeightNormalize,
    rand_normal,
    rand_uniform,
)
from renom_onnx.graph.loss_scale import LossScale
from renom_onnx.graph.losses import (
    ClippedMeanSquared,
    ConstantLoss,
    CrossEntropy,
    Loss,
    MeanSquared,
    SigmoidCrossEntropy,
    SmoothL1,
    SoftmaxCrossEntropy,
    clipped_mean_squared,
    constant_loss,
    cross_entropy,
    mean_squared,
    sigmoid_cross_entropy,
    smooth_l1,
    softmax_cross_entropy,
)
from renom_onnx.graph.operators import (
    clip,
    concatenate,
    exp,
    log,
    max,
    mean,
    min,
    relu,
    reshape,
    sigmoid,
    softmax,
    sqrt,
    square,
    stop_gradient,
    sum,
    tanh,
    transpose,
)
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers import Adadelta, Adagrad, Adam, Adamax, AdamW, Lamb, Lion, Rmsprop, Sgd, sgd_update
from renom_onnx.graph.placeholder import Placeholder
from renom_onnx.graph.regularizer import L1, L2, Regularizer
from renom_onnx.graph.variable import StaticVariable, Variable

del _spelling  # which lets the classes be called with ReNom's words

# The seed's spellings
DenseGraphElement = Dense
DropoutGraphElement = Dropout
ConvolutionalGraphElement = Conv
MaxPoolGraphElement = MaxPool
ReluGraphElement = Relu
SigmoidGraphElement = Sigmoid
SoftmaxGraphElement = Softmax
TanhGraphElement = Tanh
ConstantLossElement = ConstantLoss
MeanSquaredGraphElement = MeanSquared
SoftmaxCrossEntropyGraphElement = SoftmaxCrossEntropy
SequentialSubGraph = Sequential
BiasGraphElement = Bias
DeconvolutionalGraphElement = Deconv
AvgPoolGraphElement = AvgPool
MaxUnPoolGraphElement = UnPool
BatchNormalizeElement = BatchNormalize
BatchNormalizeGraphElement = BatchNormalize
LayerNormGraphElement = LayerNormalize
WeightNormGraphElement = WeightNormalize
L2NormGraphElement = L2Norm
LrnGraphElement = Lrn
LstmGraphElement = Lstm
GruGraphElement = Gru
EmbeddingGraphElement = Embedding
EluGraphElement = Elu
SeluGraphElement = Selu
LeakyReluGraphElement = LeakyRelu
SoftplusGraphElement = Softplus
MaxoutGraphElement = Maxout
CrossEntropyGraphElement = CrossEntropy
SigmoidCrossEntropyGraphElement = SigmoidCrossEntropy
SmoothedL1GraphElement = SmoothL1
AddElement = Add
MulElement = Mul
GetItemElement = GetItem
ReshapeElement = Reshape
CrossEntropyElement = CrossEntropy
MeanSquaredElement = MeanSquared
SmoothL1Element = SmoothL1
SoftmaxCrossEntropyElement = SoftmaxCrossEntropy
SigmoidCrossEntropyElement = SigmoidCrossEntropy
ClipElement = Clip
adam_update = Adam
adagrad_update = Adagrad
adadelta_update = Adadelta
adamax_update = Adamax
rmsprop_update = Rmsprop
Distro = DistributorElement

__all__ = [
    "L1",
    "L2",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Add",
    "AddElement",
    "AvgPool",
    "AvgPoolGraphElement",
    "BatchNormalize",
    "BatchNormalizeElement",
    "BatchNormalizeGraphElement",
    "Bias",
    "BiasGraphElement",
    "Celu",
    "Clip",
    "ClipElement",
    "ClippedMeanSquared",
    "Concatenate",
    "ConstantLoss",
    "ConstantLossElement",
    "Conv",
    "ConvolutionalGraphElement",
    "CrossEntropy",
    "CrossEntropyElement",
    "CrossEntropyGraphElement",
    "DataInput",
    "Deconv",
    "DeconvolutionalGraphElement",
    "Dense",
    "DenseGraphElement",
    "DistributorElement",
    "Distro",
    "Div",
    "Dropout",
    "DropoutGraphElement",
    "Elu",
    "EluGraphElement",
    "Embedding",
    "EmbeddingGraphElement",
    "Exp",
    "Flatten",
    "Gelu",
    "GetItem",
    "GetItemElement",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GraphElement",
    "GroupNormalize",
    "Gru",
    "GruGraphElement",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalize",
    "L2Norm",
    "L2NormGraphElement",
    "Lamb",
    "Layer",
    "LayerNormGraphElement",
    "LayerNormalize",
    "LeakyRelu",
    "LeakyReluGraphElement",
    "Lion",
    "Log",
    "Loss",
    "LossScale",
    "Lrn",
    "LrnGraphElement",
    "Lstm",
    "LstmGraphElement",
    "Max",
    "MaxPool",
    "MaxPoolGraphElement",
    "MaxUnPoolGraphElement",
    "Maxout",
    "MaxoutGraphElement",
    "Mean",
    "MeanSquared",
    "MeanSquaredElement",
    "MeanSquaredGraphElement",
    "Min",
    "Mish",
    "Model",
    "Mul",
    "MulElement",
    "MultiHeadAttention",
    "Optimizer",
    "PRelu",
    "Pad",
    "PeepholeLstm",
    "Placeholder",
    "PositionalEmbedding",
    "Pow",
    "Regularizer",
    "Relu",
    "Relu6",
    "ReluGraphElement",
    "Reshape",
    "ReshapeElement",
    "Resize",
    "RmsNormalize",
    "Rmsprop",
    "Rnn",
    "RoiPool",
    "Selu",
    "SeluGraphElement",
    "Sequential",
    "SequentialSubGraph",
    "Sgd",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SigmoidCrossEntropyElement",
    "SigmoidCrossEntropyGraphElement",
    "SigmoidGraphElement",
    "Silu",
    "SmoothL1",
    "SmoothL1Element",
    "SmoothedL1GraphElement",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SoftmaxCrossEntropyElement",
    "SoftmaxCrossEntropyGraphElement",
    "SoftmaxGraphElement",
    "Softplus",
    "SoftplusGraphElement",
    "Softsign",
    "SpatialDropout",
    "Sqrt",
    "Square",
    "StaticVariable",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "TanhGraphElement",
    "UnPool",
    "Variable",
    "WeightNormGraphElement",
    "WeightNormalize",
    "adadelta_update",
    "adagrad_update",
    "adam_update",
    "adamax_update",
    "autocast",
    "celu",
    "clip",
    "clipped_mean_squared",
    "concatenate",
    "constant_loss",
    "core",
    "cross_entropy",
    "elu",
    "exp",
    "gelu",
    "get_item",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "log",
    "max",
    "maxout",
    "mean",
    "mean_squared",
    "min",
    "mish",
    "rand_normal",
    "rand_uniform",
    "relu",
    "relu6",
    "reshape",
    "rmsprop_update",
    "schedule",
    "selu",
    "sgd_update",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "smooth_l1",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "static",
    "stop_gradient",
    "sum",
    "swish",
    "tanh",
    "train",
    "transpose",
    "with_gradient_clipping",
]
