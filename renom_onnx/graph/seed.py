"""Seeds: the same seed gives the same numbers, whatever else the program draws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from renom_onnx.errors import ConversionError
from renom_onnx.graph.site import created_at, user_site

_state = {"seed": 0}
_ordinal = itertools.count()


def set_seed(seed: int) -> None:
    """Start the random numbers of parameters and shuffling over.

    Parameters are drawn by a Philox generator keyed by (seed, ordinal of the parameter); a shuffle is a function of
    (seed, epoch). The seed is 0 until this is called.

    Args:
        seed: 0 to 2^64 - 1.

    Raises:
        ConversionError: the seed is none of these.

    Example:
        >>> import renom_onnx as rm
        >>> rm.set_seed(0)
    """
    global _ordinal  # noqa: PLW0603  (one counter for the process, restarted here alone)
    if not 0 <= seed < 2**64:
        raise ConversionError(f"set_seed: the seed must be 0 to 2^64 - 1, got {seed}. {created_at(user_site())}")
    _state["seed"] = int(seed)
    _ordinal = itertools.count()


def set_renom_seed(seed: int = 30, all_devices: bool = False) -> None:
    """Call `set_seed`, of which this is ReNom's spelling: every device draws the same numbers, whatever is asked."""
    set_seed(seed)


def seed() -> int:
    """Return the seed."""
    return _state["seed"]


def parameter_generator() -> np.random.Generator:
    """Return the generator of the next parameter."""
    return _generator(_state["seed"], next(_ordinal))


def layer_key() -> int:
    """Return the 32-bit key of the next layer that draws random numbers in the graph."""
    return int(parameter_generator().integers(2**32))


def permutation(rows: int, epoch: int, base: int) -> np.ndarray[Any, Any]:
    """Return the order of the rows in an epoch, a function of (base seed, epoch) alone."""
    return _generator(base, 2**63 + epoch).permutation(rows)


def _generator(*key: int) -> np.random.Generator:
    # A list of small and large integers would become float64, in which neighbouring keys are one and the same.
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
