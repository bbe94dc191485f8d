"""`LoadedModel`: an ONNX model as a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.as_read import model_as_read
from renom_onnx.converters.importer import Call, ImportedGraph, at_least_opset, import_graph
from renom_onnx.converters.signature import ModelProto
from renom_onnx.converters.training_nodes import TrainingNodes
from renom_onnx.converters.unification import Symbols, fit
from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph import schema
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.layer import Layer, current_layers
from renom_onnx.graph.node import Value, type_text
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.variable import Variable


class LoadedModel(Layer):
    """An ONNX model as a layer: one element per node, parameters named as in the file.

    It is called like any layer, with arrays or elements for its inputs, in the file's order or by keyword; every call
    shares the parameters. A model that was never called can be exported, and its outputs can be looked at as they were
    read.

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
        self._read: tuple[ModelProto, Mapping[str, Value]] | None = None
        self.opset = graph.opset
        self.inputs = {name: GraphElement(value) for name, value in graph.inputs.items()}
        self.outputs = {name: GraphElement(value) for name, value in graph.outputs.items()}
        for name, value in graph.initializers.items():
            if isinstance(value.node, Parameter):
                value.node.owner = self
                self.params[name] = Variable(value)

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

    def to_proto(self) -> ModelProto:
        """Return the model as it was read, with today's values of its parameters."""
        return model_as_read(self._shell, [node for node, _ in self._graph.nodes], self._graph.initializers)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Connect the inputs and return the output, or a tuple of several.

        Args:
            inputs: arrays or elements, in the order of `inputs`.
            named: the same by name.

        Raises:
            ShapeError: one does not fit what the file says of it, or they are not as many as the file's.
            DTypeError: one is of a type that cannot be converted to the file's.
        """
        given = self._given(inputs, named)
        elements = [
            value if isinstance(value, GraphElement) else self._static(name, value) for name, value in given.items()
        ]
        return super().__call__(*elements)

    def _given(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        names = list(self.inputs)
        given = dict(zip(names, inputs, strict=False))
        twice = [name for name in named if name in given]
        unknown = [name for name in named if name not in names]
        missing = [name for name in names if name not in given and name not in named]
        if len(inputs) > len(names) or twice or unknown or missing:
            got = [*(f"{len(inputs)} by position" for _ in [0] if inputs), *named]
            raise ShapeError(
                f"LoadedModel: a call must give each of the inputs {', '.join(names) or 'none'} once, got "
                f"{', '.join(got) or 'nothing'}. {created_at(user_site())}"
            )
        return {name: named[name] if name in named else given[name] for name in names}

    def _static(self, name: str, array: Any) -> GraphElement:
        """Return an array as an element; N stands for its rows unless the file fixes their number."""
        shape = self.inputs[name].shape
        element = static(array, is_batch=shape is None or (bool(shape) and not isinstance(shape[0], int)))
        element.output.node.name = name  # type: ignore[attr-defined]
        return element

    def forward(self, *inputs: GraphElement) -> Any:
        """Connect the file's nodes to the inputs."""
        proto, leaves = self._template()
        symbols = Symbols()
        casts: dict[str, np.dtype[Any]] = {}
        operands: dict[str, Value] = {}
        for (name, placeholder), element in zip(self.inputs.items(), inputs, strict=True):
            formal, actual = placeholder.output, element.output
            if problem := fit(symbols, formal.shape, actual.shape):
                raise ShapeError(
                    f"LoadedModel: input {name!r} must be {formal}, {problem}, got {actual}. To free a size that the "
                    f'file fixes, load it with inputs={{"{name}": (...)}}. {created_at(user_site())}'
                )
            if actual.dtype != formal.dtype:
                self._check_cast(name, actual, formal)
                casts[name] = formal.dtype
            operands[name] = actual
        graph = import_graph(proto, leaves=leaves, call=Call(operands, casts, symbols, current_layers()))
        self._training.attach(node for node, _ in graph.nodes)
        outputs = tuple(GraphElement(value) for value in graph.outputs.values())
        return outputs[0] if len(outputs) == 1 else outputs

    def _template(self) -> tuple[ModelProto, Mapping[str, Value]]:
        """Return what a call reads: the file, or the same at the oldest opset that trains, and its leaves."""
        if self._read is None:
            proto = model_as_read(self._shell, [node for node, _ in self._graph.nodes])
            leaves = self._graph.initializers
            if self.opset < schema.DEFAULT_OPSET:
                proto = at_least_opset(self.to_proto(), schema.DEFAULT_OPSET)
                leaves = import_graph(proto, leaves=leaves).initializers
            self._read = proto, leaves
        return self._read

    def _check_cast(self, name: str, actual: Value, formal: Value) -> None:
        if object in (actual.dtype, formal.dtype) or not np.can_cast(actual.dtype, formal.dtype, "same_kind"):
            raise DTypeError(
                f"LoadedModel: input {name!r} must be {formal}, got {actual}. Convert it with "
                f".astype({formal.dtype.name!r}). {created_at(user_site())}"
            )

    def __repr__(self) -> str:
        """Return inputs, outputs, and how many nodes and parameters there are."""
        lines = [f"LoadedModel {self._shell.graph.name!r}, opset {self.opset}, {len(self._graph.nodes)} nodes"]
        for kind, elements in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"  {kind} {name}: {type_text(e.dtype, e.shape)}" for name, e in elements.items()]
        sizes = [parameter.array.size for parameter in self.parameters()]
        lines.append(f"  {len(sizes)} parameters of {sum(sizes)} numbers")
        return "\n".join(lines)
