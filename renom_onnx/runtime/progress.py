"""Progress bars on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm


class epoch_bar:  # noqa: N801  (a context manager, used like a function)
    """A bar for one epoch that shows the loss; drawn at most ten times a second, so that it costs nothing.

    Args:
        number: of the epoch, from 0.
        n_batches: its length; None, for a bar without an end, where it is not known.
        enabled: False for no bar.
        done: batches that an earlier run has taken.
    """

    def __init__(self, number: int, n_batches: int | None, *, enabled: bool, done: int = 0) -> None:
        self._bar: Any = None
        if enabled:
            options: Any = {"desc": f"epoch {number + 1}", "unit": "batch", "file": sys.stderr, "miniters": 1}
            self._bar = tqdm(total=n_batches, initial=done, **options)
        self._done = done
        self._drawn = time.perf_counter()

    def step(self, loss: float) -> None:
        """Count a batch."""
        self._done += 1
        if self._bar is not None and time.perf_counter() - self._drawn > 0.1:
            self._draw(f"loss {loss:.4g}")

    def finish(self, loss: float, validation_loss: float | None, metrics: Mapping[str, float] | None = None) -> None:
        """Show the epoch's loss and metrics."""
        if self._bar is not None:
            checked = "" if validation_loss is None else f", validation {validation_loss:.4g}"
            judged = "".join(f", {name} {value:.4g}" for name, value in (metrics or {}).items())
            self._draw(f"loss {loss:.4g}{checked}{judged}")

    def _draw(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(self._done - self._bar.n)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def __enter__(self) -> epoch_bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
