"""`ElasticEngine`: when processes are lost, the others go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from renom_onnx.errors import DeviceError, first_line
from renom_onnx.runtime.engine import RanksLostError, Result
from renom_onnx.runtime.processes.mpi import MpiEngine
from renom_onnx.runtime.processes.mpi_module import survives_losses


class ElasticEngine(MpiEngine):
    """An `MpiEngine` whose processes may be lost; needs Open MPI and ``mpiexec --with-ft ulfm``.

    What processes do together ends with an agreement whether all have done it. If not, those that are left form a
    smaller group, among whom batches are dealt anew, and do it again. Weights are updated after the agreement, so that
    nobody updates alone. Rows, dropout and shuffling do not depend on the number of processes: the training goes on as
    if it had had fewer from the start, but for the order of sums.

    Args:
        comm, options: see `MpiEngine`.

    Raises:
        DeviceError: this MPI cannot go on without a process.

    Source: user level failure mitigation, https://fault-tolerance.org.
    """

    is_elastic = True

    def __init__(self, comm: Any = None, **options: Any) -> None:
        super().__init__(comm, **options)
        if self.size > 1 and not survives_losses():
            version = first_line(Exception(self._mpi.Get_library_version())).split(",")[0]
            raise DeviceError(
                f"ElasticEngine: MPI must let the others go on when a process is lost, got {version} without fault "
                f"tolerance. Use Open MPI's mpiexec --with-ft ulfm, or elastic=False."
            )

    def together(self, work: Callable[[], Result]) -> Result:
        if self.size == 1:
            return work()
        error: Exception | None = None
        try:
            result = work()
        except Exception as e:  # of MPI, or because of what a call brought that a loss disturbed
            error = e
            self._comm.Revoke()  # whoever still waits for the lost one learns of it
        if self._agree(error is None):
            return result
        before = self.size
        self._shrink()
        if error is not None and self.size == before:
            raise error
        self.changes += 1
        n_lost = before - self.size
        if self.rank == 0 and n_lost:
            who = "1 rank was" if n_lost == 1 else f"{n_lost} ranks were"
            sys.stderr.write(f"renom_onnx: {who} lost, {self.size} of {before} go on.\n")
        raise RanksLostError(
            f"ElasticEngine: all ranks must be there, got {self.size} of {before}. Deal the batch anew and repeat."
        )

    def _agree(self, is_done: bool) -> bool:
        """Return whether all processes, none of them lost, are done; all get the same answer."""
        with self._watch.waiting("an agreement"):
            try:
                return bool(self._comm.Agree(int(is_done)))
            except self._mpi.Exception:
                return False

    def _shrink(self) -> None:
        """Form a group of those that are left; again, if one more is lost meanwhile."""
        is_formed = False
        while not is_formed:
            try:
                self._comm = self._comm.Shrink()
                self._look_around()
            except self._mpi.Exception:
                is_formed = self._agree(False)
            else:
                is_formed = self._agree(True)
        self._watch.move(self._comm)
