"""Layers that own parameters or wrap an operator."""

from renom_onnx.graph.layers.activation import (
    Activation,
    HardSigmoid,
    Maxout,
    Sigmoid,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from renom_onnx.graph.layers.attention import MultiHeadAttention
from renom_onnx.graph.layers.batch_normalization import BatchNormalize
from renom_onnx.graph.layers.bias import Bias
from renom_onnx.graph.layers.channel_normalization import GroupNormalize, InstanceNormalize, L2Norm, Lrn
from renom_onnx.graph.layers.convolution import Conv
from renom_onnx.graph.layers.deconvolution import Deconv
from renom_onnx.graph.layers.dense import Dense
from renom_onnx.graph.layers.dropout import Dropout, SpatialDropout
from renom_onnx.graph.layers.embedding import Embedding, PositionalEmbedding
from renom_onnx.graph.layers.flatten import Flatten
from renom_onnx.graph.layers.gate import Gelu, HardSwish, Mish, Silu, Swish
from renom_onnx.graph.layers.layer_normalization import LayerNormalize, RmsNormalize
from renom_onnx.graph.layers.noise import rand_normal, rand_uniform
from renom_onnx.graph.layers.operator import (
    Add,
    Clip,
    Concatenate,
    Div,
    Exp,
    GetItem,
    Log,
    Max,
    Mean,
    Min,
    Mul,
    Pow,
    Reshape,
    Sqrt,
    Square,
    Sub,
    Sum,
)
from renom_onnx.graph.layers.padding import Pad
from renom_onnx.graph.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from renom_onnx.graph.layers.rectifier import Celu, Elu, LeakyRelu, PRelu, Relu, Relu6, Selu
from renom_onnx.graph.layers.recurrent import Gru, Lstm, PeepholeLstm, Rnn
from renom_onnx.graph.layers.resize import Resize
from renom_onnx.graph.layers.roi import RoiPool
from renom_onnx.graph.layers.unpooling import UnPool
from renom_onnx.graph.layers.weight_normalization import WeightNormalize

__all__ = [
    "Activation",
    "Add",
    "AvgPool",
    "BatchNormalize",
    "Bias",
    "Celu",
    "Clip",
    "Concatenate",
    "Conv",
    "Deconv",
    "Dense",
    "Div",
    "Dropout",
    "Elu",
    "Embedding",
    "Exp",
    "Flatten",
    "Gelu",
    "GetItem",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNormalize",
    "Gru",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalize",
    "L2Norm",
    "LayerNormalize",
    "LeakyRelu",
    "Log",
    "Lrn",
    "Lstm",
    "Max",
    "MaxPool",
    "Maxout",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "MultiHeadAttention",
    "PRelu",
    "Pad",
    "PeepholeLstm",
    "PositionalEmbedding",
    "Pow",
    "Relu",
    "Relu6",
    "Reshape",
    "Resize",
    "RmsNormalize",
    "Rnn",
    "RoiPool",
    "Selu",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpatialDropout",
    "Sqrt",
    "Square",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "UnPool",
    "WeightNormalize",
    "rand_normal",
    "rand_uniform",
]
