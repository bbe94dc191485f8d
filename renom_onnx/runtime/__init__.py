"""Running and training on stock onnxruntime, one session per device."""

from renom_onnx.runtime.device import CudaOptions, Device, parse_device
from renom_onnx.runtime.executor import InferenceExecutor, TrainingExecutor
from renom_onnx.runtime.history import Epoch, History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.training import Loss, TrainingSession

__all__ = [
    "CudaOptions",
    "Device",
    "Epoch",
    "History",
    "InferenceExecutor",
    "InferenceSession",
    "Loss",
    "TrainingExecutor",
    "TrainingSession",
    "parse_device",
]
