"""Training on CUDA: the numbers of the CPU, every node on the GPU, the loss read when somebody looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import InferenceSession, TrainingSession
from renom_onnx.runtime.cuda import cuda_works
from renom_onnx.runtime.tensor import Tensor
from tests.converters.programs import LOSSES, OPTIMIZERS, Program, feeds

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


@every_program
def test_no_node_of_a_step_is_off_the_gpu(program: Program, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    made: list[Any] = []

    class Recorded(onnxruntime.InferenceSession):
        def __init__(self, model: bytes, options: Any, **more: Any) -> None:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            super().__init__(model, options, **more)
            made.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    model = program.model()
    session = TrainingSession(model, "cuda")
    for rows in (8, 3):
        session.step(feeds(model, rows))
    assert len(made) == 2
    for opened in made:
        elsewhere = [
            f"{node.op_type} {node.name!r} on {group.ep_name}"
            for group in opened.get_provider_graph_assignment_info()
            if group.ep_name != CUDA
            for node in group.get_nodes()
        ]
        assert not elsewhere


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


def test_a_gpu_that_is_not_there_is_an_error():
    cuda_works.cache_clear()
    with pytest.raises(rm.DeviceError) as error:
        TrainingSession(Program("mlp", "Sgd", 18).model(), "cuda:99")
    assert str(error.value).startswith('device "cuda:99": onnxruntime must run on CUDAExecutionProvider, got ')
