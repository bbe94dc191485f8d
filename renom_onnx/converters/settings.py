"""What a training file says of its step beside the graph: settings that the nodes alone would not tell apart.

They stand in the entry ``settings`` of `metadata_props` as JSON, numbers exact.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from renom_onnx.graph.node import Value
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.parameter import Parameter


def describe_settings(
    loss: Value, optimizer: Optimizer, parameters: list[Parameter], checkpoints: list[list[str]]
) -> str:
    """Return the settings of a step, those that are not the default.

    Args:
        loss: what is made small.
        optimizer: of the parameters that have none of their own.
        parameters: that are trained.
        checkpoints: names of nodes that are computed again, those of a call together.
    """
    settings: dict[str, Any] = {"reduction": loss.node.reduction}
    if loss.node.gradient_limits is not None:
        settings["gradient_limits"] = list(loss.node.gradient_limits)
    if optimizer.clip_value is not None:
        settings["clip_value"] = list(optimizer.clip_value)
    if optimizer.clip_norm is not None:
        settings["clip_norm"] = optimizer.clip_norm
    if optimizer.accumulate != 1:
        settings["accumulate"] = optimizer.accumulate
    if (scale := optimizer.loss_scale) is not None:
        settings["loss_scale"] = {
            "initial": float(scale.scale.initial),
            "growth_factor": scale.growth_factor,
            "backoff_factor": scale.backoff_factor,
            "growth_interval_steps": scale.growth_interval_steps,
        }
    if checkpoints:
        settings["checkpoints"] = checkpoints
    own = [p.optimizer for p in parameters if p.optimizer is not None]
    exact = {o.name: inexact for o in dict.fromkeys([optimizer, *own]) if (inexact := _inexact(o))}
    if exact:
        settings["hyperparameters"] = exact
    return json.dumps(settings, sort_keys=True)


def _inexact(optimizer: Optimizer) -> dict[str, float]:
    """Return the hyperparameters that float32, the type of attributes, does not give back."""
    values = optimizer.hyperparameters()
    return {name: value for name, value in values.items() if isinstance(value, float) and shortest(value) != value}


def shortest(value: float) -> float:
    """Return the number with the fewest digits that is this one in float32: 0.9 for 0.89999998.

    Example:
        >>> shortest(float(np.float32(0.9)))
        0.9
    """
    return float(str(np.float32(value)))


def read_settings(text: str) -> dict[str, Any]:
    """Return the settings of a file; none where it says nothing that can be read."""
    try:
        settings = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}
