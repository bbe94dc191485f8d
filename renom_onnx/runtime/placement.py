"""Where a training runs: on one device, on several, or on those of several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.engine import Engine
from renom_onnx.runtime.parallel import ParallelTrainingSession
from renom_onnx.runtime.processes.distributed import DistributedTrainingSession
from renom_onnx.runtime.processes.launch import default_engine, own_device
from renom_onnx.runtime.trainable import Trainable
from renom_onnx.runtime.training import TrainingSession

Array = np.ndarray[Any, Any]

RESIDENT_BYTES = 1 << 30
"""Data up to this size stay on a GPU by themselves."""


class Placement(TypedDict, total=False):
    """What `get_training_executor` takes besides the devices.

    `feed_ahead` reads and copies the next batch in a thread while a step runs; default: on GPUs. `resident` keeps the
    data of a distributor of arrays on the devices, where steps gather their rows; default: on GPUs, up to 1 GiB.
    `elastic`, `wire_dtype` and `average_every` count where mpiexec started several processes: see `ElasticEngine`,
    `MpiEngine` and `DistributedTrainingSession`. The others are options of `TrainingSession` and
    `ParallelTrainingSession`.
    """

    synchronize_batch_norm: bool
    threads: int | None
    spinning: bool
    cuda: CudaOptions | None
    tune: bool
    engine: Engine | None
    feed_ahead: bool | None
    resident: bool | None
    elastic: bool
    wire_dtype: str | None
    average_every: int


def training_session(
    model: Any, devices: Sequence[str] | None, options: Placement, data: Mapping[str, Array] | None
) -> Trainable:
    """Return a session that trains on the devices: None is the best that there is.

    Args:
        model: a trainable file.
        devices: their names.
        options: the rest of the placement.
        data: what can stay on the devices, all rows by feed; None where the data cannot.

    Raises:
        DeviceError: no device is named, or one is not there.
    """
    if isinstance(devices, str):  # a sequence too, of letters
        devices = [devices]
    if devices is not None and not devices:
        raise DeviceError("get_training_executor: devices must name one at least, got [].")
    engine = _engine(options)
    names: Sequence[str | None] = devices or [own_device(engine)]
    wanted = options.get("resident")
    if wanted and data is None:
        raise DeviceError(
            "get_training_executor: data that stay on the devices must come from a distributor of arrays, got others. "
            "Leave resident out."
        )
    is_small = data is not None and sum(array.nbytes for array in data.values()) <= RESIDENT_BYTES
    stays = wanted if wanted is not None else is_small and parse_device(names[0]).kind == "cuda"
    ours = {"feed_ahead", "resident", "engine", "elastic", "wire_dtype", "average_every"}
    rest: Any = {k: v for k, v in options.items() if k not in ours}
    rest["resident"] = data if stays else None
    if engine.size > 1:
        return DistributedTrainingSession(
            model, names, engine=engine, average_every=options.get("average_every", 1), **rest
        )
    if len(names) > 1 or options.get("engine") is not None:
        return ParallelTrainingSession(model, names, engine=engine, **rest)
    rest.pop("synchronize_batch_norm", None)
    return TrainingSession(model, names[0], **rest)


def _engine(options: Placement) -> Engine:
    """Return the engine that is given, or what joins the processes of this job."""
    given = options.get("engine")
    if given is None:
        return default_engine(elastic=options.get("elastic", False), wire_dtype=options.get("wire_dtype"))
    if options.get("elastic") or options.get("wire_dtype"):
        raise DeviceError(
            "get_training_executor: elastic and wire_dtype must be given to the engine, where one is given, got both."
        )
    return given
