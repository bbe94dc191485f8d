"""`Watch`: no process of a job waits for ever for one that raised, ended, or does something else.

A process that waits for the others in a collective call of MPI cannot look around. So everyone who leaves tells the
others, and a thread looks after the one that waits.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from renom_onnx.runtime.processes.mpi_module import note_loss

FAILED, LEFT = 77, 78
"""Tags of the empty messages that say so."""
GRACE_S = 1.0
"""How long the others have to raise too, before an error counts as this process's alone."""
LOOK_S = 0.5
LEFT_S = 3.0
"""How long to wait for one that has left: it may have done its part already."""
LATE_S = 60.0
"""After how long to say that one waits."""


class Watch:
    """Looks after the processes of a communicator.

    Args:
        mpi: the module ``mpi4py.MPI``.
        comm: the communicator; another one after processes were lost.
        timeout_s: how long to wait for the others at most.
        is_elastic: whether the others go on when one is lost.
    """

    def __init__(self, mpi: Any, comm: Any, timeout_s: float, *, is_elastic: bool = False) -> None:
        self._mpi = mpi
        self.comm = comm
        self._timeout_s = timeout_s
        self._is_elastic = is_elastic
        self._waiting: tuple[str, float] | None = None
        self._heard: dict[int, set[int]] = {FAILED: set(), LEFT: set()}
        self._depth = 0
        self._end = threading.Event()
        if comm.size == 1:
            return
        self._hook = sys.excepthook
        sys.excepthook = self._end_with
        self._thread: threading.Thread | None = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self._thread = threading.Thread(target=self._look, name="renom_onnx watch", daemon=True)
            self._thread.start()
        atexit.register(self._leave)

    def move(self, comm: Any) -> None:
        """Look after the processes that are left."""
        self.comm = comm
        for heard in self._heard.values():
            heard.clear()
        note_loss()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Wait for the others inside of this."""
        self._waiting = (what, time.monotonic())
        try:
            yield
        finally:
            self._waiting = None

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """End the job with an error of this process, unless all have one."""
        self._depth += 1
        try:
            yield
        except BaseException as error:
            if self._depth == 1 and not self._all_failed():
                self._end_with(type(error), error, error.__traceback__)
            raise
        finally:
            self._depth -= 1

    def end(self, why: str) -> None:
        """End the job at once with a message."""
        sys.stdout.flush()
        self._say(why)
        self._mpi.COMM_WORLD.Abort(1)

    def _say(self, what: str) -> None:
        sys.stderr.write(f"renom_onnx: rank {self.comm.rank} of {self.comm.size} {what}\n")
        sys.stderr.flush()

    def _end_with(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._hook(kind, error, trace)
        self.end("raised this error, which ends the job.")

    def _all_failed(self) -> bool:
        """Whether the other processes raise too: then nobody waits for anybody."""
        self._tell(FAILED)
        until = time.monotonic() + GRACE_S
        while not self._has_heard_all(FAILED):
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        self._heard[FAILED].clear()
        return True

    def _tell(self, tag: int) -> None:
        for other in range(self.comm.size):
            if other != self.comm.rank:
                with contextlib.suppress(self._mpi.Exception):  # it may be lost
                    self.comm.Isend([b"", self._mpi.BYTE], other, tag).Free()

    def _has_heard_all(self, tag: int) -> bool:
        self._listen(tag)
        n_others: int = self.comm.size - 1
        return len(self._heard[tag]) == n_others

    def _listen(self, tag: int) -> None:
        for other in range(self.comm.size):
            if other == self.comm.rank or other in self._heard[tag]:
                continue
            try:
                if not self.comm.Iprobe(other, tag):
                    continue
                self.comm.Recv([bytearray(), self._mpi.BYTE], other, tag)
            except self._mpi.Exception:  # it is lost
                if self._is_elastic:
                    note_loss()
            self._heard[tag].add(other)

    def _look(self) -> None:
        told: tuple[str, float] | None = None
        left_since: float | None = None
        while not self._end.wait(LOOK_S):
            waiting = self._waiting
            now = time.monotonic()
            if waiting is None or now - waiting[1] < LOOK_S:
                left_since = None
                continue
            what, waited_s = waiting[0], now - waiting[1]
            self._listen(LEFT)
            left = sorted(self._heard[LEFT])
            left_since = (left_since or now) if left else None
            if self._waiting is not waiting:
                continue
            if left_since is not None and now - left_since > LEFT_S:
                who = f"rank {left[0]} has" if len(left) == 1 else f"ranks {', '.join(map(str, left))} have"
                self.end(f"waits for all ranks in {what}, but {who} left. All must run the same.")
            if waited_s > self._timeout_s:
                self.end(f"has waited {waited_s:.0f} s for all ranks in {what}, longer than the engine's timeout_s.")
            if waited_s > LATE_S and told is not waiting:
                told = waiting
                self._say(f"has waited {waited_s:.0f} s for all ranks in {what}.")

    def _leave(self) -> None:
        """Tell the others that this process ends; MPI then waits for them."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        sys.excepthook = self._hook
        if self._mpi.Is_finalized():
            return
        self._tell(LEFT)
        self._listen(LEFT)
        while self._is_elastic and not self._has_heard_all(LEFT):  # one may be lost until the end
            time.sleep(0.01)
