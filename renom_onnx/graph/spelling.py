"""ReNom's spellings of arguments, as data: ``Dense(output_size=3, ignore_bias=True)`` is ``Dense(3, bias=False)``.

The names of classes and functions in ReNom's spellings are at the end of ``renom_onnx/graph/__init__.py``.
"""

from __future__ import annotations

import functools
from typing import Any

from renom_onnx.errors import ConversionError
from renom_onnx.graph import layers, optimizers, regularizer
from renom_onnx.graph.data_input import DataInput
from renom_onnx.graph.distributor import DistributorElement
from renom_onnx.graph.placeholder import Placeholder
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.graph.variable import StaticVariable

NOT = "not "
"""Begins the name of an argument that is the opposite of ReNom's."""
DEVICES = ""
"""Stands for an argument that is taken only where it says nothing: devices are named where a model runs."""

ARGUMENTS: dict[type, dict[str, str]] = {
    layers.Dense: {"output_size": "units", "ignore_bias": "not bias"},
    layers.Conv: {"channel": "channels", "ignore_bias": "not bias"},
    layers.Deconv: {"channel": "channels", "ignore_bias": "not bias"},
    layers.BatchNormalize: {"ignore_bias": "not bias"},
    layers.WeightNormalize: {"output_size": "units", "ignore_bias": "not bias"},
    layers.Embedding: {"output_size": "units"},
    layers.Rnn: {"output_size": "units", "ignore_bias": "not bias"},
    optimizers.Adam: {"alpha": "learning_rate"},
    optimizers.Rmsprop: {"lr": "learning_rate"},
    regularizer.Regularizer: {"wd": "weight_decay"},
    DistributorElement: {"data": "x", "labels": "y", "num_gpus": DEVICES},
    DataInput: {"num_gpus": DEVICES},
    Placeholder: {"num_gpus": DEVICES},
    StaticVariable: {"num_gpus": DEVICES},
}
"""By class, and for the classes made from it: what ReNom calls an argument, and its name here."""


def accept(kind: type, words: dict[str, str]) -> None:
    """Let a class be called with other words for its arguments."""
    init: Any = kind.__init__  # type: ignore[misc]  # wrapped, so that signature and documentation stay

    @functools.wraps(init)
    def spelled(self: Any, *args: Any, **named: Any) -> None:
        for word in [word for word in named if word in words]:
            value, name = named.pop(word), words[word]
            if name == DEVICES:
                _refuse_devices(type(self).__name__, word, value)
            elif name in named or name.removeprefix(NOT) in named:
                raise TypeError(f"{type(self).__name__}() got {word!r} and {name.removeprefix(NOT)!r}, which are one.")
            elif name.startswith(NOT):
                named[name.removeprefix(NOT)] = not value
            else:
                named[name] = value
        init(self, *args, **named)

    kind.__init__ = spelled  # type: ignore[misc]


def _refuse_devices(kind: str, word: str, value: Any) -> None:
    if value not in (None, 0, 1):
        raise ConversionError(
            f"{kind}: devices must be named where the model runs, got {word}={value!r}. Give "
            f'devices=["cuda:0", "cuda:1"] to get_training_executor. {created_at(user_site())}'
        )


for _kind, _words in ARGUMENTS.items():
    accept(_kind, _words)
