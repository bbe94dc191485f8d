"""`Team`: one thread for each device of a process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

Job = Callable[[], Any]
_Task = tuple[Job, "SimpleQueue[_Result]", int]
_Result = tuple[int, Any, BaseException | None]


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

        Raises:
            BaseException: that of the first job that raised.
        """
        answers: SimpleQueue[_Result] = SimpleQueue()
        for i, (queue, job) in enumerate(zip(self._queues, jobs[1:], strict=True), 1):
            queue.put((job, answers, i))
        results = [_done(jobs[0], 0), *(answers.get() for _ in self._queues)]
        results.sort(key=lambda result: result[0])
        for _, _, error in results:
            if error is not None:
                raise error
        return [value for _, value, _ in results]

    def close(self) -> None:
        """End the threads."""
        self._stop()


def _done(job: Job, number: int) -> _Result:
    try:
        return number, job(), None
    except BaseException as error:  # raised again by the thread that asked for the job
        return number, None, error


def _work(queue: SimpleQueue[_Task | None]) -> None:
    while (task := queue.get()) is not None:
        job, answers, number = task
        answers.put(_done(job, number))
        del task, job, answers  # an idle thread keeps nothing alive


def _stop(queues: Sequence[SimpleQueue[_Task | None]]) -> None:
    for queue in queues:
        queue.put(None)
