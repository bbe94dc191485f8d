"""Engines: how the devices of one or many processes add their buffers up.

A training step asks an engine for one thing, the sum of a flat buffer over all devices, and a start for another, that
everybody has the weights of rank 0. `LocalEngine` serves the devices of one process.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from renom_onnx.errors import RunError
from renom_onnx.runtime.device import core_count
from renom_onnx.runtime.nccl import best_reduction
from renom_onnx.runtime.reduction import Reduction
from renom_onnx.runtime.tensor import Tensor

Result = TypeVar("Result")


class RanksLostError(RunError):
    """Processes of a training ended while others go on; what all of them were doing together must be done again."""


class Engine(ABC):
    """What several devices need of each other; every process has one, and a number of devices of its own.

    `LocalEngine` has an example.

    Attributes:
        rank: number of this process, from 0; rank 0 shows progress and writes files.
        size: number of processes.
        local_rank: number of this process among those of its machine.
        changes: how often processes were lost; every time, ranks and sizes are others.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    changes: int = 0

    @property
    @abstractmethod
    def local(self) -> LocalEngine:
        """What adds up the devices of this process alone."""

    @abstractmethod
    def layout(self, n_devices: int) -> tuple[int, int]:
        """Return the number of this process's first device among all, and how many there are in all.

        Args:
            n_devices: of this process.
        """

    @abstractmethod
    def allreduce(self, buffers: Sequence[Tensor], n_exact: int | None = None) -> None:
        """Replace the buffers by their sum over all devices of all processes, added in one fixed order.

        Args:
            buffers: one for each device of this process, of the same size and type; written in place. All processes
                call with as many elements.
            n_exact: how many elements at the end must be added as they are; those before may be rounded on the way.
                Default: all.
        """

    @abstractmethod
    def broadcast(self, tensors: Sequence[Tensor], root: int = 0) -> None:
        """Give all tensors, one for each device of this process, the value of this rank's first."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when all processes have called."""

    def gather(self, value: Any) -> list[Any]:
        """Return a small value of every process, by rank."""
        return [value]

    def together(self, work: Callable[[], Result]) -> Result:
        """Return what some work gives that processes do together.

        Raises:
            RanksLostError: on all processes that are left, if any was lost meanwhile.
        """
        return work()

    def failing(self) -> AbstractContextManager[None]:
        """Return a context in which an error of one process ends all of them; one that all have is raised."""
        return contextlib.nullcontext()

    def cores(self) -> int:
        """Return how many cores this process can use without taking those of another."""
        return core_count()


class LocalEngine(Engine):
    """The engine of a single process.

    Args:
        reduction: how buffers are added; default: by NCCL where it is installed and the devices are different GPUs,
            else in host memory.

    Example:
        >>> import numpy as np
        >>> from renom_onnx.runtime import parse_device
        >>> buffers = [Tensor.from_array(np.full(2, i, np.float32), parse_device("cpu")) for i in (1, 2)]
        >>> LocalEngine().allreduce(buffers)
        >>> [buffer.read().tolist() for buffer in buffers]
        [[3.0, 3.0], [3.0, 3.0]]
    """

    def __init__(self, reduction: Reduction | None = None) -> None:
        self._reduction = reduction

    def layout(self, n_devices: int) -> tuple[int, int]:
        return 0, n_devices

    @property
    def local(self) -> LocalEngine:
        return self

    def allreduce(self, buffers: Sequence[Tensor], n_exact: int | None = None) -> None:
        if len(buffers) > 1:
            self._of(buffers).sum(buffers)

    def broadcast(self, tensors: Sequence[Tensor], root: int = 0) -> None:
        if len(tensors) > 1:
            self._of(tensors).copy(tensors)

    def barrier(self) -> None:
        pass

    def _of(self, tensors: Sequence[Tensor]) -> Reduction:
        if self._reduction is None:
            self._reduction = best_reduction([tensor.device for tensor in tensors])
        return self._reduction
