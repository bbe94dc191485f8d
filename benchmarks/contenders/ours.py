"""This library, and onnxruntime alone on the graph that it runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import RATES, Step, Workload


def options(workload: Workload, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("N", workload.batch_size)
    return options


def tensor(array: Any) -> Any:
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, "cpu", 0)
    np.copyto(value.numpy(), array)
    return value


def bare(workload: Workload, folder: Path, threads: int) -> Step:
    """Onnxruntime alone on the graph of the file: two sets of state buffers, bound in turn."""
    import onnxruntime

    from renom_onnx.converters.importer import read_model
    from renom_onnx.converters.training_info import training_step
    from renom_onnx.converters.tree import as_bytes

    step = training_step(read_model(str(folder / f"{workload.name}.train.onnx")))
    session = onnxruntime.InferenceSession(
        as_bytes(step.model), options(workload, threads), providers=["CPUExecutionProvider"]
    )
    state = [{name: tensor(array) for name, array in step.state.items()} for _ in range(2)]
    x, y = (tensor(array) for array in workload.batches()[0])
    rate, loss = tensor(np.array(RATES[workload.optimizer], np.float32)), tensor(np.zeros((), np.float32))
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


def session(workload: Workload, folder: Path, threads: int, device: str = "cpu", precision: str = "float32") -> Step:
    """`TrainingSession.step` with the loss read."""
    import renom_onnx as rm

    training = rm.runtime.TrainingSession(
        folder / f"{workload.name}.train.onnx", device=device, threads=threads, cuda=cuda_options(precision)
    )
    return lambda x, y: float(training.step({"x": x, "y": y}))


def cuda_options(precision: str) -> Any:
    import renom_onnx as rm

    return rm.runtime.CudaOptions(use_tf32=precision == "tf32")


def infer_bare(workload: Workload, folder: Path, threads: int) -> Step:
    """Onnxruntime's own call on the exported model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / f"{workload.name}.onnx", options(workload, threads), providers=["CPUExecutionProvider"]
    )
    return lambda x, y: session.run(["output"], {"x": x})[0]


def infer_session(workload: Workload, folder: Path, threads: int, device: str = "cpu") -> Step:
    """`InferenceSession.run`."""
    import renom_onnx as rm

    session = rm.runtime.InferenceSession(folder / f"{workload.name}.onnx", device=device, threads=threads)
    return lambda x, y: session.run({"x": x})["output"]


class Executor:
    """The training executor, with a distributor that shuffles and feeds it; asked for steps, it trains whole epochs.

    An epoch is as long as a block, about a second, because an epoch has a cost of its own.
    """

    def __init__(self, workload: Workload, threads: int, device: str = "cpu", precision: str = "float32") -> None:
        self._workload, self._precision = workload, precision
        self._options: dict[str, Any] = {"devices": [device], "threads": threads, "cuda": cuda_options(precision)}
        _, loss, optimizer = workload.elements(workload.steps, shuffle=True, precision=precision)
        self._executor = loss.get_training_executor(optimizer, **self._options)

    def losses(self) -> list[float]:
        """Return the mean loss of the first batches, in the order in which others take them."""
        _, loss, optimizer = self._workload.elements(self._workload.n_losses, precision=self._precision)
        return [float(loss.get_training_executor(optimizer, **self._options).execute(1, progress=False).losses[0])]

    def seconds(self, n_steps: int) -> list[float]:
        """Return the seconds of steps, an epoch's shared out evenly."""
        import time

        found: list[float] = []
        while len(found) < n_steps:
            start = time.perf_counter()
            self._executor.execute(1, progress=False)
            steps = self._workload.steps
            found += itertools.repeat((time.perf_counter() - start) / steps, steps)
        return found
