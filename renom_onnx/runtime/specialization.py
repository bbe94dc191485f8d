"""Specialization: what a session runs in the place of a file's bodies, chosen when its device and sizes are known."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from renom_onnx.converters.cpu.batch_operator import with_batch_operators
from renom_onnx.converters.cpu.blocked import block_of, probe_model, with_blocked_convolutions
from renom_onnx.converters.cpu.compared_pooling import with_compared_pools
from renom_onnx.converters.cpu.fast_form import with_fast_forms
from renom_onnx.converters.cpu.fusible import with_fusible_nodes
from renom_onnx.converters.cpu.gated_sum import gated_probe, with_gated_sums
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.recurrent_operator import with_recurrent_passes
from renom_onnx.converters.cpu.tabulated_step import with_tabulated_steps
from renom_onnx.converters.cpu.turned_product import turned_probe, with_turned_products
from renom_onnx.converters.signature import ModelProto
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.tree import as_bytes, of_bytes
from renom_onnx.errors import ConversionError
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.ort import onnxruntime

_logger = logging.getLogger(__name__)


def for_sizes(
    model: bytes,
    device: Device,
    sizes: Mapping[str, int] | None,
    forms: Collection[str] | None = None,
    is_safe: Callable[[ModelProto], bool] = lambda model: True,
    shapes: KnownShapes | None = None,
) -> bytes:
    """Return a step with the bodies that are best for a device and sizes.

    Args:
        model: a step that is right for the kind of device.
        device: that runs it.
        sizes: of all symbols; None where the session is to take any, which keeps its bodies.
        forms: which of `FORMS` to use; default: all.
        is_safe: whether a changed step leaves alone what it must; a form without which it does is left out, else all
            are, and the log tells so.
        shapes: of the step's values for these sizes, where somebody has asked for some of them before.
    """
    if device.kind != "cpu" or sizes is None:
        return model
    proto = changed = of_bytes(model)
    shapes = shapes or KnownShapes(proto, sizes)
    chosen = [name for name in FORMS if forms is None or name in forms]
    for left_out in [set(), *({name} for name in reversed(chosen)), set(chosen)]:
        changed, known = proto, shapes.copy()
        for name in (name for name in chosen if name not in left_out):
            changed = FORMS[name](changed, known)
        if changed is proto or is_safe(changed):
            if left_out:
                _logger.debug(
                    "The step for sizes %s is written without the forms %s, which would read weights or state after "
                    "they were written over.",
                    dict(sizes),
                    sorted(left_out),
                )
            break
    return model if changed is proto else as_bytes(changed)


def _blocked(model: ModelProto, shapes: KnownShapes) -> ModelProto:
    return with_blocked_convolutions(model, block_size(), shapes) if block_size() else model


def _normalized(model: ModelProto, shapes: KnownShapes) -> ModelProto:
    return with_batch_operators(model, shapes, block_size())


def _fast(model: ModelProto, shapes: KnownShapes) -> ModelProto:
    try:
        plain = inline_calls(model, lambda key: True)
    except ConversionError:  # functions that onnxruntime may write out, or refuse, by itself
        return model
    shapes.learn(plain)
    return with_fast_forms(plain, shapes)


def _summed(model: ModelProto, shapes: KnownShapes) -> ModelProto:
    return with_gated_sums(model, shapes) if has_gated_sums() else model


def _turned(model: ModelProto, shapes: KnownShapes) -> ModelProto:
    return with_turned_products(model, shapes) if has_turned_products() else model


FORMS: dict[str, Callable[[ModelProto, KnownShapes], ModelProto]] = {
    "pooling": with_compared_pools,
    "fusion": with_fusible_nodes,
    "recurrence": with_recurrent_passes,
    "blocks": _blocked,
    "normalization": _normalized,
    "steps": with_tabulated_steps,
    "updates": _fast,
    "turns": _turned,
    "sums": _summed,
}
"""What is changed of a step on the CPU, in this order; each is right without the others.

A form leaves the model that it is given as it is, and every value that it keeps keeps its name and its sizes.
"""


@functools.cache
def block_size() -> int:
    """Return how many channels a block of this machine's onnxruntime has, 0 where it has no blocked kernels."""
    model, feeds = probe_model()
    blocked = _probed(model, feeds)
    return 0 if blocked is None else block_of(blocked)


@functools.cache
def has_gated_sums() -> bool:
    """Whether this machine's onnxruntime has a node for x + y s."""
    model, feeds, expected = gated_probe()
    return np.array_equal(_probed(model, feeds), expected)


@functools.cache
def has_turned_products() -> bool:
    """Whether this machine's onnxruntime has a product that turns an operand."""
    model, feeds, expected = turned_probe()
    return np.array_equal(_probed(model, feeds), expected)


def _probed(model: bytes, feeds: Mapping[str, Any]) -> Any:
    """Return what a model of one node computes, None where a release or a processor has no such kernel."""
    module = onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = module.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)[0]
    except Exception:
        return None
