"""Executors that evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.converters.export import to_onnx
from renom_onnx.graph.node import ancestors
from renom_onnx.runtime.failure import user_lines
from renom_onnx.runtime.feeding import EpochLoss, Feeds, Source, converted
from renom_onnx.runtime.history import History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.progress import epoch_bar

if TYPE_CHECKING:
    from renom_onnx.graph.element import GraphElement

Array = np.ndarray[Any, Any]


class InferenceExecutor:
    """Evaluates an element over all data; made by `GraphElement.get_inference_executor`.

    Args:
        element: usually a loss.
        device: default: the best there is.
    """

    def __init__(self, element: GraphElement, *, device: str | None = None) -> None:
        self._element = element
        self._device = device
        self._source = Source(ancestors([element.output]), element.output)

    def execute(self, epochs: int = 1, *, progress: bool = True) -> History:
        """Return the history of the losses, one for each pass over the data."""
        history = History()
        session = self._session()
        for number in range(epochs):
            total = EpochLoss(self._element.output)
            with epoch_bar(number, self._source.n_batches, enabled=progress) as bar:
                for feeds, value in self._run(session):
                    total.add(float(value.sum()), feeds)
                    bar.step(float(value.sum()))
                bar.finish(total.value(), None)
            history.add(total.value(), None, 0)
        return history

    def predict(self) -> Array:
        """Return the element's value for all rows, batches joined."""
        return np.concatenate([np.atleast_1d(value) for _, value in self._run(self._session())])

    def _session(self) -> InferenceSession:
        return InferenceSession(to_onnx(self._element, outputs={"output": self._element}), self._device)

    def _run(self, session: InferenceSession) -> Iterator[tuple[Feeds, Array]]:
        types = {spec.name: spec.dtype for spec in session.inputs}
        for batch in self._source.batches():
            feeds = converted(batch, types)
            with user_lines("execute", [self._element.output]):
                outputs = session.run(feeds)
            yield feeds, outputs["output"]


class PrintingInferenceExecutor(InferenceExecutor):
    """The seed's executor: `execute` prints the loss of every epoch as an array of one element."""

    def execute(self, epochs: int = 1, *, progress: bool = False) -> None:  # type: ignore[override]
        """Print the losses."""
        for loss in super().execute(epochs, progress=progress).losses:
            print(np.array([loss], dtype=self._element.dtype))
