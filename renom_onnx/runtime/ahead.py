"""Feeding ahead: batches are read and copied to the device by a thread while the step before them runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(items: Iterator[Item], make: Callable[[Item], Made]) -> Generator[Made, None, None]:
    """Yield what ``make`` makes of each item, in order, one of them made before it is asked for.

    The items are taken, and closed, by a thread of their own. While one of the results is in use, which is until the
    next is asked for, one more is made, so that two need memory.

    Args:
        items: an iterator, which nobody else uses meanwhile.
        make: called in the thread.

    Example:
        >>> list(ahead(iter([1, 2, 3]), lambda i: i * 10))
        [10, 20, 30]
    """
    made: SimpleQueue[tuple[Made | None, BaseException | None, bool]] = SimpleQueue()
    room = threading.Semaphore(2)
    stop = threading.Event()

    def work() -> None:
        try:
            for item in items:
                made.put((make(item), None, False))
                room.acquire()
                if stop.is_set():
                    break
        except BaseException as error:  # raised again by who asks for the next one
            made.put((None, error, True))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            made.put((None, None, True))

    room.acquire()
    thread = threading.Thread(target=work, name="renom_onnx feeding", daemon=True)
    thread.start()
    try:
        while True:
            value, error, is_end = made.get()
            if error is not None:
                raise error
            if is_end:
                return
            yield value  # type: ignore[misc]
            del value
            room.release()
    finally:
        stop.set()
        room.release()
        thread.join()
