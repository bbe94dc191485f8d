"""Contenders: each takes training steps on a workload in a process of its own.

``python -m benchmarks.contender NAME WORKLOAD FOLDER`` answers commands on stdin, a line each, with a line of JSON:
``losses`` (of three steps), ``block N`` (seconds of N steps each), ``memory`` (peak resident MB), ``quit``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workload import RATES, WORKLOADS, Step, Workload


def bare(workload: Workload, path: Path) -> Step:
    """Onnxruntime alone on the same graph: two sets of state buffers, bound in turn."""
    import onnxruntime

    from renom_onnx.converters.importer import read_model
    from renom_onnx.converters.training_info import training_step
    from renom_onnx.converters.tree import as_bytes

    step = training_step(read_model(str(path)))
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("N", workload.batch_size)
    session = onnxruntime.InferenceSession(as_bytes(step.model), options, providers=["CPUExecutionProvider"])

    def tensor(shape: Any, dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, "cpu", 0)

    state = [{n: tensor(a.shape, a.dtype.type) for n, a in step.state.items()} for _ in range(2)]
    for name, array in step.state.items():
        np.copyto(state[0][name].numpy(), array)
    x = tensor((workload.batch_size, workload.units[0]), np.float32)
    y, rate, loss = tensor((workload.batch_size,), np.int64), tensor((), np.float32), tensor((), np.float32)
    np.copyto(rate.numpy(), RATES[workload.optimizer])
    bindings = []
    for parity in range(2):
        binding = session.io_binding()
        for name, value in {"x": x, "y": y, "learning_rate": rate, **state[parity]}.items():
            binding.bind_ortvalue_input(name, value)
        for name, next_name in step.bindings.items():
            binding.bind_ortvalue_output(next_name, state[1 - parity][name])
        binding.bind_ortvalue_output(step.loss, loss)
        bindings.append(binding)
    run, x_array, y_array, loss_array = session.run_with_iobinding, x.numpy(), y.numpy(), loss.numpy()

    def take(rows: Any, labels: Any) -> float:
        np.copyto(x_array, rows)
        np.copyto(y_array, labels)
        run(bindings[0])
        bindings.reverse()
        return float(loss_array)

    return take


def session(workload: Workload, path: Path) -> Step:
    """`TrainingSession.step` with the loss read."""
    import renom_onnx as rm

    training = rm.runtime.TrainingSession(path, device="cpu")
    return lambda x, y: float(training.step({"x": x, "y": y}))


def torch(workload: Workload, path: Path) -> Step:
    """PyTorch eager, as its tutorials write it."""
    import onnx
    import torch as _torch
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    layers: list[Any] = []
    for i, (n_in, n_out) in enumerate(zip(workload.units[:-1], workload.units[1:], strict=True), 1):
        dense = _torch.nn.Linear(n_in, n_out)
        with _torch.no_grad():
            dense.weight.copy_(_torch.tensor(weights[f"dense{i}.w"].T.copy()))
            dense.bias.copy_(_torch.tensor(weights[f"dense{i}.b"].reshape(-1)))
        layers += [dense, _torch.nn.ReLU()]
    model = _torch.nn.Sequential(*layers[:-1])
    rate = RATES[workload.optimizer]
    make = _torch.optim.SGD if workload.optimizer == "sgd" else _torch.optim.Adam
    optimizer = make(model.parameters(), lr=rate)
    criterion = _torch.nn.CrossEntropyLoss()

    def take(rows: Any, labels: Any) -> float:
        optimizer.zero_grad()
        loss = criterion(model(_torch.from_numpy(rows)), _torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return take


CONTENDERS = {"bare": bare, "session": session, "torch": torch}


def main() -> None:
    """Answer commands."""
    name, workload_name, folder = sys.argv[1:4]
    workload = WORKLOADS[workload_name]
    x, y = workload.data()
    batches = [slice(i * workload.batch_size, (i + 1) * workload.batch_size) for i in range(workload.n_batches)]
    step = CONTENDERS[name](workload, Path(folder) / f"{workload.name}.onnx")
    count = 0
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "quit":
            return
        if command == "memory":
            answer: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        else:
            losses, seconds = [], []
            for _ in range(3 if command == "losses" else int(arguments[0])):
                rows = batches[count % len(batches)]
                start = time.perf_counter()
                losses.append(step(x[rows], y[rows]))
                seconds.append(time.perf_counter() - start)
                count += 1
            answer = losses if command == "losses" else seconds
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
