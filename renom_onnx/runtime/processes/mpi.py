"""`MpiEngine`: the processes that mpiexec started train as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from renom_onnx.errors import DeviceError
from renom_onnx.runtime.device import core_count
from renom_onnx.runtime.engine import Engine, LocalEngine
from renom_onnx.runtime.processes.mpi_module import mpi
from renom_onnx.runtime.processes.watch import Watch
from renom_onnx.runtime.processes.wire import Wire
from renom_onnx.runtime.reduction import Reduction
from renom_onnx.runtime.tensor import Tensor

TIMEOUT_S = 1800.0


class MpiEngine(Engine):
    """Adds buffers up over the processes of an MPI job; each process adds up its own devices first.

    An executor makes one by itself in a process that mpiexec started. All processes run the same program, and call the
    same things in the same order. An error of one ends all.

    Args:
        comm: a communicator of mpi4py; default: all processes. Several groups of processes can train apart.
        reduction: how the devices of one process are added; default: see `LocalEngine`.
        wire_dtype: "float16" sends gradients as float16, which halves the bytes; they are added in their own type.
            Losses and statistics are sent as they are.
        timeout_s: how long to wait for the others at most.

    Attributes:
        rank, size, local_rank: see `Engine`.

    Raises:
        DeviceError: there is no mpi4py or no MPI, or the type for the wire is another.

    Example:
        >>> engine = rm.runtime.MpiEngine(wire_dtype="float16")  # doctest: +SKIP
        >>> executor = loss.get_training_executor(rm.graph.Adam(), engine=engine)  # doctest: +SKIP
    """

    is_elastic = False

    def __init__(
        self,
        comm: Any = None,
        *,
        reduction: Reduction | None = None,
        wire_dtype: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if wire_dtype not in (None, "float16"):
            raise DeviceError(f"MpiEngine: wire_dtype must be 'float16' or None, got {wire_dtype!r}.")
        self._mpi = mpi()
        self._comm = (self._mpi.COMM_WORLD if comm is None else comm).Dup()
        self._local = LocalEngine(reduction)
        self._wire = Wire(self._mpi) if wire_dtype else None
        self._watch = Watch(self._mpi, self._comm, timeout_s, is_elastic=self.is_elastic)
        self._look_around()

    def _look_around(self) -> None:
        """Find out the place of this process in its communicator and on its machine."""
        self.rank, self.size = self._comm.rank, self._comm.size
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_rank = node.rank
        bound = node.allgather(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
        everything = len(set().union(*bound)) if bound[0] is not None else core_count()
        self._n_cores: int = max(1, min(core_count(), everything // int(node.size)))
        node.Free()

    @property
    def local(self) -> LocalEngine:
        return self._local

    def layout(self, n_devices: int) -> tuple[int, int]:
        counts = self.gather(n_devices)
        return int(sum(counts[: self.rank])), int(sum(counts))

    def allreduce(self, buffers: Sequence[Tensor], n_exact: int | None = None) -> None:
        self._local.allreduce(buffers)
        if self.size == 1:
            return
        view = buffers[0].view()
        with self._watch.waiting("the sum of gradients"):
            if self._wire is None or n_exact is None:
                self._comm.Allreduce(self._mpi.IN_PLACE, view)
            else:
                self._wire.allreduce(self._comm, view[: len(view) - n_exact])
                if n_exact:
                    self._comm.Allreduce(self._mpi.IN_PLACE, view[len(view) - n_exact :])
        buffers[0].commit(view)
        self._local.broadcast(buffers)

    def broadcast(self, tensors: Sequence[Tensor], root: int = 0) -> None:
        view = np.asarray(tensors[0].view(), order="C")
        with self._watch.waiting("handing out weights"):
            self._comm.Bcast(view.reshape(-1).view(np.uint8), root)
        tensors[0].commit(view)
        self._local.broadcast(tensors)

    def barrier(self) -> None:
        with self._watch.waiting("a barrier"):
            self._comm.Barrier()

    def gather(self, value: Any) -> list[Any]:
        with self._watch.waiting("collecting results"):
            found: list[Any] = self._comm.allgather(value)
        return found

    def failing(self) -> AbstractContextManager[None]:
        return self._watch.failing()

    def cores(self) -> int:
        return self._n_cores
