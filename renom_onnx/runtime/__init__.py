"""Running and training on stock onnxruntime, one session per device."""

from renom_onnx.runtime import metric
from renom_onnx.runtime.adapter import save_adapter
from renom_onnx.runtime.assignment import NodeElsewhere, nodes_elsewhere
from renom_onnx.runtime.cuda import CudaOptions
from renom_onnx.runtime.device import Device, DeviceInfo, default_device, devices, parse_device, set_default_device
from renom_onnx.runtime.engine import Engine, LocalEngine, RanksLostError
from renom_onnx.runtime.event import Event
from renom_onnx.runtime.executor import TrainingExecutor
from renom_onnx.runtime.fed_executor import Executor
from renom_onnx.runtime.history import Epoch, History
from renom_onnx.runtime.inference import InferenceSession
from renom_onnx.runtime.inference_executor import InferenceExecutor
from renom_onnx.runtime.inference_pool import InferencePool
from renom_onnx.runtime.loss import Loss
from renom_onnx.runtime.parallel import ParallelTrainingSession
from renom_onnx.runtime.processes.distributed import DistributedTrainingSession
from renom_onnx.runtime.processes.elastic import ElasticEngine
from renom_onnx.runtime.processes.launch import default_engine, rank
from renom_onnx.runtime.processes.mpi import MpiEngine
from renom_onnx.runtime.reduction import HostReduction
from renom_onnx.runtime.shard import Shard
from renom_onnx.runtime.training import TrainingSession

__all__ = [
    "CudaOptions",
    "Device",
    "DeviceInfo",
    "DistributedTrainingSession",
    "ElasticEngine",
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
    "MpiEngine",
    "NodeElsewhere",
    "ParallelTrainingSession",
    "RanksLostError",
    "Shard",
    "TrainingExecutor",
    "TrainingSession",
    "default_device",
    "default_engine",
    "devices",
    "metric",
    "nodes_elsewhere",
    "parse_device",
    "rank",
    "save_adapter",
    "set_default_device",
]
