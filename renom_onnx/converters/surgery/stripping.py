"""`strip`: the inference model of a trainable one."""

from __future__ import annotations

from typing import Any

import onnx

from renom_onnx.converters.importer import read_model
from renom_onnx.converters.structure import drop_unused, replace_all

PROGRESS = frozenset({"batch", "epoch", "optimizer", "seed", "settings"})
"""Metadata about a training that are nothing to an inference model."""


def strip(model: Any) -> onnx.ModelProto:
    """Return the inference reading alone: no training steps, and no functions, imports and metadata of theirs.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.strip(rm.converters.to_training_onnx(loss))
        >>> len(model.training_info), len(model.functions), len(model.metadata_props)
        (0, 0, 0)
    """
    result = onnx.ModelProto()
    result.CopyFrom(read_model(model))
    if not result.training_info:
        return result
    result.ClearField("training_info")
    drop_unused(result)
    replace_all(result.metadata_props, [entry for entry in result.metadata_props if entry.key not in PROGRESS])
    return result
