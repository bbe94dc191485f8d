"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file through a temporary one beside it, so that a reader finds the old file or the new one.

    Args:
        path: of the file.
        write: called with the open temporary file.

    Raises:
        FileNotFoundError: there is no such folder; the error names it, not the temporary file.
    """
    target = Path(path)
    if not target.parent.exists():
        raise FileNotFoundError(errno.ENOENT, "No such folder to write to", str(target.parent))
    # Other machines that share the folder have processes of the same numbers.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _keep_name(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_name(folder: Path) -> None:
    """Let the new name outlive a loss of power, where folders are files that can be synchronized."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
