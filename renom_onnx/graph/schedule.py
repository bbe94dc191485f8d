"""Learning-rate schedules: the step size as a function of the steps taken, for an executor's ``learning_rate=``.

executor.execute(epochs=10, learning_rate=rm.graph.schedule.Cosine(0.1, n_steps=1000))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Constant", "Cosine", "Exponential", "Linear", "OneCycle", "Schedule", "Step", "WarmUp"]


class Schedule:
    """Base of schedules: called with the number of steps taken so far, returns the step size."""

    def __call__(self, step: int) -> float:
        """Return the step size of the next step."""
        raise NotImplementedError(f"{type(self).__name__}: a schedule must define __call__, got the base class's.")


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    Example:
        >>> Constant(0.1)(1000)
        0.1
    """

    rate: float

    def __call__(self, step: int) -> float:
        """Return the rate."""
        return self.rate


@dataclass(frozen=True)
class Step(Schedule):
    """rate * factor^(step // every_steps).

    Example:
        >>> [Step(0.5, every_steps=10, factor=0.5)(step) for step in (0, 9, 10, 20)]
        [0.5, 0.5, 0.25, 0.125]
    """

    rate: float
    every_steps: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """Return the rate of the stair."""
        return self.rate * self.factor ** (step // self.every_steps)


@dataclass(frozen=True)
class Exponential(Schedule):
    """rate * factor^step.

    Example:
        >>> Exponential(1.0, factor=0.5)(3)
        0.125
    """

    rate: float
    factor: float

    def __call__(self, step: int) -> float:
        """Return the decayed rate."""
        return self.rate * self.factor**step


@dataclass(frozen=True)
class Linear(Schedule):
    """From rate to final over n_steps in a straight line, final afterwards.

    Example:
        >>> [Linear(1.0, n_steps=4)(step) for step in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]
    """

    rate: float
    n_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the rate on the line."""
        return self.rate + (self.final - self.rate) * min(step / self.n_steps, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (rate - final) (1 + cos(pi step / n_steps)) / 2, final afterwards.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983.

    Example:
        >>> [round(Cosine(1.0, n_steps=4)(step), 6) for step in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]
    """

    rate: float
    n_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the rate on the cosine."""
        done = min(step / self.n_steps, 1.0)
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Another schedule, after warmup_steps in which the rate rises in a straight line to where it begins.

    Example:
        >>> schedule = WarmUp(Linear(1.0, n_steps=10), warmup_steps=4)
        >>> [schedule(step) for step in (0, 1, 3, 4, 9)]
        [0.25, 0.5, 1.0, 1.0, 0.5]
    """

    after: Schedule
    warmup_steps: int

    def __call__(self, step: int) -> float:
        """Return the rising rate, then the other schedule's."""
        if step < self.warmup_steps:
            return self.after(0) * (step + 1) / self.warmup_steps
        return self.after(step - self.warmup_steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to rate in the first warmup share of n_steps and down to almost nothing, both along a cosine.

    Starts at rate / start_divisor, ends at that divided by final_divisor.

    Source: Smith & Topin 2018, arXiv:1708.07120; constants are those of torch.optim.lr_scheduler.OneCycleLR.

    Example:
        >>> schedule = OneCycle(1.0, n_steps=100)
        >>> [round(schedule(step), 4) for step in (0, 29, 99)]
        [0.04, 1.0, 0.0]
    """

    rate: float
    n_steps: int
    warmup: float = 0.3
    start_divisor: float = 25.0
    final_divisor: float = 1e4

    def __call__(self, step: int) -> float:
        """Return the rate of the cycle."""
        start, top = self.rate / self.start_divisor, self.warmup * self.n_steps - 1
        end = start / self.final_divisor
        step = min(step, self.n_steps - 1)
        if step <= top:
            return _along_cosine(start, self.rate, step / top)
        return _along_cosine(self.rate, end, (step - top) / (self.n_steps - 1 - top))


def _along_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
