"""What may be set on a layer and holds for everything in it: who updates its parameters, and whether it trains."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from renom_onnx.errors import ConversionError
from renom_onnx.graph import tree
from renom_onnx.graph.node import Node, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers import as_optimizer
from renom_onnx.graph.parameter import Parameter, Statistic
from renom_onnx.graph.regularizer import Regularizer, as_regularizer
from renom_onnx.graph.site import created_at, user_site

if TYPE_CHECKING:
    from renom_onnx.graph.layer import Layer

OneOptimizer = Optimizer | str | None
OneRegularizer = Regularizer | str | float | None
OptimizerSetting = OneOptimizer | Mapping[str, OneOptimizer]
RegularizerSetting = OneRegularizer | Mapping[str, OneRegularizer]


class Settings(TypedDict, total=False):
    """What every layer with parameters takes besides its own arguments; see `Layer`."""

    activation: Layer | str | None
    optimizer: OptimizerSetting
    parameter_decay: RegularizerSetting
    weight_decay: OneRegularizer
    checkpoint: bool


_count = itertools.count()


@dataclass(frozen=True)
class _Rule:
    """What was set for the parameters whose names match; of two rules for one parameter the younger holds."""

    number: int
    setting: str
    value: Any
    pattern: str
    is_anywhere: bool  # the pattern is of the end of a name: "w" is every w, "dense1.w" that of every dense1

    def apply(self, name: str, parameter: Parameter) -> None:
        if not isinstance(parameter, Statistic) and self._matches(name):
            setattr(parameter, self.setting, self.value)

    def _matches(self, name: str) -> bool:
        if fnmatch.fnmatchcase(name, self.pattern):
            return True
        if not self.is_anywhere:
            return False
        return fnmatch.fnmatchcase(".".join(name.split(".")[-len(self.pattern.split(".")) :]), self.pattern)


def apply_settings(parameter: Parameter, layers: Iterable[LayerSettings]) -> None:
    """Apply to a new parameter what was set on the layers that hold it."""
    rules = [
        (rule, name)
        for layer in layers
        if layer._rules
        for name, other in layer.named_parameters()
        if other is parameter
        for rule in layer._rules
    ]
    for rule, name in sorted(rules, key=lambda found: found[0].number):
        rule.apply(name, parameter)


class LayerSettings:
    """The settings of a layer; the layer says which layers it holds and what its parameters are called.

    Attributes:
        is_inference: whether the layer is in training what it is in inference.
    """

    def __init__(self, optimizer: OptimizerSetting, decay: RegularizerSetting, weight_decay: OneRegularizer) -> None:
        self.is_inference = False
        self._blocks = {"inference": 0, "no_updates": 0}
        self._rules: list[_Rule] = []
        if optimizer is not None:
            self.set_optimizer(optimizer)
        if weight_decay is not None:
            self.set_regularizer({"w*": weight_decay})
        if decay is not None:
            self.set_regularizer(decay)

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield names and parameters."""
        raise NotImplementedError

    def held_layers(self) -> Iterator[Layer]:
        """Yield this layer and all layers in it, each once."""
        raise NotImplementedError

    # Updates

    def set_updatable(self, is_updatable: bool, pattern: str = "*") -> None:
        """Freeze parameters, or train them again; those that later calls make too.

        Training graphs hold no gradient and no update of a frozen parameter. Running statistics are not parameters that
        training updates and are left alone.

        Args:
            is_updatable: False freezes.
            pattern: which parameters, by `named_parameters`' names, with the wildcards of `fnmatch`: ``"encoder.*"``.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> model = rm.graph.Sequential([rm.graph.Dense(4), rm.graph.Relu(), rm.graph.Dense(2)])
            >>> model.set_updatable(False, "dense1.*")
            >>> _ = model(np.ones((3, 5), np.float32))
            >>> [name for name, parameter in model.named_parameters() if parameter.trainable]
            ['dense2.w', 'dense2.b']
        """
        self._set("trainable", bool(is_updatable), pattern)

    def set_optimizer(self, optimizer: OptimizerSetting, pattern: str = "*") -> None:
        """Give parameters an optimizer of their own; None takes it away again.

        Args:
            optimizer: updates these parameters, whatever optimizer the training is given: an `Optimizer`, the name of
                one with its defaults ("adam"), or a dict of these by ends of names: ``{"w": Sgd(0.1), "b": "sgd"}``.
            pattern: which parameters, as for `set_updatable`; a dict says it itself.

        Raises:
            ConversionError: there is no optimizer of that name.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> dense = rm.graph.Dense(2)
            >>> dense.set_optimizer(rm.graph.Adam(0.001), "w")
        """
        self._set_each("optimizer", optimizer, pattern, lambda one: as_optimizer(one, "set_optimizer"))

    def set_regularizer(self, regularizer: RegularizerSetting, pattern: str = "*") -> None:
        """Add a penalty to the gradients of parameters; None takes it away again.

        Args:
            regularizer: such as ``rm.graph.L2(0.01)``; a number is the weight of an `L2`, "l1" and "l2" are those with
                their defaults, and a dict has these by the ends of names: ``{"w": L2(0.01)}`` is for every w.
            pattern: which parameters, as for `set_updatable`; ``"*w"`` leaves the biases alone.

        Raises:
            ConversionError: it is none of these.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> model = rm.graph.Sequential([rm.graph.Dense(4), rm.graph.Dense(2)])
            >>> model.set_regularizer(rm.graph.L2(0.01), "*w")
        """
        self._set_each("regularizer", regularizer, pattern, lambda one: as_regularizer(one, "set_regularizer"))

    set_optimizers = set_optimizer
    set_decays = set_regularizer

    def _set_each(self, setting: str, given: Any, pattern: str, made: Callable[[Any], Any]) -> None:
        """Set one value by a pattern, or those of a dict, whose keys are ends of names."""
        if not isinstance(given, Mapping):
            self._set(setting, made(given), pattern)
            return
        for key, one in given.items():
            self._set(setting, made(one), key, is_anywhere=True)

    def _set(self, setting: str, value: Any, pattern: str, *, is_anywhere: bool = False) -> None:
        rule = _Rule(next(_count), setting, value, pattern, is_anywhere)
        self._rules.append(rule)
        for name, parameter in self.named_parameters():
            rule.apply(name, parameter)

    @contextlib.contextmanager
    def no_updates(self) -> Iterator[None]:
        """Within the block, nothing updates the parameters of this layer; what is connected there never does.

        Gradients pass on to the inputs. Afterwards everything is as before, after an error too.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> dense = rm.graph.Dense(1, initializer=rm.utility.initializer.Constant(1))
            >>> x = rm.graph.StaticVariable(np.ones((1, 2), np.float32))
            >>> with dense.no_updates():
            ...     target = dense(x)
            >>> print((dense(x) * target).backward().get_gradient(dense.params["w"]))  # target counts as a number
            [[2.]
             [2.]]
        """
        frozen = [p for _, p in self.named_parameters() if p.trainable]
        with self._block("no_updates"):
            for parameter in frozen:
                parameter.trainable = False
            try:
                yield
            finally:
                for parameter in frozen:
                    parameter.trainable = True

    # Inference

    def set_inference(self, is_inference: bool) -> None:
        """Let this layer and all in it be in training what they are in inference, or no longer.

        Dropout then drops nothing; batch normalization uses its running statistics and does not move them. (Values that
        are printed or exported are always those of inference.) An executor keeps what was set when it was made.

        Example:
            >>> import renom_onnx as rm
            >>> backbone = rm.graph.Sequential([rm.graph.Conv(8), rm.graph.BatchNormalize()])
            >>> backbone.set_inference(True)
            >>> backbone[1].is_inference
            True
        """
        for layer in self.held_layers():
            layer.is_inference = bool(is_inference)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Within the block, this layer and all in it are in inference; what is connected there stays so.

        Afterwards everything is as before, after an error too.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> dropout = rm.graph.Dropout(0.5)
            >>> with dropout.inference():
            ...     y = dropout(rm.graph.StaticVariable(np.ones((1, 2))))
            >>> dropout.is_inference
            False
        """
        before = [(layer, layer.is_inference) for layer in self.held_layers()]
        with self._block("inference"):
            self.set_inference(True)
            try:
                yield
            finally:
                for layer, was in before:
                    layer.is_inference = was

    @contextlib.contextmanager
    def _block(self, kind: str) -> Iterator[None]:
        layers = list(self.held_layers())
        for layer in layers:
            layer._blocks[kind] += 1
        try:
            yield
        finally:
            for layer in layers:
                layer._blocks[kind] -= 1

    def is_in(self, kind: str) -> bool:
        """Whether this layer is in a block of `inference` or "no_updates"."""
        return self._blocks[kind] > 0


def keep_inference(layer: Layer, output: Value, inputs: list[Value]) -> None:
    """Make what a call connected, from the inputs to the output, what it is in inference for good."""
    for node in ancestors([output], [value.node for value in inputs]):
        if layer in node.layers:
            node.training_form = None


def in_inference(node: Node) -> bool:
    """Whether one of the layers that made a node is in inference."""
    return any(layer.is_inference for layer in node.layers)


class ElementSettings:
    """The settings of the layer that made an element, for whoever has the element alone."""

    output: Value

    def set_updatable(self, is_updatable: bool, pattern: str = "*") -> None:
        """Freeze the layer that returned this element; see `Layer.set_updatable`."""
        self._layer("set_updatable").set_updatable(is_updatable, pattern)

    def set_optimizer(self, optimizer: OptimizerSetting, pattern: str = "*") -> None:
        """Give the layer that returned this element an optimizer of its own; see `Layer.set_optimizer`."""
        self._layer("set_optimizer").set_optimizer(optimizer, pattern)

    def set_regularizer(self, regularizer: RegularizerSetting, pattern: str = "*") -> None:
        """Add a penalty to the layer that returned this element; see `Layer.set_regularizer`."""
        self._layer("set_regularizer").set_regularizer(regularizer, pattern)

    def set_inference(self, is_inference: bool) -> None:
        """Let the layer that returned this element train or not; see `Layer.set_inference`."""
        self._layer("set_inference").set_inference(is_inference)

    def set_all_inference(self, is_inference: bool) -> None:
        """Let all layers before this element train or not; see `Layer.set_inference`."""
        for layer in dict.fromkeys(layer for node in ancestors([self.output]) for layer in node.layers):
            layer.set_inference(is_inference)

    def _layer(self, caller: str) -> Layer:
        """Return the layer whose call the program wrote."""
        node = self.output.node
        if not node.layers:
            raise ConversionError(
                f"{caller}: the element must be what a layer returned, got {tree.printed_name(node)}. Call it on the "
                f"layer, or on what the layer returned. {created_at(user_site())}"
            )
        layer: Layer = node.layers[0]
        return layer


__all__ = ["ElementSettings", "LayerSettings", "Settings", "apply_settings", "in_inference", "keep_inference"]
