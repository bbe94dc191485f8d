"""What ReNom 3.0 has in ``rm.graph.train``: initializers, optimizers and regularizers."""

from renom_onnx.graph.optimizers import Adadelta, Adagrad, Adam, Adamax, Rmsprop, Sgd
from renom_onnx.graph.regularizer import L1, L2
from renom_onnx.utility import initializer

__all__ = ["L1", "L2", "Adadelta", "Adagrad", "Adam", "Adamax", "Rmsprop", "Sgd", "initializer"]
