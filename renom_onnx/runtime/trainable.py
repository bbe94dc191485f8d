"""What all sessions of a trainable file have: its feeds and outputs, its state by name, and checkpoints."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.entry import entry_index, initialization_model, with_entry
from renom_onnx.converters.export import write_file
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.lowering import lowered
from renom_onnx.converters.resident import data_name, gathering
from renom_onnx.converters.signature import ModelProto, input_types
from renom_onnx.converters.surgery import strip
from renom_onnx.converters.training_info import TrainingStep, fill_state, training_step, without_state
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import ConversionError, RunError
from renom_onnx.graph.node import type_text
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.engine import Engine, LocalEngine
from renom_onnx.runtime.feed import FeedSpec
from renom_onnx.runtime.index_range import IndexRanges
from renom_onnx.runtime.loss import Loss
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.prepared import Prepared
from renom_onnx.runtime.shard import Deal, batch_rows
from renom_onnx.runtime.tensor import Tensor

Array = np.ndarray[Any, Any]


class Trainable(ABC):
    """A trainable file while it is trained, on whatever devices.

    Args:
        model: a path, bytes or ModelProto with ``training_info``.
        resident: data that stay on the devices, all rows by feed.
        training_info: which of its training steps: the position, or the name of the algorithm.

    Attributes:
        feeds: what `step` must be fed.
        file_feeds: what it would be fed if no data stayed on the devices.
        outputs: names of the inference outputs, which `evaluate` returns.
        loss_name: under which `evaluate` returns the loss.
    """

    def __init__(self, model: Any, resident: Mapping[str, Array] | None = None, training_info: int | str = 0) -> None:
        proto = read_model(model)
        self._entry = entry_index(proto, training_info)
        plain = lowered(proto)
        chosen = with_entry(plain, self._entry) if plain.training_info else plain
        step = training_step(chosen)
        self._index_ranges = IndexRanges(step.model)
        held = {name: np.asarray(array) for name, array in (resident or {}).items()}
        if held:
            self._index_ranges.check(held)
        self._step = gathering(step, {n: (a.dtype, a.shape) for n, a in held.items()}) if held else step
        self._resident = {data_name(name): array for name, array in held.items()}
        self._model = without_state(proto, self._step.bindings, self._entry)
        self._lowered = self._model if chosen is proto else without_state(chosen, self._step.bindings)
        self.feeds, self.file_feeds = (_feeds(s) for s in (self._step, step))
        self.outputs = tuple(output.name for output in proto.graph.output)
        self.loss_name = self._step.loss
        self._engine: Engine = LocalEngine()

    @abstractmethod
    def prepare(self, feeds: Mapping[str, Any]) -> Prepared:
        """Copy a batch to the devices, for `step`."""

    @abstractmethod
    def step(self, feeds: Mapping[str, Any] | Prepared) -> Loss:
        """Take one training step."""

    def _prepared(self, feeds: Mapping[str, Any] | Prepared) -> Prepared:
        """Return what is stepped on.

        Raises:
            RunError: it was stepped on already.
        """
        if not isinstance(feeds, Prepared):
            return self.prepare(feeds)
        if feeds.is_used:
            raise RunError(
                f"{type(self).__name__}.step: a prepared batch must be new, got one that was stepped on or released."
            )
        return feeds

    def check_indices(self, data: Mapping[str, Any]) -> None:
        """Look once at data that will be fed: labels and indices among them must be in range.

        Args:
            data: all rows by feed.

        Raises:
            IndexRangeError: an integer is out of range.
        """
        self._index_ranges.check(data)

    @abstractmethod
    def evaluate(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return the inference outputs with today's weights, and the loss where its targets are fed too."""

    @abstractmethod
    def _held(self) -> dict[str, Sequence[Tensor]]:
        """Return the memory of weights, state and learning rate by name: one tensor for each device."""

    # Several processes: a session of one has nothing to do here

    @property
    def engine(self) -> Engine:
        """What joins the devices and processes of the training."""
        return self._engine

    def deal(self) -> Deal | None:
        """Return what this process reads of a batch for `step`; None for all."""
        return None

    def evaluation_deal(self) -> Deal | None:
        """Return what this process reads of a batch for `evaluate`; None for all."""
        return None

    def of_all(self, value: Any) -> list[Any]:
        """Return a small value of every process, by rank."""
        return [value]

    def loss_rows(self, feeds: Mapping[str, Any]) -> int:
        """Return how many rows the loss of a step is about; 0 where another process tells it."""
        return batch_rows(feeds)

    @property
    def trains_apart(self) -> bool:
        """Whether processes may have other weights for some steps, and losses of their own."""
        return False

    @property
    def is_settled(self) -> bool:
        """Whether all processes have the same weights now."""
        return True

    def whole(self, feeds: Mapping[str, Any], rows: Sequence[Array | None]) -> list[Array]:
        """Return arrays that have all rows of a batch, from what each process has of them: None without any."""
        return [array for array in rows if array is not None]

    def synchronize(self, names: Sequence[str]) -> None:  # noqa: B027  (one process has nothing to do)
        """Let all processes have rank 0's values of what was written on any of them."""

    def settle(self) -> None:  # noqa: B027
        """Let all processes have the same weights and state, where they may differ for some steps."""

    @property
    @abstractmethod
    def device_kind(self) -> str:
        """Kind of the devices, "cpu" or "cuda"."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the feeds that only the loss reads."""
        inputs = {value.name for value in self._model.graph.input} | set(self._step.optional)
        return tuple(spec.name for spec in self.file_feeds if spec.name not in inputs)

    def _wants_loss(self, feeds: Mapping[str, Any]) -> bool:
        """Whether an evaluation of these feeds has a loss."""
        return not self.targets or any(name in self.targets for name in feeds)

    # State

    @property
    @abstractmethod
    def held_once(self) -> frozenset[str]:
        """Names of the weights and states that a step writes over; of all others a device holds two sets."""

    @property
    def parameters(self) -> dict[str, Array]:
        """Copies of the trainable weights by name."""
        return {name: self.read(name) for name in self._step.weights}

    @property
    def learning_rate(self) -> float:
        """Step size of the next step; assigning changes it.

        Raises:
            ConversionError: the training step has none that can be fed.
        """
        return float(self.read(self._rate()))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.write(self._rate(), np.array(value, np.float32))

    def _rate(self) -> str:
        if self._step.rate is None:
            raise ConversionError(
                f"{type(self).__name__}.learning_rate: the file must have a learning rate that can be fed, got none."
            )
        return self._step.rate

    def read(self, name: str) -> Array:
        """Return a copy of a weight, a state or a learning rate.

        Raises:
            ConversionError: nothing has this name.
        """
        return self._tensors("read", name)[0].read()

    def write(self, name: str, array: Array) -> None:
        """Replace a weight, a state or a learning rate.

        Raises:
            ConversionError: nothing has this name.
            ShapeError, DTypeError: the array does not fit.
        """
        for tensor in self._tensors("write", name):
            tensor.write(array)

    def _tensors(self, caller: str, name: str) -> Sequence[Tensor]:
        held = self._held()
        if name not in held:
            raise ConversionError(
                f"{type(self).__name__}.{caller}: the name must be one of {', '.join(held)}, got {name!r}."
            )
        return held[name]

    def reset(self, *, reinitialize: bool = False) -> None:
        """Start the training over: run the file's initialization and take what it computes.

        Args:
            reinitialize: set the weights too, where the initialization does; else state and counters alone.

        Raises:
            ConversionError: weights are to be set, and the initialization sets none.
        """
        model, bindings = initialization_model(self._lowered)
        weights = {tensor.name for tensor in self._model.graph.initializer}
        if reinitialize and not weights & set(bindings):
            raise ConversionError(
                f"{type(self).__name__}.reset: with reinitialize=True the file's initialization must set weights, got "
                f"one that sets {', '.join(bindings) or 'nothing'}. Export it with reinitialize=True."
            )
        wanted = {key: value for key, value in bindings.items() if reinitialize or key not in weights}
        if wanted:
            session = open_session(as_bytes(model), parse_device("cpu"))
            values = session.run(list(wanted.values()), {})
            for key, array in zip(wanted, values, strict=True):
                self.write(key, array)

    def copy_weights(self, other: Trainable) -> None:
        """Take the weights that another session trains, such as that of another training step of the same file."""
        held = self._held()
        for name, array in other.parameters.items():
            if name in held:
                self.write(name, array)

    # Files

    def to_model(self, metadata: Mapping[str, str] | None = None) -> ModelProto:
        """Return the trainable model with today's weights, state and learning rate."""
        values = {name: self.read(name) for name in [*self._step.bindings, *self._step.optional]}
        return fill_state(self._model, values, metadata or {}, self._entry)

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the same trainable file with today's weights and state: a checkpoint from which training goes on.

        Training goes on bit for bit on the same machine, provider and thread count. The file is written whole or not
        at all.
        """
        write_file(self.to_model(metadata), path)

    def restore(self, model: Any) -> dict[str, str]:
        """Take weights, state and learning rate of a checkpoint, and return its metadata.

        Args:
            model: a path, bytes or ModelProto that `save` wrote.

        Raises:
            ConversionError: it cannot be read, or is that of another training; then nothing was changed.
        """
        proto = read_model(model)
        plain = lowered(proto)
        step = training_step(with_entry(plain, entry_index(proto, self._entry)) if proto.training_info else plain)
        values = {**step.state, **step.optional}
        for name, tensors in self._held().items():
            found = values.get(name)
            wanted = type_text(tensors[0].dtype, tensors[0].shape)
            if found is None or (found.dtype, found.shape) != (tensors[0].dtype, tensors[0].shape):
                got = "none" if found is None else type_text(found.dtype, found.shape)
                raise ConversionError(
                    f"{type(self).__name__}.restore: a checkpoint must be of this training, with {wanted} of {name!r}, "
                    f"got {got}."
                )
        for name in (*self._step.bindings, *self._step.optional):
            self.write(name, values[name])
        return {entry.key: entry.value for entry in proto.metadata_props}

    def export_inference(self, path: str | os.PathLike[str]) -> None:
        """Write the inference reading alone, with today's weights."""
        write_file(strip(self.to_model()), path)


def _feeds(step: TrainingStep) -> tuple[FeedSpec, ...]:
    types = {name: (dtype, shape) for name, dtype, shape in input_types(step.model.graph, step.feeds)}
    return tuple(FeedSpec(name, *types[name]) for name in step.feeds)
