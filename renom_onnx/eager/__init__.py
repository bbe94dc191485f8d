"""The API of ReNom v2.0, eager, on the same engine.

A `Node` is an ndarray. Layers compute at once; inside ``with model.train():`` they also record the graph that
`Node.grad` differentiates. New programs use `renom_onnx.graph`.
"""

from renom_onnx.eager.distributor import NdarrayDistributor
from renom_onnx.eager.model import Dense, Model
from renom_onnx.eager.node import Grads, Node, sum
from renom_onnx.eager.optimizer import Sgd

__all__ = ["Dense", "Grads", "Model", "NdarrayDistributor", "Node", "Sgd", "sum"]
