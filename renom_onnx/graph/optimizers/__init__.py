"""Optimizers, a family a file; `renom_onnx.graph.optimizer` has what they share."""

from renom_onnx.graph.optimizers.adagrad import Adadelta, Adagrad, Rmsprop
from renom_onnx.graph.optimizers.adam import Adam, Adamax, AdamW, Lamb
from renom_onnx.graph.optimizers.lion import Lion
from renom_onnx.graph.optimizers.sgd import Sgd, default_optimizer, sgd_update

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Lion",
    "Rmsprop",
    "Sgd",
    "default_optimizer",
    "sgd_update",
]
