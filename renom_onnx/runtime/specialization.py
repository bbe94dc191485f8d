"""Specialization: what a session runs in the place of a file's bodies, chosen when its device and sizes are known."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping

from renom_onnx.converters.cpu.batch_operator import with_batch_operators
from renom_onnx.converters.cpu.blocked import block_of, probe_model, with_blocked_convolutions
from renom_onnx.converters.cpu.compared_pooling import with_compared_pools
from renom_onnx.converters.cpu.fast_form import with_fast_forms
from renom_onnx.converters.cpu.fusible import with_fusible_nodes
from renom_onnx.converters.cpu.recurrent_operator import with_recurrent_passes
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import ConversionError
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.ort import onnxruntime


def for_sizes(model: bytes, device: Device, sizes: Mapping[str, int] | None) -> bytes:
    """Return a step with the bodies that are best for a device and sizes.

    Args:
        model: a step that is right for the kind of device.
        device: that runs it.
        sizes: of all symbols; None where the session is to take any, which keeps its bodies.
    """
    if device.kind != "cpu" or sizes is None:
        return model
    proto = read_model(model)
    changed = with_fusible_nodes(with_compared_pools(proto, sizes), sizes)
    changed = with_recurrent_passes(changed, sizes)
    if block_size():
        changed = with_blocked_convolutions(changed, block_size(), sizes)
    changed = with_batch_operators(changed, sizes, block_size())
    with contextlib.suppress(ConversionError):  # functions that onnxruntime may write out, or refuse, by itself
        changed = with_fast_forms(inline_calls(changed, lambda key: True), sizes)
    return model if changed is proto else as_bytes(changed)


@functools.cache
def block_size() -> int:
    """Return how many channels a block of this machine's onnxruntime has, 0 where it has no blocked kernels."""
    module = onnxruntime()
    model, feeds = probe_model()
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = module.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return block_of(session.run(None, feeds)[0])
    except Exception:
        return 0  # a release without these operators, or a processor without these kernels
