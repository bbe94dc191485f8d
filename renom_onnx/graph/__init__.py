"""The graph of ReNom v3: elements, layers, losses, optimizers and distributors.

Short names are the field's; the seed's and the releases' spellings are aliases of them, at the end of this file.
"""

from renom_onnx.graph.distributor import DistributorElement
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.layer import Layer, Model, Sequential
from renom_onnx.graph.layers import Conv, Dense, Dropout, Flatten, MaxPool, Relu, Sigmoid, Softmax, Tanh
from renom_onnx.graph.loss import ConstantLoss, Loss, MeanSquared, SoftmaxCrossEntropy
from renom_onnx.graph.loss_scale import LossScale
from renom_onnx.graph.operators import (
    concatenate,
    exp,
    log,
    mean,
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
from renom_onnx.graph.optimizer import Adam, Optimizer, Sgd, sgd_update
from renom_onnx.graph.regularizer import L1, L2, Regularizer


def StaticVariable(array: object) -> GraphElement:
    """Return an array as an element; its dtype is kept.

    Args:
        array: an array, a list or a number.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.StaticVariable(np.array([2])))
        [2]
    """
    return static(array)


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
adam_update = Adam

__all__ = [
    "L1",
    "L2",
    "Adam",
    "ConstantLoss",
    "ConstantLossElement",
    "Conv",
    "ConvolutionalGraphElement",
    "Dense",
    "DenseGraphElement",
    "DistributorElement",
    "Dropout",
    "DropoutGraphElement",
    "Flatten",
    "GraphElement",
    "Layer",
    "Loss",
    "LossScale",
    "MaxPool",
    "MaxPoolGraphElement",
    "MeanSquared",
    "MeanSquaredGraphElement",
    "Model",
    "Optimizer",
    "Regularizer",
    "Relu",
    "ReluGraphElement",
    "Sequential",
    "SequentialSubGraph",
    "Sgd",
    "Sigmoid",
    "SigmoidGraphElement",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SoftmaxCrossEntropyGraphElement",
    "SoftmaxGraphElement",
    "StaticVariable",
    "Tanh",
    "TanhGraphElement",
    "adam_update",
    "concatenate",
    "exp",
    "log",
    "mean",
    "relu",
    "reshape",
    "sgd_update",
    "sigmoid",
    "softmax",
    "sqrt",
    "square",
    "static",
    "stop_gradient",
    "sum",
    "tanh",
    "transpose",
]
