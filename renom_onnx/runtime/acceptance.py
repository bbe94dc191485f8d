"""Asking onnxruntime which nodes it can run: a session is opened for a model of the node alone, and never run."""

from __future__ import annotations

from renom_onnx.errors import first_line
from renom_onnx.runtime.ort import onnxruntime


def refusal(model: bytes) -> str | None:
    """Return why the CPU provider cannot run a small model, in onnxruntime's words, or None if it can.

    Raises:
        DeviceError: no onnxruntime is installed, or two are.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # the session is never run: no threads are started
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        module.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as e:  # of a dozen types
        return first_line(e).split(" : ")[-1]
    return None


def release() -> str:
    """Return name and version of the onnxruntime that is asked, such as "onnxruntime 1.32.0"."""
    return f"onnxruntime {onnxruntime().__version__}"
