"""Layers that own parameters or wrap an operator."""

from renom_onnx.graph.layers.activation import Relu, Sigmoid, Softmax, Tanh
from renom_onnx.graph.layers.convolution import Conv
from renom_onnx.graph.layers.dense import Dense
from renom_onnx.graph.layers.dropout import Dropout
from renom_onnx.graph.layers.flatten import Flatten
from renom_onnx.graph.layers.pooling import MaxPool

__all__ = ["Conv", "Dense", "Dropout", "Flatten", "MaxPool", "Relu", "Sigmoid", "Softmax", "Tanh"]
