"""Running and training on stock onnxruntime, one session per device."""

from renom_onnx.runtime import metric
from renom_onnx.runtime.adapter import save_adapter
from renom_onnx.runtime.assignment import NodeElsewhere, nodes_elsewhere
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import Device, DeviceInfo, default_device, devices, parse_device, set_default_device
from renom_onnx.runtime.engine import Engine, LocalEngine
from renom_onnx.runtime.event import Event
from renom_onnx.runtime.executor import TrainingExecutor
from renom_onnx.runtime.fed_executor import Executor
from renom_onnx.runtime.history import Epoch, History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.inference_executor import InferenceExecutor
from renom_onnx.runtime.inference_pool import InferencePool
from renom_onnx.runtime.loss import Loss
from renom_onnx.runtime.parallel import ParallelTrainingSession
from renom_onnx.runtime.reduction import HostReduction
from renom_onnx.runtime.training import TrainingSession

__all__ = [
    "CudaOptions",
    "Device",
    "DeviceInfo",
    "Engine",
    "Epoch",
    "Event",
    "Executor",
    "History",
    "HostReduction",
    "InferenceExecutor",
    "InferencePool",
    "InferenceSession",
    "LocalEngine",
    "Loss",
    "NodeElsewhere",
    "ParallelTrainingSession",
    "TrainingExecutor",
    "TrainingSession",
    "default_device",
    "devices",
    "metric",
    "nodes_elsewhere",
    "parse_device",
    "save_adapter",
    "set_default_device",
]
