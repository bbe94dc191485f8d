"""Where a training runs: on one device, or on several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.engine import Engine
from renom_onnx.runtime.parallel import ParallelTrainingSession
from renom_onnx.runtime.trainable import Trainable
from renom_onnx.runtime.training import TrainingSession


class Placement(TypedDict, total=False):
    """What `get_training_executor` takes besides the devices; see `TrainingSession` and `ParallelTrainingSession`."""

    synchronize_batch_norm: bool
    threads: int | None
    spinning: bool
    cuda: CudaOptions | None
    engine: Engine | None


def training_session(model: Any, devices: Sequence[str] | None, options: Placement) -> Trainable:
    """Return a session that trains on the devices: None is the best that there is.

    Raises:
        DeviceError: no device is named, or one is not there.
    """
    if devices is not None and not devices:
        raise DeviceError("get_training_executor: devices must name one at least, got [].")
    several = (devices is not None and len(devices) > 1) or options.get("engine") is not None
    if several:
        return ParallelTrainingSession(model, devices or [None], **options)
    rest: Any = {k: v for k, v in options.items() if k not in {"synchronize_batch_norm", "engine"}}
    return TrainingSession(model, devices[0] if devices else None, **rest)
