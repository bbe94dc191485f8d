"""`Team`: one thread for each device of a process."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

Job = Callable[[], Any]
_Result = tuple[Any, BaseException | None]
_Task = tuple[Job, list[_Result | None], int, "SimpleQueue[None]"]


class Team:
    """Threads that run one job for each device at a time and sleep in between; the caller's own is the first.

    Args:
        size: number of devices.

    Example:
        >>> team = Team(2)
        >>> team.run([lambda: 1, lambda: 2])
        [1, 2]
    """

    def __init__(self, size: int) -> None:
        self._queues: list[SimpleQueue[_Task | None]] = [SimpleQueue() for _ in range(size - 1)]
        for i, queue in enumerate(self._queues, 1):
            threading.Thread(target=_work, args=(queue,), name=f"renom_onnx device {i}", daemon=True).start()
        self._stop = weakref.finalize(self, _stop, self._queues)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run the jobs at the same time, one for each device, and return their results when all have ended.

        An interrupt by the user waits for them too: what they use must not be used again before.

        Raises:
            BaseException: that of the first job that raised.
        """
        results: list[_Result | None] = [None] * len(jobs)
        ended: SimpleQueue[None] = SimpleQueue()
        n_asked = 1
        try:
            for i, (queue, job) in enumerate(zip(self._queues, jobs[1:], strict=True), 1):
                queue.put((job, results, i, ended))
                n_asked += 1
            results[0] = _done(jobs[0])
            for _ in self._queues:
                ended.get()
        except KeyboardInterrupt:
            while any(result is None for result in results[1:n_asked]):
                time.sleep(0.001)
            raise
        values = []
        for result in results:
            assert result is not None
            value, error = result
            if error is not None:
                raise error
            values.append(value)
        return values

    def close(self) -> None:
        """End the threads."""
        self._stop()


def _done(job: Job) -> _Result:
    try:
        return job(), None
    except BaseException as error:  # raised again by the thread that asked for the job
        return None, error


def _work(queue: SimpleQueue[_Task | None]) -> None:
    while (task := queue.get()) is not None:
        job, results, number, ended = task
        results[number] = _done(job)
        ended.put(None)
        del task, job, results, ended  # an idle thread keeps nothing alive


def _stop(queues: Sequence[SimpleQueue[_Task | None]]) -> None:
    for queue in queues:
        queue.put(None)
