"""`LoadedModel`: an ONNX model as a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from renom_onnx.converters.as_read import model_as_read, shell_of
from renom_onnx.converters.continuation import Continuation, is_continuable
from renom_onnx.converters.encoding import clear_data
from renom_onnx.converters.importer import Call, ImportedGraph, at_least_opset, import_graph
from renom_onnx.converters.operands import elements_of, meet
from renom_onnx.converters.signature import ModelProto
from renom_onnx.converters.training_nodes import TrainingNodes
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.body import Type
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, current_layers
from renom_onnx.graph.node import Constant, Value, type_text
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.variable import Variable

MOST_OPERATORS = 6
"""Operators that the text of a model counts."""


class LoadedModel(Layer):
    """An ONNX model as a layer: one element per node, parameters named as in the file.

    It is called like any layer, with arrays or elements for its inputs, in the file's order or by keyword; every call
    shares the parameters. A model that was never called can be exported, and its outputs can be looked at as they were
    read. An export of the model itself is always the file, with today's values of its parameters.

    Attributes:
        inputs: placeholders by name, in the file's order.
        outputs: elements by name, on the placeholders.
        opset: version of the default domain that the file asks for.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> model = rm.load(file)
        >>> model(np.ones((4, 3), np.float32)).shape
        ('N', 2)
        >>> [name for name, parameter in model.named_parameters()]
        ['dense1.w', 'dense1.b']
    """

    def __init__(self, shell: ModelProto, graph: ImportedGraph) -> None:
        super().__init__()
        self._shell = shell
        self._graph = graph
        self._training = TrainingNodes(node for node, _ in graph.nodes)
        self._continued: Continuation | None = None
        self._loss: GraphElement | None = None
        self._read: tuple[ModelProto, Mapping[str, Value]] | None = None
        self.opset = graph.opset
        self.inputs = {name: GraphElement(value) for name, value in graph.inputs.items()}
        self.outputs = {name: GraphElement(value) for name, value in graph.outputs.items()}
        for name, value in graph.initializers.items():
            if isinstance(value.node, Parameter):
                value.node.owner = self
                self.params[name] = Variable(value)

    # Training files

    @property
    def _continuation(self) -> Continuation | None:
        if self._continued is None and is_continuable(self._shell):
            model = model_as_read(self._shell, [node for node, _ in self._graph.nodes])
            self._continued = Continuation(model, self._graph.initializers)
            for tensor in self._shell.training_info[0].algorithm.initializer:
                if tensor.name in self._continued.leaves:
                    clear_data(tensor)  # the leaves have the values from now on
        return self._continued

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer of a training file, with its state; None for other files."""
        return self._continuation.optimizer if self._continuation is not None else None

    @property
    def loss(self) -> GraphElement | None:
        """The loss of a training file, on placeholders, with its backward pass and updates; None for other files.

        ``rm.export_training(model.loss, model.optimizer, path)`` writes the training file again. `connect_loss` gives
        the same loss over data.
        """
        if self._continuation is not None and self._loss is None:
            self._loss = GraphElement(self._continuation.loss())
            self._loss._updates(self._continuation.optimizer)
        return self._loss

    def connect_loss(self, *inputs: Any, **named: Any) -> GraphElement:
        """Connect the loss of a training file to data; training it with `optimizer` goes on where the file ended.

        Args:
            inputs: arrays or elements for the file's inputs and then for the targets, in the file's order.
            named: the same by name.

        Returns:
            The loss.

        Raises:
            ConversionError: the file holds no training step that `export_training` wrote.
            ShapeError, DTypeError: an operand does not fit.
        """
        if self._continuation is None:
            raise ConversionError(
                f"connect_loss: the file must hold a training step of rm.export_training, got one without. Connect a "
                f"loss to the model's outputs. {created_at(user_site())}"
            )
        declared = self._continuation.inputs
        elements = elements_of(declared, inputs, named)
        return GraphElement(self._continuation.loss(meet(declared, list(elements.values()))))

    # Nodes that differ in training

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield a `Dropout` for every Dropout node of the file, by the node's name; its rate may be assigned to."""
        yield from self._training.dropouts.items()

    def train_statistics(self, on: bool = True, *, unbiased: bool = False) -> None:
        """Let training normalize by the statistics of the batch and move the running ones, or not.

        A loaded model starts without: its batch normalization uses the running statistics of the file in training too,
        as is usual where a small data set tunes a large model. The setting holds for losses whose backward pass is
        built from then on.

        Args:
            on: False freezes the statistics.
            unbiased: move the running variance by that of a sample, n / (n - 1) times the batch's, as PyTorch does;
                ONNX's definition is the batch's.
        """
        self._training.trains_statistics = on
        self._training.unbiased = unbiased

    # Calls and exports

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Connect the inputs and return the output, or a tuple of several.

        Args:
            inputs: arrays or elements, in the order of `inputs`.
            named: the same by name.

        Raises:
            ShapeError: one does not fit what the file says of it, or they are not as many as the file's.
            DTypeError: one is of a type that cannot be converted to the file's.
        """
        return super().__call__(*elements_of(self._declared(), inputs, named).values())

    def forward(self, *inputs: GraphElement) -> Any:
        """Connect the file's nodes to the inputs."""
        operands = meet(self._declared(), inputs)
        proto, leaves = self._template()
        call = Call(operands.values, operands.casts, operands.symbols, current_layers())
        graph = import_graph(proto, leaves=leaves, call=call)
        self._training.attach(node for node, _ in graph.nodes)
        outputs = tuple(GraphElement(value) for value in graph.outputs.values())
        return outputs[0] if len(outputs) == 1 else outputs

    def _declared(self) -> dict[str, Type]:
        return {name: (element.dtype, element.shape) for name, element in self.inputs.items()}

    def _template(self) -> tuple[ModelProto, Mapping[str, Value]]:
        """Return what a call reads: the file, or the same at the oldest opset that trains, and its leaves."""
        if self._read is None:
            proto, leaves = self._bare(), self._graph.initializers
            if self.opset < schema.DEFAULT_OPSET:
                small = {name: value for name, value in leaves.items() if isinstance(value.node, Constant)}
                proto = at_least_opset(self._bare(small), schema.DEFAULT_OPSET)
                leaves = import_graph(proto, leaves=leaves).initializers
            self._read = proto, leaves
        return self._read

    def _bare(self, initializers: Mapping[str, Value] | None = None) -> ModelProto:
        """Return the inference model with the values of these initializers alone."""
        shell = shell_of(self._shell, with_training=False)
        return model_as_read(shell, [node for node, _ in self._graph.nodes], initializers)

    def to_proto(self) -> ModelProto:
        """Return the model as it was read, with today's values of its parameters and of its training state."""
        state = self._continued.leaves if self._continued is not None else {}
        return model_as_read(self._shell, [node for node, _ in self._graph.nodes], self._graph.initializers, state)

    def __repr__(self) -> str:
        """Return inputs, outputs, and how many nodes and parameters there are."""
        counts = Counter(node.op_type or "Constant" for node, _ in self._graph.nodes)
        operators = ", ".join(f"{n} {op_type}" for op_type, n in counts.most_common(MOST_OPERATORS))
        operators += ", …" if len(counts) > MOST_OPERATORS else ""
        n_nodes = len(self._graph.nodes)
        lines = [f"LoadedModel {self._shell.graph.name!r}, opset {self.opset}, {n_nodes} nodes: {operators or 'none'}"]
        for kind, elements in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"  {kind} {name}: {type_text(e.dtype, e.shape)}" for name, e in elements.items()]
        sizes = [parameter.array.size for parameter in self.parameters()]
        lines.append(f"  {len(sizes)} parameters of {sum(sizes)} numbers")
        if len(self._shell.training_info):
            optimizer = next((e.value for e in self._shell.metadata_props if e.key == "optimizer"), "")
            lines.append(f"  training: {optimizer or f'{len(self._shell.training_info)} steps'}")
        return "\n".join(lines)
