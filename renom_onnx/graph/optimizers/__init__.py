"""Optimizers, a family a file; `renom_onnx.graph.optimizer` has what they share."""

from collections.abc import Callable

from renom_onnx.errors import ConversionError
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers.adagrad import Adadelta, Adagrad, Rmsprop
from renom_onnx.graph.optimizers.adam import Adam, Adamax, AdamW, Lamb
from renom_onnx.graph.optimizers.lion import Lion
from renom_onnx.graph.optimizers.sgd import Sgd, default_optimizer, sgd_update
from renom_onnx.graph.site import created_at, user_site

__all__ = [
    "OPTIMIZERS",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Lion",
    "Rmsprop",
    "Sgd",
    "as_optimizer",
    "default_optimizer",
    "sgd_update",
    "training_optimizer",
]

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    kind.__name__.lower(): kind for kind in (Adadelta, Adagrad, Adam, Adamax, AdamW, Lamb, Lion, Rmsprop, Sgd)
}
"""Those with defaults, by the names that are taken in place of one."""


def as_optimizer(given: Optimizer | str | None, caller: str) -> Optimizer | None:
    """Return an optimizer as it is, and a new one with its defaults for a name.

    Raises:
        ConversionError: there is no optimizer of that name.

    Example:
        >>> as_optimizer("adam", "set_optimizer").learning_rate
        0.0010000000474974513
    """
    if given is None or isinstance(given, Optimizer):
        return given
    name = str(given).lower()
    if name not in OPTIMIZERS:
        raise ConversionError(
            f"{caller}: an optimizer must be an Optimizer or one of {', '.join(sorted(OPTIMIZERS))}, got {given!r}. "
            f"{created_at(user_site())}"
        )
    return OPTIMIZERS[name]()


def training_optimizer(given: Optimizer | str | None, caller: str) -> Optimizer:
    """Return what `as_optimizer` does, and the default of a training for None."""
    return as_optimizer(given, caller) or default_optimizer()
