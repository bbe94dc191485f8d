"""`InferenceSession`: an ONNX model on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.importer import read_model
from renom_onnx.converters.lowering import lowered
from renom_onnx.converters.signature import input_types
from renom_onnx.converters.surgery import strip
from renom_onnx.converters.tree import as_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import MAX_SIGNATURES, FeedSpec, Signature, check_feeds, signature_of
from renom_onnx.runtime.index_range import IndexRanges
from renom_onnx.runtime.opening import open_session

Array = np.ndarray[Any, Any]


class InferenceSession:
    """Runs a model on one device.

    Args:
        model: a path, bytes or ModelProto; of a trainable file the inference reading.
        device: "cpu", "cuda" or "cuda:1"; default: the best there is.
        threads: default: all cores.
        cuda: options of the CUDA provider.

    Attributes:
        inputs: what `run` must be fed.
        outputs: names of what it returns.

    Raises:
        ConversionError: the model cannot be read.
        DeviceError: the device is not there.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> model = rm.converters.to_onnx(rm.graph.Relu(), inputs={"x": ("N", 2)})
        >>> rm.runtime.InferenceSession(model, device="cpu").run({"x": np.array([[-1, 2]], np.float32)})
        {'output': array([[0., 2.]], dtype=float32)}
    """

    def __init__(
        self,
        model: Any,
        device: str | None = None,
        *,
        threads: int | None = None,
        cuda: CudaOptions | None = None,
    ) -> None:
        self.device = parse_device(device)
        reading = inference_reading(model, self.device.kind)
        self.inputs, self.outputs, self._index_ranges = reading.inputs, reading.outputs, reading.index_ranges
        self._session = open_session(reading.model, self.device, threads=threads, cuda=cuda)
        self._known: set[Signature] = set()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Return the outputs by name.

        Args:
            feeds: an array for every input, of the dtype and shape that the model declares.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            IndexRangeError: a label or index is out of range.
            RunError: onnxruntime stopped.
        """
        signature = signature_of(feeds)
        if signature is not None and signature in self._known:
            arrays = dict(feeds)
        else:
            arrays, _ = check_feeds("InferenceSession.run", self.inputs, feeds)
            if signature is not None and len(self._known) < MAX_SIGNATURES:
                self._index_ranges.check(arrays)
                self._known.add(signature)
        try:
            results = self._session.run(self.outputs, arrays)
        except Exception as e:
            raise self._index_ranges.explain(run_error("InferenceSession.run", e), arrays) from e
        return dict(zip(self.outputs, results, strict=True))

    def check_indices(self, data: Mapping[str, Any]) -> None:
        """Look once at data that will be fed; see `TrainingSession.check_indices`.

        Raises:
            IndexRangeError: an integer is out of range.
        """
        self._index_ranges.check(data)


@dataclass(frozen=True)
class InferenceReading:
    """The inference reading of a model.

    Attributes:
        model: its bytes.
        inputs: what it must be fed.
        outputs: names of what it gives.
        index_ranges: how far labels and indices among the inputs may go.
    """

    model: bytes
    inputs: tuple[FeedSpec, ...]
    outputs: tuple[str, ...]
    index_ranges: IndexRanges


def inference_reading(model: Any, kind: str) -> InferenceReading:
    """Return the inference reading of a model.

    Args:
        model: a path, bytes or ModelProto.
        kind: of the device that runs it.

    Raises:
        ConversionError: the model cannot be read.
    """
    proto = read_model(model)
    if proto.training_info:
        proto = strip(proto)
    proto = lowered(proto)
    initialized = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(FeedSpec(*t) for t in input_types(proto.graph) if t[0] not in initialized)
    outputs = tuple(output.name for output in proto.graph.output)
    return InferenceReading(as_bytes(for_device(proto, kind)), inputs, outputs, IndexRanges(proto))
