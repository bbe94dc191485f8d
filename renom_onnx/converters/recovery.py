"""The optimizer of a training file: class, hyperparameters and state, read from the nodes that update parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import onnx

from renom_onnx.converters.encoding import array_of
from renom_onnx.converters.settings import shortest
from renom_onnx.errors import ConversionError
from renom_onnx.graph.function import DOMAIN
from renom_onnx.graph.loss_scale import LossScale
from renom_onnx.graph.node import Mutable, State
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter
from renom_onnx.graph.regularizer import Regularizer

Kind = TypeVar("Kind", Optimizer, Regularizer)


def by_name(base: type[Kind], key: Any) -> dict[str, type[Kind]]:
    """Return the classes derived from one by the name that their function has in a file; later ones win.

    A class that computes what its base does, such as one with other names for the arguments, gives way to the base.
    """
    found: dict[str, type[Kind]] = {}
    stack: list[type[Kind]] = [base]
    while stack:
        derived = stack.pop(0)
        if key(derived) not in found or not {"fragment", "penalty", "scalars"}.isdisjoint(vars(derived)):
            found[key(derived)] = derived
        stack += derived.__subclasses__()
    del found[key(base)]
    return found


class Recovery:
    """Optimizers and regularizers of a step.

    Args:
        algorithm: of the file.
        parameters: by name.
        settings: as `read_settings` returns them.
        name: of the main optimizer.

    Attributes:
        optimizer: of the parameters that have none of their own.
        leaves: everything that these own, by its name in the file.

    Raises:
        ConversionError: the file updates a parameter with an optimizer that no class here is called by.
    """

    def __init__(
        self,
        algorithm: onnx.GraphProto,
        parameters: Mapping[str, Parameter],
        settings: Mapping[str, Any],
        name: str,
    ) -> None:
        self.leaves: dict[str, Mutable] = {}
        self._tensors = {tensor.name: tensor for tensor in algorithm.initializer}
        self._writers = {output: node for node in algorithm.node for output in node.output if output}
        self._nodes = [node for node in algorithm.node if node.domain == DOMAIN]
        self._parameters = parameters
        self._settings = settings
        self._regularizers: dict[tuple[str, str], Regularizer] = {}
        self._optimizers: dict[tuple[str, str], Optimizer] = {}
        self._counters: dict[Optimizer, str] = {}
        updates = list(self._updates())
        mains = [key for key, _, _ in updates if key[0] == name]
        main = min(mains, key=lambda key: (len(key[1]), key[1]), default=("", ""))
        self.optimizer = self._optimizers.get(main) or self._default(name)
        self._regularize()
        for key, parameter, node in updates:
            optimizer = self._optimizers[key]
            if optimizer is not self.optimizer:
                parameter.optimizer = optimizer
            n_states = len(optimizer.state_names)
            names = list(node.input)[len(node.input) - n_states :]
            for state, state_name in zip(optimizer.states(parameter), names, strict=True):
                self._fill(state, state_name)
        self._fill_counters([(key, parameter) for key, parameter, _ in updates])

    def _updates(self) -> Iterator[tuple[tuple[str, str], Parameter, onnx.NodeProto]]:
        """Yield the key of the optimizer, the parameter and the node of every update."""
        classes = by_name(Optimizer, lambda kind: kind.name)
        for node in self._nodes:
            parameter = self._parameters.get(node.input[0]) if node.input else None
            if parameter is None or len(node.input) < 3 or node.output[0] == "" or not self._is_update(node):
                continue
            if node.op_type not in classes:
                raise ConversionError(
                    f"load: the optimizer of {node.input[0]} must be a class of this program, got {node.op_type}, "
                    f"which none is called by. Import the module that defines it before."
                )
            rate, step = self._rate_and_step(node)
            key = (node.op_type, rate)
            if key not in self._optimizers:
                self._optimizers[key] = optimizer = self._made(classes[node.op_type], node, rate)
                self.leaves[rate] = optimizer.rate
                if step:
                    self._counters[optimizer] = step
            yield key, parameter, node

    def _is_update(self, node: onnx.NodeProto) -> bool:
        """Whether a call gives the next value of the parameter that it reads first."""
        return node.name.startswith(f"{node.input[0]}/")

    def _rate_and_step(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Return the names of the learning rate and of the step count that an update is made with."""
        scalar = node.input[2]
        step = self._writers.get(scalar)
        if step is None or step.op_type != f"{node.op_type}Step":
            return scalar, ""
        count = step.input[1]
        if count in self._writers:
            count = self._writers[count].input[0]
        return step.input[0], count

    def _made(self, kind: type[Optimizer], node: onnx.NodeProto, rate: str) -> Optimizer:
        exact = self._settings.get("hyperparameters", {}).get(node.op_type, {})
        values: dict[str, Any] = {}
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            given = shortest(value) if isinstance(value, float) else bool(value)  # an int stands for a bool
            values[attribute.name] = exact.get(attribute.name, given)
        options = self._options() if rate == "learning_rate" else {}
        optimizer = kind(learning_rate=0.0, **values, **options)
        optimizer.rate.array = self._array(rate)
        return optimizer

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {name: settings[name] for name in ("clip_norm", "accumulate") if name in settings}
        if "clip_value" in settings:
            options["clip_value"] = tuple(settings["clip_value"])
        if "loss_scale" in settings:
            options["loss_scale"] = LossScale(**settings["loss_scale"])
        return options

    def _default(self, name: str) -> Optimizer:
        """Return an optimizer of that name where every parameter has one of its own."""
        kind = by_name(Optimizer, lambda kind: kind.name).get(name)
        if kind is None:
            raise ConversionError(f"load: the file must say which optimizer it was written with, got {name!r}.")
        return kind(**self._options())

    def _regularize(self) -> None:
        classes = by_name(Regularizer, lambda kind: kind.__name__)
        for node in self._nodes:
            parameter = self._parameters.get(node.input[0]) if node.input else None
            if parameter is None or node.op_type not in classes or len(node.input) != 3:
                continue
            key = (node.op_type, node.input[2])
            if key not in self._regularizers:
                self._regularizers[key] = regularizer = classes[node.op_type](float(self._array(node.input[2])))
                self.leaves[node.input[2]] = regularizer.weight
            parameter.regularizer = self._regularizers[key]

    def _fill_counters(self, updates: list[tuple[tuple[str, str], Parameter]]) -> None:
        """Give the counts of steps and batches, the loss scale and the sums of gradients their values."""
        for optimizer, step in self._counters.items():
            first = next(p for key, p in updates if self._optimizers[key] is optimizer)
            self._fill(optimizer.counters(first)[0], step)
        if not updates:
            return
        if self.optimizer.accumulate > 1:
            self._fill(self.optimizer.counters(updates[0][1])[1], "batches")
            for _, parameter in updates:
                self._fill(self.optimizer.accumulated(parameter)[0], f"{parameter.name}.accumulated")
        if (scale := self.optimizer.loss_scale) is not None:
            self._fill(scale.scale, "loss_scale")
            self._fill(scale.good_steps, "good_steps")

    def _fill(self, state: State, name: str) -> None:
        state.array = self._array(name)
        self.leaves[name] = state

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._tensors:
            raise ConversionError(f"load: the optimizer's state must be an initializer, got {name!r}, which is none.")
        return array_of(self._tensors[name]).copy()
