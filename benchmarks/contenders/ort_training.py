"""onnxruntime-training-cpu 1.19.2, the last of its kind; runs in an environment of its own, without this library."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.workloads import RATES, Step, Workload


def ort_training(workload: Workload, folder: Path, threads: int) -> Step:
    """The model that we export, its artifacts, Module and Optimizer."""
    import onnx
    from onnxruntime import SessionOptions, set_default_logger_severity
    from onnxruntime.training import artifacts, onnxblock
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    set_default_logger_severity(3)
    model = onnx.load(folder / f"{workload.name}.onnx")
    names = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    adam = onnxblock.optim.AdamW(eps=1e-8, weight_decay=0.0)  # Adam, but for where epsilon is added
    with tempfile.TemporaryDirectory() as place:
        artifacts.generate_artifacts(
            model,
            requires_grad=names,
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=artifacts.OptimType.SGD if workload.optimizer == "sgd" else adam,
            artifact_directory=place,
        )
        state = CheckpointState.load_checkpoint(f"{place}/checkpoint")
        options = SessionOptions()
        options.intra_op_num_threads = threads
        module = Module(f"{place}/training_model.onnx", state, f"{place}/eval_model.onnx", session_options=options)
        optimizer = Optimizer(f"{place}/optimizer_model.onnx", module)
    optimizer.set_learning_rate(RATES[workload.optimizer])
    module.train()

    def take(rows: Any, labels: Any) -> float:
        loss = module(rows, labels.reshape(-1))
        optimizer.step()
        module.lazy_reset_grad()
        return float(loss)

    return take
