"""`InferencePool`: a model on several devices, for callers in many threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from renom_onnx.errors import DeviceError, RunError
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import Device, core_count, parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.feed import check_feeds
from renom_onnx.runtime.inference import InferenceReading, inference_reading
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.sizes import BySize

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]


class InferencePool:
    """Runs a model for callers in many threads, each request on the device that is free first.

    Requests wait in one queue. When `max_waiting` of them wait, callers wait too, so that memory stays bounded. A
    batch size gets a session with all shapes known on each device, the first few at least; every session holds its own
    copy of the weights.

    Args:
        model: a path, bytes or ModelProto; of a trainable file the inference reading.
        devices: such as ["cuda:0", "cuda:1"]; one may be named several times; default: the best there is.
        max_waiting: requests that wait for a device before callers do.
        fixed_sizes: batch sizes that get sessions of their own; 0 keeps one session a device, and memory small.
        threads: of each device; default on CPUs: the cores divided by the devices.
        cuda: options of the CUDA provider.

    Attributes:
        devices: where requests run.
        inputs: what `run` must be fed.
        outputs: names of what it returns.

    Raises:
        ConversionError: the model cannot be read.
        DeviceError: a device is not there.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> model = rm.converters.to_onnx(rm.graph.Relu(), inputs={"x": ("N", 2)})
        >>> with rm.runtime.InferencePool(model, ["cpu", "cpu"]) as pool:
        ...     waiting = [pool.submit({"x": np.full((1, 2), i - 1, np.float32)}) for i in range(3)]
        ...     print([future.result()["output"].tolist() for future in waiting])
        [[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]]
    """

    def __init__(
        self,
        model: Any,
        devices: Sequence[str | None] = (None,),
        *,
        max_waiting: int = 64,
        fixed_sizes: int = 3,
        threads: int | None = None,
        cuda: CudaOptions | None = None,
    ) -> None:
        if not devices or max_waiting < 1:
            raise RunError(
                f"InferencePool: there must be a device, and room for one request to wait, got devices "
                f"{list(devices)} and max_waiting {max_waiting}."
            )
        self.devices = [parse_device(device) for device in devices]
        if len({device.kind for device in self.devices}) > 1:
            raise DeviceError(f"InferencePool: devices must be of one kind, got {list(map(str, self.devices))}.")
        reading = inference_reading(model, self.devices[0].kind)
        self.inputs, self.outputs, self._index_ranges = reading.inputs, reading.outputs, reading.index_ranges
        n_cpus = sum(device.kind == "cpu" for device in self.devices)
        if threads is None and n_cpus > 1:
            threads = max(1, core_count() // n_cpus)
        options = {"threads": threads, "spinning": len(self.devices) == 1, "cuda": cuda}
        lanes = [_Lane(reading, device, fixed_sizes, options) for device in self.devices]
        self._lanes = lanes
        lanes[0].open()  # so that a model that cannot run is an error here
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._room = threading.Semaphore(max_waiting)
        self._lock = threading.Lock()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=_serve, args=(lane, self._queue, self._room), name=f"inference on {lane.device}")
            for lane in lanes
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        self._end = weakref.finalize(self, _end, self._queue, len(lanes))

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        """Return the outputs by name, when a device has computed them.

        Args:
            feeds: an array for every input, of the dtype and shape that the model declares.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            IndexRangeError: a label or index is out of range.
            RunError: onnxruntime stopped, or the pool is closed.
        """
        return self.submit(feeds).result()

    def submit(self, feeds: Mapping[str, Any], *, timeout_s: float | None = None) -> Future[Outputs]:
        """Queue a request and return its future; waits where too many wait already.

        The arrays are read when a device is free: change them after the future is done. A future that is cancelled
        before a device takes it is not computed.

        Args:
            feeds: as of `run`.
            timeout_s: how long to wait for room in the queue; default: as long as it takes.

        Raises:
            ShapeError, DTypeError: a feed does not fit.
            RunError: the pool is closed, or there was no room in time.
        """
        arrays, sizes = check_feeds("InferencePool.run", self.inputs, feeds)
        if not self._room.acquire(timeout=timeout_s):
            raise RunError(
                f"InferencePool.submit: there must be room in the queue within {timeout_s:g} s, got none. Wait longer, "
                f"or give the pool more devices or a larger max_waiting."
            )
        request = _Request(arrays, sizes)
        with self._lock:
            if self._is_closed:
                self._room.release()
                raise RunError("InferencePool: the pool must be open, got one that was closed.")
            self._queue.put(request)
        return request.future

    def check_indices(self, data: Mapping[str, Any]) -> None:
        """Look once at data that will be fed; see `TrainingSession.check_indices`.

        Raises:
            IndexRangeError: an integer is out of range.
        """
        self._index_ranges.check(data)

    def close(self) -> None:
        """Finish what waits, then end the threads; later requests are errors."""
        with self._lock:
            self._is_closed = True
            self._end()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> InferencePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Request:
    """Feeds, the sizes of their symbols, and who waits for the outputs."""

    def __init__(self, arrays: dict[str, Array], sizes: dict[str, int]) -> None:
        self.arrays = arrays
        self.sizes = sizes
        self.future: Future[Outputs] = Future()


class _Lane:
    """The sessions of one device, which its thread alone uses."""

    def __init__(self, reading: InferenceReading, device: Device, fixed_sizes: int, options: Mapping[str, Any]) -> None:
        self.device = device
        self._reading, self._options = reading, options
        self._sessions: BySize[Any] = BySize(fixed_sizes)

    def open(self) -> None:
        """Open the session for any sizes."""
        self._sessions.get({"": 0}, self._open)

    def _open(self, dims: dict[str, int] | None) -> Any:
        return open_session(self._reading.model, self.device, dims=dims, **self._options)

    def run(self, request: _Request) -> Outputs:
        session = self._sessions.get(request.sizes, self._open)
        try:
            results = session.run(self._reading.outputs, request.arrays)
        except Exception as e:
            raise self._reading.index_ranges.explain(run_error("InferencePool.run", e), request.arrays) from e
        return dict(zip(self._reading.outputs, results, strict=True))


def _serve(lane: _Lane, queue: SimpleQueue[_Request | None], room: threading.Semaphore) -> None:
    while (request := queue.get()) is not None:
        room.release()
        if request.future.set_running_or_notify_cancel():
            try:
                result = lane.run(request)
            except BaseException as error:  # raised again where the result is asked for
                request.future.set_exception(error)
            else:
                request.future.set_result(result)
                del result
        del request  # an idle thread keeps nothing alive


def _end(queue: SimpleQueue[_Request | None], n_threads: int) -> None:
    for _ in range(n_threads):
        queue.put(None)
