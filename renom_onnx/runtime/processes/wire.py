"""Gradients as float16 on the wire: half the bytes, added in their own type."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LARGEST = 15
"""Exponent below which a piece's largest number is put; float16 ends at 2^16 and keeps numbers down to 2^-24."""


class Wire:
    """A sum over processes, each of which adds up one piece of the buffer.

    Every process sends each piece to the one that adds it, as float16 times a power of two that brings the piece's
    largest number near the end of float16's range; the sums are handed out in the same way. So a number is rounded
    twice, to 11 bits, whatever the number of processes, and all have the same bits.

    Args:
        mpi: the module ``mpi4py.MPI``.
    """

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi

    def allreduce(self, comm: Any, flat: Array) -> None:
        """Replace a flat array of every process by the sum of all."""
        size = comm.size
        length = -(-len(flat) // size)
        pieces = np.zeros((size, length), flat.dtype)
        pieces.reshape(-1)[: len(flat)] = flat
        sent, exponents = packed(pieces)
        got, got_exponents = np.empty_like(sent), np.empty_like(exponents)
        comm.Alltoall(sent.view(np.uint16), got.view(np.uint16))
        comm.Alltoall(exponents, got_exponents)
        total = np.zeros(length, flat.dtype)
        for piece in unpacked(got, got_exponents, flat.dtype):
            total += piece
        one, exponent = packed(total[None])
        comm.Allgather(one.view(np.uint16), got.view(np.uint16))
        comm.Allgather(exponent, got_exponents)
        flat[:] = unpacked(got, got_exponents, flat.dtype).reshape(-1)[: len(flat)]


def packed(pieces: Array) -> tuple[Array, Array]:
    """Return rows as float16 with the exponents of the powers of two that they were multiplied by.

    Example:
        >>> halves, exponents = packed(np.array([[1e-6, 3e-7]], np.float32))
        >>> np.allclose(unpacked(halves, exponents, np.dtype(np.float32)), [[1e-6, 3e-7]], rtol=1e-3)
        True
    """
    largest = np.abs(pieces).max(1, initial=0)
    known = np.isfinite(largest) & (largest > 0)
    exponents = np.where(known, LARGEST - np.frexp(np.where(known, largest, 1))[1], 0).astype(np.int32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.ldexp(pieces, exponents[:, None]).astype(np.float16), exponents


def unpacked(halves: Array, exponents: Array, dtype: np.dtype[Any]) -> Array:
    """Return the rows that were packed, rounded."""
    found: Array = np.ldexp(halves.astype(dtype), -exponents[:, None])
    return found
