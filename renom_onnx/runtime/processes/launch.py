"""Finding out whether this process is one of several that train together."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.cuda import gpu_count
from renom_onnx.runtime.device import Device, default_device
from renom_onnx.runtime.engine import Engine, LocalEngine

LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MV2_COMM_WORLD_SIZE")
"""Variables of the environment of a process that Open MPI, MPICH and its relatives, or Slurm's srun started."""

_engines: dict[Any, Engine] = {}


def default_engine(*, elastic: bool = False, wire_dtype: str | None = None) -> Engine:
    """Return what executors train with: all processes that mpiexec started, or this one alone.

    Args:
        elastic: whether the others go on when processes are lost, see `ElasticEngine`.
        wire_dtype: see `MpiEngine`.

    Raises:
        DeviceError: mpiexec started this process, but mpi4py is not installed, or cannot do what is asked.

    Example:
        >>> engine = default_engine()
        >>> engine.rank, engine.size
        (0, 1)
    """
    key = (elastic, wire_dtype)
    if key not in _engines:
        _engines[key] = _engine(elastic, wire_dtype)
    return _engines[key]


def rank() -> int:
    """Return the number of this process among those that train together, from 0; 0 for a process alone.

    Example:
        >>> if rank() == 0:
        ...     print("only once")
        only once
    """
    engine = list(_engines.values())[-1] if _engines else default_engine()
    return engine.rank


def _engine(elastic: bool, wire_dtype: str | None) -> Engine:
    if "mpi4py.MPI" not in sys.modules and not any(name in os.environ for name in LAUNCHERS):
        return LocalEngine()
    if importlib.util.find_spec("mpi4py") is None:
        raise DeviceError(
            "several processes: those that mpiexec starts must have mpi4py to train together, got none. Install "
            "renom-onnx[mpi], or give every one engine=rm.runtime.LocalEngine() to train apart."
        )
    from renom_onnx.runtime.processes.elastic import ElasticEngine
    from renom_onnx.runtime.processes.mpi import MpiEngine
    from renom_onnx.runtime.processes.mpi_module import mpi

    if mpi().COMM_WORLD.size == 1:
        return LocalEngine()
    return (ElasticEngine if elastic else MpiEngine)(wire_dtype=wire_dtype)


def own_device(engine: Engine) -> str | None:
    """Return the device of a process that names none: of several on one machine, each has the next GPU."""
    if engine.size > 1 and default_device() == Device("cuda"):
        return f"cuda:{engine.local_rank % max(1, gpu_count())}"
    return None
