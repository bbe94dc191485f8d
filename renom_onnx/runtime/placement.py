"""Where a training runs: on one device, or on several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.engine import Engine
from renom_onnx.runtime.parallel import ParallelTrainingSession
from renom_onnx.runtime.trainable import Trainable
from renom_onnx.runtime.training import TrainingSession

Array = np.ndarray[Any, Any]

RESIDENT_BYTES = 1 << 30
"""Data up to this size stay on a GPU by themselves."""


class Placement(TypedDict, total=False):
    """What `get_training_executor` takes besides the devices.

    `feed_ahead` reads and copies the next batch in a thread while a step runs; default: on GPUs. `resident` keeps the
    data of a distributor of arrays on the devices, where steps gather their rows; default: on GPUs, up to 1 GiB. The
    others are options of `TrainingSession` and `ParallelTrainingSession`.
    """

    synchronize_batch_norm: bool
    threads: int | None
    spinning: bool
    cuda: CudaOptions | None
    engine: Engine | None
    feed_ahead: bool | None
    resident: bool | None


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
    names: Sequence[str | None] = devices or [None]
    wanted = options.get("resident")
    if wanted and data is None:
        raise DeviceError(
            "get_training_executor: data that stay on the devices must come from a distributor of arrays, got others. "
            "Leave resident out."
        )
    is_small = data is not None and sum(array.nbytes for array in data.values()) <= RESIDENT_BYTES
    stays = wanted if wanted is not None else is_small and parse_device(names[0]).kind == "cuda"
    rest: Any = {k: v for k, v in options.items() if k not in {"feed_ahead", "resident"}}
    rest["resident"] = data if stays else None
    if len(names) > 1 or options.get("engine") is not None:
        return ParallelTrainingSession(model, names, **rest)
    rest = {k: v for k, v in rest.items() if k not in {"synchronize_batch_norm", "engine"}}
    return TrainingSession(model, names[0], **rest)
