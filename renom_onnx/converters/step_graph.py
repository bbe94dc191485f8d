"""`StepGraph`: the graph of a training step while it is rewritten for several devices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.importer import captured, default_opset
from renom_onnx.converters.training_info import with_graph
from renom_onnx.errors import ConversionError, first_line
from renom_onnx.graph.node import Shape

LARGE = 1024
"""Initializers with more elements than this tell inference nothing but their sizes."""


@dataclass(frozen=True)
class Exchange:
    """Values that every device computes from its part of the batch, and the names of their sums over all devices.

    Attributes:
        values: floats of known sizes and of one type.
        sums: what the graph reads in their place.
        shapes: of both.
        dtype: of both.
        is_last: whether it comes after all others.
    """

    values: tuple[str, ...]
    sums: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]
    is_last: bool = False

    @property
    def sizes(self) -> list[int]:
        """Numbers of elements."""
        return [int(np.prod(shape)) for shape in self.shapes]


class StepGraph:
    """Nodes by what they write, with new ones added in any order.

    Args:
        model: a step whose batch, state and settings are all inputs.

    Attributes:
        nodes: in no particular order once some were added; `in_order` sorts them.
        exchanges: sums over devices that were added.
        inputs: by name; what a device is given.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._frame = with_graph(model, onnx.GraphProto())
        self.nodes = list(model.graph.node)
        self.inputs = {i.name: i for i in model.graph.input}
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.exchanges: list[Exchange] = []
        self.opset = default_opset(model)
        self._taken = {name for node in self.nodes for name in [node.name, *node.output, *node.input]}
        self._taken |= set(self.inputs) | set(self.initializers)
        self.types: dict[str, tuple[np.dtype[Any], Shape | None]] = {}
        self.infer()

    def infer(self) -> None:
        """Find element type and shape of every value.

        Raises:
            ConversionError: onnx cannot.
        """
        large = {n: t for n, t in self.initializers.items() if int(np.prod(t.dims)) > LARGE}
        inputs = [*self.inputs.values(), *(self.info(n, _dtype(t), tuple(t.dims)) for n, t in large.items())]
        try:
            inferred = shape_inference.infer_shapes(self.model(self.in_order(), inputs), data_prop=True)
        except Exception as e:
            raise ConversionError(
                f"several devices: onnx must be able to infer the types of a step, got: {first_line(e)}."
            ) from e
        infos = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        self.types = {i.name: value_type(i.type) for i in infos if i.type.tensor_type.elem_type}
        for name, tensor in self.initializers.items():
            self.types[name] = (_dtype(tensor), tuple(tensor.dims))
        for exchange in self.exchanges:
            self.types.update(
                (name, (exchange.dtype, shape)) for name, shape in zip(exchange.sums, exchange.shapes, strict=True)
            )

    def model(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto] = (),
        name: str = "step",
    ) -> onnx.ModelProto:
        """Return a model of some of the nodes."""
        read = {n for node in nodes for n in reads(node)} | {o.name for o in outputs}
        given = {i.name for i in inputs} | {name for node in nodes for name in node.output}
        tensors = [t for n, t in self.initializers.items() if n in read and n not in given]
        infos = [v for v in self._sum_infos() if v.name in read and v.name not in given]
        return with_graph(self._frame, helper.make_graph(nodes, name, [*inputs, *infos], outputs, tensors))

    def _sum_infos(self) -> Iterable[onnx.ValueInfoProto]:
        for exchange in self.exchanges:
            for name, shape in zip(exchange.sums, exchange.shapes, strict=True):
                yield self.info(name, exchange.dtype, shape)

    @staticmethod
    def info(name: str, dtype: Any, shape: Shape | None) -> onnx.ValueInfoProto:
        """Return name, element type and shape as protobuf."""
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    # Adding

    def fresh(self, name: str) -> str:
        """Return the name, with a number if it is taken, and take it."""
        unique, number = name, 2
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique

    def constant(self, value: Any, dtype: Any, name: str = "constant") -> str:
        """Return the name of a new initializer."""
        array = np.asarray(value, dtype)
        unique = self.fresh(name)
        self.initializers[unique] = numpy_helper.from_array(array, unique)
        self.types[unique] = (array.dtype, array.shape)
        return unique

    def op(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node of a standard operator and return the name of its output."""
        output = self.fresh(name or op_type)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def cast(self, value: str, dtype: Any) -> str:
        """Return the value in another element type."""
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def exchange(
        self, values: Sequence[str], shapes: Sequence[Sequence[int]], dtype: Any = np.float64, *, is_last: bool = False
    ) -> list[str]:
        """Add a sum over all devices and return the names of the sums."""
        sums = [self.fresh(f"{value}.sum") for value in values]
        kept = tuple(tuple(shape) for shape in shapes)
        self.exchanges.append(Exchange(tuple(values), tuple(sums), kept, np.dtype(dtype), is_last))
        return sums

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Return the name of a new input."""
        unique = self.fresh(name)
        self.inputs[unique] = self.info(unique, dtype, shape)
        self.types[unique] = (np.dtype(dtype), shape)
        return unique

    def replace(self, node: onnx.NodeProto, **changes: Sequence[str]) -> None:
        """Give a node other inputs or outputs."""
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for field, names in changes.items():
            del getattr(changed, field)[:]
            getattr(changed, field).extend(names)
        self.nodes[next(i for i, n in enumerate(self.nodes) if n is node)] = changed

    def drop(self, node: onnx.NodeProto) -> None:
        """Take a node out."""
        self.nodes = [other for other in self.nodes if other is not node]

    # Looking

    @property
    def functions(self) -> Sequence[onnx.FunctionProto]:
        """What calls are defined by."""
        return list(self._frame.functions)

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Return the node that writes each value."""
        return {name: node for node in self.nodes for name in node.output if name}

    def dependents(self, sources: Collection[str], *, through_sums: bool = True) -> set[str]:
        """Return the sources and every value that is computed from one of them."""
        found = set(sources)
        for step in self.in_order(with_exchanges=True):
            if isinstance(step, Exchange):
                if through_sums and not found.isdisjoint(step.values):
                    found.update(step.sums)
            elif not found.isdisjoint(reads(step)):
                found.update(name for name in step.output if name)
        return found

    def in_order(self, *, with_exchanges: bool = False) -> list[Any]:
        """Return the nodes, and the exchanges if they are asked for, each after what writes its operands."""
        steps: list[Any] = [*self.nodes, *self.exchanges]
        writer = {name: i for i, step in enumerate(steps) for name in written(step) if name}
        order: list[int] = []
        state = [0] * len(steps)  # 1: waits for its operands, 2: done
        for root in range(len(steps)):
            stack = [root]
            while stack:
                i = stack[-1]
                if state[i]:
                    stack.pop()
                    if state[i] == 1:
                        state[i] = 2
                        order.append(i)
                    continue
                state[i] = 1
                waiting = [writer[n] for n in operands(steps[i]) if n in writer and state[writer[n]] != 2]
                assert all(state[j] == 0 for j in waiting), "a step must have no cycle"
                stack += reversed(waiting)
        found = [steps[i] for i in order]
        return found if with_exchanges else [step for step in found if not isinstance(step, Exchange)]

    def dims(self, name: str, what: str) -> tuple[int, ...]:
        """Return the sizes of a value.

        Raises:
            ConversionError: one of them is not known.
        """
        shape = self.types[name][1] if name in self.types else None
        if shape is None or any(isinstance(d, str) for d in shape):
            raise ConversionError(f"several devices: {what} must have known sizes, got {name!r} of shape {shape}.")
        return tuple(d for d in shape if isinstance(d, int))


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node, and the graphs in it, read."""
    return [name for name in [*node.input, *captured(node)] if name]


def operands(step: onnx.NodeProto | Exchange) -> list[str]:
    """Return what a node or an exchange reads."""
    return list(step.values) if isinstance(step, Exchange) else reads(step)


def written(step: onnx.NodeProto | Exchange) -> list[str]:
    """Return what a node or an exchange writes."""
    return list(step.sums) if isinstance(step, Exchange) else list(step.output)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or the default."""
    for found in node.attribute:
        if found.name == name:
            value = helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default
