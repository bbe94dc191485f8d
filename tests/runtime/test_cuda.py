"""Training on CUDA: the numbers of the CPU, every node on the GPU, the loss read when somebody looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import (
    CudaOptions,
    Device,
    InferencePool,
    InferenceSession,
    ParallelTrainingSession,
    TrainingSession,
    devices,
    nodes_elsewhere,
)
from renom_onnx.runtime.cuda import cuda_works
from renom_onnx.runtime.nccl import NcclReduction, is_installed
from renom_onnx.runtime.tensor import Tensor
from tests.converters.programs import LOSSES, OPTIMIZERS, Program, feeds
from tests.runtime.several import assert_replicas_are_equal

pytestmark = pytest.mark.gpu

N_STEPS = 20
CUDA = "CUDAExecutionProvider"
PROGRAMS = [
    *(Program(loss, optimizer, opset) for loss in ("mlp", "cnn") for optimizer in OPTIMIZERS for opset in (18, 21)),
    *(Program(loss, "Adam", 18) for loss in LOSSES if loss not in ("mlp", "cnn")),
]
every_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)


@pytest.fixture(autouse=True)
def without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # cuDNN's convolutions do not ask the provider


@every_program
def test_twenty_steps_on_cuda_follow_the_cpu(program: Program):
    model = program.model()
    cpu, cuda = TrainingSession(model, "cpu"), TrainingSession(model, "cuda")
    for i in range(N_STEPS):
        batch = feeds(model, 8, i)
        assert float(cuda.step(batch)) == pytest.approx(float(cpu.step(batch)), rel=1e-3, abs=1e-4)
    for name, value in cpu.parameters.items():
        np.testing.assert_allclose(cuda.read(name), value, rtol=1e-3, atol=1e-4, err_msg=name)
    batch = feeds(model, 5)
    for name, value in cpu.evaluate(batch).items():
        np.testing.assert_allclose(cuda.evaluate(batch)[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_loss_is_read_when_somebody_looks(monkeypatch: pytest.MonkeyPatch):
    model = Program("mlp", "Adam", 18).model()
    session = TrainingSession(model, "cuda")
    session.step(feeds(model, 4))
    n_reads = 0
    read = Tensor.read

    def counted(tensor: Tensor) -> np.ndarray[Any, Any]:
        nonlocal n_reads
        n_reads += 1
        return read(tensor)

    monkeypatch.setattr(Tensor, "read", counted)
    for i in range(5):
        loss = session.step(feeds(model, 4, i))
        del loss
    assert n_reads == 0
    loss = session.step(feeds(model, 4))
    assert n_reads == 0
    first = float(loss)
    assert (n_reads, float(loss), f"{loss:.2f}") == (1, first, f"{first:.2f}")


def test_a_late_loss_is_still_its_own_on_cuda():
    model = Program("mlp", "Adam", 18).model()
    eager, late = TrainingSession(model, "cuda"), TrainingSession(model, "cuda")
    wanted = [float(eager.step(feeds(model, 4, i))) for i in range(5)]
    losses = [late.step(feeds(model, 4, i)) for i in range(5)]
    assert [float(loss) for loss in losses] == pytest.approx(wanted, rel=1e-5)


def test_a_file_trained_on_cuda_goes_on_on_the_cpu(tmp_path: Path):
    model = Program("mlp", "Adam", 18).model()
    cuda = TrainingSession(model, "cuda")
    for i in range(5):
        cuda.step(feeds(model, 4, i))
    cuda.save(tmp_path / "checkpoint.onnx")
    cpu = TrainingSession(tmp_path / "checkpoint.onnx", "cpu")
    for i in range(5):
        assert float(cpu.step(feeds(model, 4, i))) == pytest.approx(float(cuda.step(feeds(model, 4, i))), rel=1e-3)


def test_the_default_device_is_the_gpu():
    model = Program("mlp", "Sgd", 18).model()
    assert str(TrainingSession(model).device) == str(InferenceSession(model).device) == "cuda:0"


def test_an_executor_trains_on_cuda_as_on_the_cpu():
    losses = []
    for name in ("cpu", "cuda:0"):
        rm.set_seed(0)
        executor = LOSSES["distributed"]().get_training_executor(rm.graph.Adam(0.01), [name])
        losses.append(executor.execute(3, progress=False).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@every_program
def test_no_node_of_a_step_is_off_the_gpu(program: Program):
    model = program.model()
    assert nodes_elsewhere(model, "cuda", sizes={"N": 8}) == []
    session = TrainingSession(model, "cuda", cuda=CudaOptions(strict=True))
    for rows in (8, 3):
        session.step(feeds(model, rows))


@every_program
def test_a_captured_step_follows_the_cpu(program: Program):
    model = program.model()
    cpu = TrainingSession(model, "cpu")
    cuda = TrainingSession(model, "cuda", cuda=CudaOptions(cuda_graph=True))
    for i, rows in enumerate([8] * 10 + [5] + [8] * 5):
        batch = feeds(model, rows, i)
        assert float(cuda.step(batch)) == pytest.approx(float(cpu.step(batch)), rel=1e-3, abs=1e-4)
    for name, value in cpu.parameters.items():
        np.testing.assert_allclose(cuda.read(name), value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_batches_prepared_ahead_are_captured_each_in_their_memory():
    model = Program("cnn", "Adam", 18).model()
    cpu, cuda = TrainingSession(model, "cpu"), TrainingSession(model, "cuda", cuda=CudaOptions(cuda_graph=True))
    batches = [feeds(model, 8, i) for i in range(12)]
    waiting = [cuda.prepare(batches[0])]
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        if following is not None:
            waiting.append(cuda.prepare(following))
        assert float(cuda.step(waiting.pop(0))) == pytest.approx(float(cpu.step(batch)), rel=1e-3, abs=1e-4)


def test_data_stay_on_the_gpu_and_batches_are_fed_ahead_by_themselves():
    losses = []
    for name, options in (("cpu", {}), ("cuda", {}), ("cuda", {"feed_ahead": False, "resident": False})):
        rm.set_seed(0)
        executor = LOSSES["distributed"]().get_training_executor(rm.graph.Adam(0.01), [name], **options)
        assert (executor._is_resident, executor._feeds_ahead) == ((name == "cuda" and not options),) * 2
        losses.append(executor.execute(3, progress=False).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)


def gpus(n: int) -> list[str]:
    """Return the names of n different GPUs, or of the first one n times."""
    found = [device.name for device in devices() if device.name != "cpu"]
    return found[:n] if len(found) >= n else found[:1] * n


@pytest.mark.parametrize("captures", [False, True], ids=["plain", "captured"])
@pytest.mark.parametrize("synchronized", [False, True], ids=["own statistics", "synchronized"])
@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout", "normalized"])
def test_several_gpus_follow_as_many_cpus(loss: str, synchronized: bool, captures: bool):
    model = Program(loss, "Adam", 18).model()
    options = {"synchronize_batch_norm": synchronized}
    cpu = ParallelTrainingSession(model, ["cpu"] * 2, **options)
    cuda = ParallelTrainingSession(model, gpus(2), cuda=CudaOptions(cuda_graph=captures), **options)
    for i, rows in enumerate([8] * 10 + [5, 1] + [8] * 5):
        batch = feeds(model, rows, i)
        assert float(cuda.step(batch)) == pytest.approx(float(cpu.step(batch)), rel=1e-3, abs=1e-4)
    assert_replicas_are_equal(cuda)


def test_nccl_adds_as_the_host_does():
    different = list(dict.fromkeys(gpus(2)))
    if len(different) < 2 or not is_installed():
        pytest.skip("needs two GPUs and nccl4py")
    where = [Device("cuda", i) for i in range(2)]
    arrays = [np.random.default_rng(i).standard_normal(100_003).astype(np.float32) for i in range(2)]
    buffers = [Tensor.from_array(array, device) for array, device in zip(arrays, where, strict=True)]
    NcclReduction(where).sum(buffers)
    np.testing.assert_allclose(buffers[0].read(), arrays[0] + arrays[1], rtol=1e-6)
    np.testing.assert_array_equal(buffers[0].read(), buffers[1].read())
    NcclReduction(where).copy(buffers)


def test_a_pool_serves_from_the_gpus():
    model = rm.converters.strip(Program("cnn", "Sgd", 18).model())
    x = feeds(Program("cnn", "Sgd", 18).model(), 4)["x"]
    wanted = InferenceSession(model, "cpu").run({"x": x})["output"]
    with InferencePool(model, gpus(2)) as pool:
        for future in [pool.submit({"x": x}) for _ in range(10)]:
            np.testing.assert_allclose(future.result()["output"], wanted, rtol=1e-3, atol=1e-4)


def test_a_gpu_that_is_not_there_is_an_error():
    cuda_works.cache_clear()
    with pytest.raises(rm.DeviceError) as error:
        TrainingSession(Program("mlp", "Sgd", 18).model(), "cuda:99")
    assert str(error.value).startswith('device "cuda:99": onnxruntime must run on CUDAExecutionProvider, got ')
