"""Layers and models: callables that own parameters and connect elements."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, Unpack

import numpy as np

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph import checkpoint as _checkpoint, parameter as _parameter, seed, weights
from renom_onnx.graph.element import GraphElement, static
from renom_onnx.graph.node import ancestors
from renom_onnx.graph.parameter import Parameter, Statistic
from renom_onnx.graph.setting import (
    LayerSettings,
    OneRegularizer,
    OptimizerSetting,
    RegularizerSetting,
    Settings,
    apply_settings,
    keep_inference,
)
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.variable import Variable
from renom_onnx.utility import initializer as _initializer

_active = threading.local()


def current_layers() -> tuple[Layer, ...]:
    """Return the layers that are being called, outermost first."""
    return getattr(_active, "layers", ())


class Parameters(dict[str, Variable]):
    """The parameters of a layer by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, name: str) -> Variable:
        """Say which parameters there are."""
        if not self:
            raise KeyError(
                f"{self._kind}: parameters are made by the first call, got {name!r} before it. Call it first."
            )
        raise KeyError(f"{self._kind}: a parameter must be one of {', '.join(self)}, got {name!r}.")


class Layer(LayerSettings):
    """A callable that connects elements and owns parameters.

    Subclasses write `forward`, and take parameters with `parameter`. Arrays are accepted as inputs: their rows are the
    batch. The same layer called twice shares its parameters.

    Args:
        activation: a layer, or the name of one that `Activation` knows, which is applied to the output.
        optimizer: of the parameters, as `set_optimizer` takes it; default: that of the training.
        parameter_decay: a penalty on the parameters, as `set_regularizer` takes it; ``{"w": L2(0.01)}`` leaves b alone.
        weight_decay: the same for the parameters whose names begin with w.
        checkpoint: True keeps nothing of a call for its gradient but what goes in and comes out; all between is
            computed again when the gradient needs it. Training then needs less memory and more time. Layers in this
            one are covered by it. May be assigned to, for calls to come.

    Attributes:
        params: the parameters by name, made at the first call; ``layer["w"]`` is ``layer.params["w"]``.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> class Scale(rm.graph.Layer):
        ...     def forward(self, x):
        ...         return x * self.parameter("g", (1, x.shape[1]), rm.utility.initializer.Constant(2))
        >>> print(Scale()(np.ones((1, 2), np.float32)))
        [[2. 2.]]
    """

    def __init__(
        self,
        *,
        activation: Layer | str | None = None,
        optimizer: OptimizerSetting = None,
        parameter_decay: RegularizerSetting = None,
        weight_decay: OneRegularizer = None,
        checkpoint: bool = False,
    ) -> None:
        self.params = Parameters(type(self).__name__)
        self._activation = _activation(activation)
        self.checkpoint = checkpoint
        self._loaded: dict[str, np.ndarray[Any, Any]] = {}
        super().__init__(optimizer, parameter_decay, weight_decay)

    def __call__(self, *inputs: Any, **named: Any) -> GraphElement:
        """Connect the inputs, elements or arrays, by position or by name, and return the output.

        None stands for an optional input that is left out.
        """
        elements = [_as_input(x) for x in inputs]
        further = {name: _as_input(x) for name, x in named.items()}
        outer = current_layers()
        _active.layers = (*outer, self)
        try:
            output = self.forward(*elements, **further)
            if self._activation is not None:
                output = self._activation(output)
        finally:
            _active.layers = outer
        given = [x.output for x in (*elements, *further.values()) if x is not None]
        if self.is_in("inference"):
            keep_inference(self, output.output, given)
        if self.checkpoint is True:
            several: Any = output  # a loaded model may have several outputs
            outputs = several if isinstance(several, tuple) else (several,)
            connected = ancestors([y.output for y in outputs], [value.node for value in given])
            _checkpoint.mark(node for node in connected if self in node.layers)
        self._last_output = output
        return output

    def _undefined_forward(self, *inputs: GraphElement) -> GraphElement:
        """Connect elements; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__}.forward: a layer must define it, got the base class's.")

    forward: Callable[..., GraphElement] = _undefined_forward

    @property
    def kind(self) -> str:
        """The class name in snake_case, of which names in an export are made."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def parameter(
        self,
        name: str,
        shape: Sequence[int | str],
        initializer: _initializer.Initializer | None = None,
        *,
        trainable: bool = True,
    ) -> GraphElement:
        """Return the parameter of that name, drawn when it is asked for first.

        Args:
            name: its key in `params`.
            shape: its sizes, all known.
            initializer: default GlorotNormal.
            trainable: False for a running statistic, which no optimizer changes.

        Raises:
            ShapeError: a size is not known or negative, or the parameter exists in another shape.
            ConversionError: the initializer is none.
        """
        where = f"{type(self).__name__}"
        if not all(isinstance(size, Integral) for size in shape):
            raise ShapeError(
                f"{where}: every size of {name} must be known, got {name} is [{', '.join(map(str, shape))}]. "
                f"Give the input a fixed size there. {created_at(user_site())}"
            )
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise ShapeError(
                f"{where}: every size of {name} must be 0 or more, got {name} is {list(sizes)}. "
                f"{created_at(user_site())}"
            )
        if name not in self.params:
            draw = initializer if initializer is not None else _initializer.GlorotNormal()
            if not callable(draw):
                raise ConversionError(
                    f"{where}: the initializer of {name} must be one of renom_onnx.utility.initializer or a function, "
                    f"got {type(draw).__name__}. {created_at(user_site())}"
                )
            array = draw(sizes, seed.parameter_generator(), _parameter.precision)
            kind = Parameter if trainable else Statistic
            made = kind(array, self, name)
            self.params[name] = Variable(made.output)
            holders = dict.fromkeys((*current_layers(), self))
            apply_settings(made, holders)
            for holder in holders:
                holder._take_loaded()
        found = self.params[name]
        if found.shape != sizes:
            raise ShapeError(
                f"{where}: an input must fit the parameters of the first call, got one that needs {name} of shape "
                f"{list(sizes)}, but {name} is {found.output}. Use a new {where} for it. {created_at(user_site())}"
            )
        if trainable and any(layer.is_in("no_updates") for layer in (*current_layers(), self)):
            from renom_onnx.graph.operators import stop_gradient  # which works on elements

            return stop_gradient(found)
        return found

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers that this one holds in attributes, lists and dicts, with their names."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from _named_layers(name, value)

    def held_layers(self) -> Iterator[Layer]:
        """Yield this layer and all layers in it, each once; the activation is one of them."""
        seen: set[Layer] = set()
        stack: list[Layer] = [self]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            yield current
            held = [child for _, child in current.layers()]
            stack.extend(reversed(held if current._activation is None else [*held, current._activation]))

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this layer and of all layers in it, each once."""
        for layer in self.held_layers():
            for element in layer.params.values():
                assert isinstance(element.output.node, Parameter)
                yield element.output.node

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield names, as an export of this layer has them but for its own name, and parameters."""
        for key, element in self.params.items():
            assert isinstance(element.output.node, Parameter)
            yield f"{prefix}{key}", element.output.node
        counts: dict[str, int] = {}
        activation = [("", self._activation)] if self._activation is not None else []
        for name, child in [*self.layers(), *activation]:
            if isinstance(self, Sequential) or not name:
                counts[child.kind] = counts.get(child.kind, 0) + 1
                name = f"{child.kind}{counts[child.kind]}"
            yield from child.named_parameters(f"{prefix}{name}.")

    def _take_loaded(self) -> None:
        """Give the parameters that exist what was loaded; a later call makes more of them."""
        if self._loaded:
            for name, parameter in self.named_parameters():
                if name in self._loaded:
                    parameter.array = weights.checked(self._loaded.pop(name), name, parameter)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all parameters, running statistics included, to an .npz file; written whole or not at all.

        ReNom's HDF5 files are neither written nor read: NumPy alone reads this one.

        Args:
            path: of the file.

        Raises:
            ConversionError: there are none yet, because the layer was never called.

        Example:
            >>> import numpy as np, renom_onnx as rm, tempfile, pathlib
            >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.npz")
            >>> first, second = rm.graph.Dense(2), rm.graph.Dense(2)
            >>> y = first(np.ones((1, 3), np.float32)).as_ndarray()
            >>> first.save(path)
            >>> second.load(path)
            >>> bool((second(np.ones((1, 3), np.float32)).as_ndarray() == y).all())
            True
        """
        weights.save(path, dict(self.named_parameters()), type(self).__name__)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the parameters that `save` wrote; those that do not exist yet get their values at the first call.

        Args:
            path: of the file.

        Raises:
            ConversionError: the file is damaged, or lacks a parameter of this layer.
            ShapeError: a parameter has another shape.
        """
        self._loaded = weights.load(path, dict(self.named_parameters()), type(self).__name__)
        self._take_loaded()

    def __getitem__(self, name: Any) -> Any:
        """Return a parameter by its name."""
        return self.params[name]

    def last_output(self) -> GraphElement | None:
        """Return what the last call returned."""
        return getattr(self, "_last_output", None)


def _as_input(x: Any) -> GraphElement | None:
    """Return an element as it is, and an array as one whose rows are the batch."""
    return x if x is None or isinstance(x, GraphElement) else static(x, is_batch=True)


def _activation(activation: Layer | str | None) -> Layer | None:
    if isinstance(activation, str):
        from renom_onnx.graph.layers.activation import Activation

        return Activation(activation)
    return activation


def _named_layers(name: str, value: Any) -> Iterator[tuple[str, Layer]]:
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _named_layers(f"{name}.{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _named_layers(f"{name}.{key}", item)


class Model(Layer):
    """A layer made of layers, which it holds as attributes; the attributes name the parameters of an export.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> class Classifier(rm.graph.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1 = rm.graph.Dense(4)
        ...         self.fc2 = rm.graph.Dense(2)
        ...     def forward(self, x):
        ...         return self.fc2(rm.graph.relu(self.fc1(x)))
        >>> Classifier()(np.ones((3, 5), np.float32)).shape
        ('N', 2)
    """


class Sequential(Layer):
    """Layers one after the other.

    Args:
        layers: called in order; ``model[0]`` is the first, as ReNom's ``model.l0`` is.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Raises:
        ConversionError: there is something else than a layer among them.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> model = rm.graph.Sequential([rm.graph.Dense(4), rm.graph.Relu(), rm.graph.Dense(2)])
        >>> model(np.ones((3, 5), np.float32)).shape, len(model)
        (('N', 2), 3)
    """

    def __init__(self, layers: Sequence[Layer], **settings: Unpack[Settings]) -> None:
        found: Any = layers
        given: list[Any] = list(found) if isinstance(found, Iterable) else [None]
        wrong = [x for x in given if not isinstance(x, Layer)] if isinstance(found, Iterable) else [found]
        if wrong:
            got = f"the class {wrong[0].__name__}" if isinstance(wrong[0], type) else type(wrong[0]).__name__
            raise ConversionError(
                f"Sequential: layers must be a list of layers, such as [Dense(8), Relu()], got {got}. "
                f"{created_at(user_site())}"
            )
        self._children: list[Layer] = given
        super().__init__(**settings)

    def __getattr__(self, name: str) -> Any:
        if re.fullmatch(r"l\d+", name) and int(name[1:]) < len(self._children):
            return self._children[int(name[1:])]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def forward(self, *inputs: GraphElement) -> GraphElement:
        """Call the layers in order; the first takes all inputs."""
        for layer in self._children:
            inputs = (layer(*inputs),)
        return inputs[0]

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers with their positions."""
        return ((str(i), layer) for i, layer in enumerate(self._children))

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, index: Any) -> Any:
        """Return the layer at a position, or a parameter by its name."""
        if isinstance(index, str):
            return self.params[index]
        return self._children[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._children)


def cast_to_precision(x: GraphElement) -> np.dtype[Any] | None:
    """Return the conversion that data needs to meet the parameters, or None."""
    dtype = np.dtype(_parameter.precision)
    return None if x.dtype == dtype else dtype
