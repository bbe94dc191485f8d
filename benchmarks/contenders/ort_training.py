"""onnxruntime-training-cpu 1.19.2, the last of its kind; runs in an environment of its own, without this library."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import RATES, Step, Workload


def prepared(model: Any, batch_size: int) -> list[str]:
    """Change a model as this runtime wants it; return the names of the weights.

    Its gradients read the statistics of normalizations and the states of LSTM, the first ones too, which an inference
    model leaves out; and labels of tokens want scores in rows.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph, frozen = model.graph, set()
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            node.output.extend(f"{node.output[0]}.{name}" for name in ("mean", "r"))
        elif node.op_type == "BatchNormalization":
            frozen.update(node.input[3:])
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend(f"{node.output[0]}.{name}" for name in ("mean", "var"))
        elif node.op_type == "LSTM":
            size = next(a.i for a in node.attribute if a.name == "hidden_size")
            start = numpy_helper.from_array(np.zeros((1, batch_size, size), np.float32), f"{node.name}.start")
            frozen.add(start.name)
            graph.initializer.append(start)
            node.input.extend(["", start.name, start.name])
            found = [*node.output, "", ""][:3]
            node.output[:] = [name or f"{node.name}.{i}" for i, name in enumerate(found)]
    (output,) = graph.output
    sizes = output.type.tensor_type.shape.dim
    if len(sizes) == 3:
        rows = helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["M", sizes[2].dim_value])
        shape = numpy_helper.from_array(np.array([-1, sizes[2].dim_value], np.int64), "rows.shape")
        graph.initializer.append(shape)
        graph.node.append(helper.make_node("Reshape", [output.name, "rows.shape"], ["rows"]))
        graph.output.remove(output)
        graph.output.append(rows)
    weights = [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    return [name for name in weights if name not in frozen]


def ort_training(workload: Workload, folder: Path, threads: int) -> Step:
    """The model that we export, its artifacts, Module and Optimizer."""
    import onnx
    from onnxruntime import SessionOptions, set_default_logger_severity
    from onnxruntime.training import artifacts, onnxblock
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    set_default_logger_severity(4)
    model = onnx.load(folder / f"{workload.name}.onnx")
    names = prepared(model, workload.batch_size)
    # Adam adds epsilon after the bias correction, this runtime before it: made equal for the first steps.
    adam = onnxblock.optim.AdamW(eps=1e-8 * (1 - 0.999**2) ** 0.5, weight_decay=0.0)
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
        module = Module(f"{place}/training_model.onnx", state, session_options=options)
        optimizer = Optimizer(f"{place}/optimizer_model.onnx", module)
    optimizer.set_learning_rate(RATES[workload.optimizer])
    module.train()

    def take(rows: Any, labels: Any) -> float:
        loss = module(rows, labels.reshape(-1))
        optimizer.step()
        module.lazy_reset_grad()
        return float(loss)

    return take
