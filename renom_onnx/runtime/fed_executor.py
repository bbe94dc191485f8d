"""ReNom 3.0's executor: one class for both modes, whose placeholders are fed when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.distributor import Distributor, Stream
from renom_onnx.graph.node import Static, Value, ancestors
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.splice import Splice
from renom_onnx.graph.tree import printed_name
from renom_onnx.runtime.event import EVENTS, Event, Events, Listener
from renom_onnx.runtime.executor import TrainingExecutor
from renom_onnx.runtime.history import History
from renom_onnx.runtime.inference_executor import InferenceExecutor

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]
FeedDict = Mapping["GraphElement", Any]


class Executor:
    """Runs an element over all data, in training or in inference; made by `GraphElement.get_executor`.

    What placeholders are fed stays until they are fed again. While it is the same elements, or other arrays, training
    goes on in the same session.

    Args:
        root: usually a loss.
        mode: "training" or "inference".
        optimizer: of a training.
        devices: such as ["cuda:0"]; default: the best device there is.

    Attributes:
        history: losses of all epochs of training so far.

    Raises:
        ConversionError: the mode is another.
    """

    def __init__(
        self, root: GraphElement, mode: str, optimizer: Optimizer, *, devices: Sequence[str] | None = None
    ) -> None:
        if mode not in ("inference", "training"):
            raise ConversionError(f"get_executor: mode must be 'inference' or 'training', got {mode!r}.")
        self.mode = mode
        self.history = History()
        self._root = root
        self._optimizer = optimizer
        self._devices = devices
        self._events = Events("Executor")
        self._built: tuple[list[Value], TrainingExecutor | InferenceExecutor] | None = None

    def execute(
        self,
        feed_dict: FeedDict | None = None,
        validation_feed_dict: FeedDict | None = None,
        epochs: int = 1,
        progress: bool = True,
    ) -> History:
        """Run over all data.

        Args:
            feed_dict: by placeholder, an array, whose epoch is one step, or an output of a distributor.
            validation_feed_dict: by placeholder, the data whose loss is computed after each epoch of a training.
            epochs: passes over the data.
            progress: show a bar on stderr. (ReNom printed a header besides, and returned None.)

        Returns:
            The history: of all epochs so far in training, of these in inference.

        Raises:
            ConversionError: validation data are given in inference, or not for every placeholder.
        """
        inner = self._fed(feed_dict)
        if isinstance(inner, InferenceExecutor):
            if validation_feed_dict is not None:
                raise ConversionError("execute: validation data must be given in training, got mode 'inference'.")
            return inner.execute(epochs, progress=progress)
        validation = None if validation_feed_dict is None else self._validation(inner, validation_feed_dict)
        return inner.execute(epochs, progress=progress, validation=validation)

    def step(self, feed_dict: FeedDict | None = None) -> Array:
        """Run one batch.

        Args:
            feed_dict: by placeholder, as for `execute`.

        Returns:
            The element's value; in training, where the parameters are updated too (ReNom's `step` only computed), the
            loss before the update.

        Raises:
            StopIteration: the distributor is at its end; reset it to begin again.
        """
        return np.asarray(self._fed(feed_dict).step(), self._root.dtype)

    def register_event(self, name: str, function: Listener) -> None:
        """Call a function at every event of a name; see `TrainingExecutor.register_event`."""
        self._events.of(name).append(function)

    def unregister_events(self, name: str) -> None:
        """Forget all functions of an event."""
        self._events.of(name).clear()

    def _emit(self, event: Event) -> None:
        self._events.emit(replace(event, executor=self))

    def _fed(self, feed_dict: FeedDict | None) -> TrainingExecutor | InferenceExecutor:
        """Feed the placeholders and return what runs the tree, the same one while the tree is the same."""
        for placeholder, value in (feed_dict or {}).items():
            self._root.feed(placeholder, value)
        sources = [splice.source for splice in self._splices()]
        if self._built is not None and self._built[0] == sources:
            return self._built[1]
        executor: TrainingExecutor | InferenceExecutor
        if self.mode == "training":
            executor = TrainingExecutor(self._root, self._optimizer, devices=self._devices)
            executor.history = self.history
        else:
            executor = InferenceExecutor(self._root, devices=self._devices)
        for name in EVENTS:
            executor.register_event(name, self._emit)
        self._built = (sources, executor)
        return executor

    def _splices(self) -> list[Splice]:
        return [node for node in ancestors([self._root.output]) if isinstance(node, Splice)]

    def _validation(self, inner: TrainingExecutor, feed_dict: FeedDict) -> Distributor:
        """Return a distributor that has the validation data where the training's has the data of each placeholder."""
        places = inner.data_places()
        given: dict[int, Value] = {}
        for placeholder, value in feed_dict.items():
            splice = placeholder.output.node
            if not isinstance(splice, Splice) or splice.source.node not in places:
                raise ConversionError(
                    f"execute: validation data must be fed to a placeholder that is fed data in training, got "
                    f"{placeholder.name!r}."
                )
            given[places[splice.source.node]] = _value(value)
        if set(places.values()) - set(given):
            got = ", ".join(repr(placeholder.name) for placeholder in feed_dict) or "none"
            raise ConversionError(
                f"execute: validation data must be fed to every placeholder, got {got}. Let all data of the training "
                f"come through placeholders."
            )
        return _dealt(given)


def _value(given: Any) -> Value:
    from renom_onnx.graph.element import GraphElement, static

    return (given if isinstance(given, GraphElement) else static(given, is_batch=True)).output


def _dealt(values: Mapping[int, Value]) -> Distributor:
    """Return a distributor that has, at these positions, these arrays or what these outputs of distributors deal."""
    streams = {place: value.node for place, value in values.items() if isinstance(value.node, Stream)}
    dealers = {stream.distributor for stream in streams.values()}
    if len(streams) == len(values) and len(dealers) == 1 and all(s.index == place for place, s in streams.items()):
        return dealers.pop()
    sources: dict[int, Any] = {place: stream.distributor.rows_of(stream.index) for place, stream in streams.items()}
    for place, value in values.items():
        node = value.node
        if isinstance(node, Static):
            sources[place] = node.array
        elif place not in streams:
            raise ConversionError(
                f"execute: validation data must be arrays or outputs of a distributor, got {printed_name(node)}."
            )
    first = next(iter(sources.values()))
    size = min((dealer.batch_size for dealer in dealers), default=max(len(first), 1))
    columns = [sources.get(place, first) for place in range(max(sources) + 1)]  # those that nobody reads are filled
    return Distributor("execute", columns, [f"input{i}" for i, _ in enumerate(columns)], size, shuffle=False)
