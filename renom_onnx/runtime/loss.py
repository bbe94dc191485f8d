"""`Loss`: what a step returns, read from the device when somebody looks."""

from __future__ import annotations

import weakref

from renom_onnx.runtime.tensor import Tensor


class Loss:
    """The loss of a step: read from the device when first looked at.

    Example:
        >>> float(Loss.of(0.5))
        0.5
    """

    __slots__ = ("__weakref__", "_tensor", "_value")

    def __init__(self, tensor: Tensor | None, value: float | None = None) -> None:
        self._tensor = tensor
        self._value = value

    @classmethod
    def of(cls, value: float) -> Loss:
        """Return a loss that is known."""
        return cls(None, value)

    def __float__(self) -> float:
        if self._value is None:
            assert self._tensor is not None
            self._value = self._tensor.item()
            self._tensor = None
        return self._value

    def __repr__(self) -> str:
        return repr(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)


class LossBuffer:
    """The memory that every step writes its loss into, and the latest loss that somebody may still look at."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._pending: weakref.ref[Loss] | None = None

    def settle(self) -> None:
        """Read the latest loss if somebody holds it: its memory is about to be written again."""
        previous = self._pending() if self._pending is not None else None
        if previous is not None:
            float(previous)

    def take(self) -> Loss:
        """Return the loss that was just written."""
        loss = Loss(self.tensor)
        self._pending = weakref.ref(loss)
        return loss
