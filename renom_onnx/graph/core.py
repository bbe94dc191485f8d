"""What ReNom 3.0 has in ``rm.graph.core`` for programs that define models, and other names of it."""

from __future__ import annotations

from typing import Any

from renom_onnx.graph.clipping import with_gradient_clipping
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Model
from renom_onnx.graph.setting import OptimizerSetting, RegularizerSetting
from renom_onnx.graph.variable import Variable

__all__ = ["GraphFactory", "UserGraph", "graph_variable", "learnable_graph_element", "with_gradient_clipping"]


class GraphFactory(Model):
    """ReNom's base of models: `prepare` makes the layers, `connect` connects them. New programs derive from `Model`.

    Args:
        args, kwargs: given to `prepare`.
        parameter_decay, optimizer, activation, checkpoint: see `Layer`.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> class Classifier(rm.graph.core.GraphFactory):
        ...     def prepare(self, units):
        ...         self.fc1 = rm.graph.Dense(units, activation="relu")
        ...         self.fc2 = rm.graph.Dense(2)
        ...     def connect(self, x):
        ...         return self.fc2(self.fc1(x))
        >>> Classifier(4)(np.ones((3, 5), np.float32)).shape
        ('N', 2)
    """

    def __init__(
        self,
        *args: Any,
        parameter_decay: RegularizerSetting = None,
        optimizer: OptimizerSetting = None,
        activation: Any = None,
        checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            parameter_decay=parameter_decay, optimizer=optimizer, activation=activation, checkpoint=checkpoint
        )
        self.prepare(*args, **kwargs)

    def prepare(self) -> None:
        """Make layers; subclasses define it, with the arguments of the class."""

    def connect(self, *inputs: GraphElement) -> GraphElement:
        """Connect the inputs; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__}.connect: a factory must define it, got the base class's.")

    def forward(self, *inputs: GraphElement) -> GraphElement:
        """Return what `connect` makes of the inputs."""
        return self.connect(*inputs)


UserGraph = GraphElement
learnable_graph_element = GraphElement
graph_variable = Variable
