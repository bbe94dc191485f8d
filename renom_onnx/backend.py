"""`renom_onnx.runtime.backend` under the name that ONNX's tools expect."""

from renom_onnx.runtime.backend import Backend, BackendRep, prepare, run_model, run_node, supports_device

__all__ = ["Backend", "BackendRep", "prepare", "run_model", "run_node", "supports_device"]
