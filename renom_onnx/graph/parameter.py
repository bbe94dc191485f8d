"""Parameters: arrays that training changes, leaves of every tree that uses them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from renom_onnx.graph.node import Mutable

precision = np.dtype(np.float64 if os.environ.get("RENOM_PRECISION") == "64" else np.float32)
"""Element type of parameters and of losses without a type of their own: float64 where the environment variable
RENOM_PRECISION is 64 at import, for comparisons with other programs; onnxruntime computes convolutions, for example,
in float32 only."""


class Parameter(Mutable):
    """A trainable array of a layer.

    Attributes:
        owner: the layer; `key` is the parameter's name in it ("w").
        trainable: False freezes it: training graphs hold no gradient and no update of it.
        optimizer: its own optimizer; None for the one that the training was given.
        regularizer: what is added to its gradient; None for nothing.
    """

    __slots__ = ("key", "optimizer", "owner", "regularizer", "trainable")
    label = "Variable"

    def __init__(self, array: np.ndarray[Any, Any], owner: Any, key: str) -> None:
        super().__init__(array)
        self.owner = owner
        self.key = key
        self.trainable = True
        self.optimizer: Any = None
        self.regularizer: Any = None


class Statistic(Parameter):
    """A running statistic of a layer: training changes it, an optimizer does not."""

    __slots__ = ()

    def __init__(self, array: np.ndarray[Any, Any], owner: Any, key: str) -> None:
        super().__init__(array, owner, key)
        self.trainable = False
