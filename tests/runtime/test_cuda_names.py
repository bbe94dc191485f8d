"""What ReNom's programs ask of CUDA, on machines with and without: the default device, blocks, counts, the report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime import configuration, device, renom_cuda

g = rm.graph


@pytest.fixture(autouse=True)
def default_is_restored() -> Iterator[None]:
    before = device.set_default_device(None)
    yield
    device.set_default_device(before)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that there are GPUs, or that there are none."""

    def pretend(count: int) -> None:
        class Module:
            __version__ = "1.0"

            @staticmethod
            def get_available_providers() -> list[str]:
                return ["CUDAExecutionProvider", "CPUExecutionProvider"] if count else ["CPUExecutionProvider"]

        for module in (device, renom_cuda):
            monkeypatch.setattr(module, "cuda_works", lambda index=0: index < count)
            monkeypatch.setattr(module, "gpu_count", lambda: count)
        monkeypatch.setattr(device, "plugin_devices", list)
        for module in (device, configuration):
            monkeypatch.setattr(module, "onnxruntime", lambda: Module)

    return pretend


def test_without_cuda_all_names_say_so(gpus: Any):
    gpus(0)
    assert (rm.has_cuda(), rm.get_device_count(), rm.is_cuda_active()) == (False, 0, False)
    rm.set_cuda_active(False)
    assert not rm.is_cuda_active()
    message = (
        'set_cuda_active: models stay on the CPU: device "cuda": this onnxruntime has no CUDAExecutionProvider (it '
        'has: CPUExecutionProvider). Install renom-onnx[gpu], or use device="cpu".'
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(message)}$"):
        rm.set_cuda_active()
    assert not rm.is_cuda_active()
    with pytest.raises(rm.DeviceError, match="this onnxruntime has no CUDAExecutionProvider"), rm.cuda.use_device(0):
        pass


def test_with_gpus_models_run_there_unless_told_otherwise(gpus: Any):
    gpus(2)
    assert (rm.has_cuda(), rm.cuda.cuGetDeviceCount(), rm.is_cuda_active()) == (True, 2, True)
    rm.set_cuda_active(False)
    assert str(device.default_device()) == "cpu"
    rm.set_cuda_active(True)
    assert str(device.default_device()) == "cuda:0"
    with pytest.raises(rm.DeviceError), rm.cuda.use_device(2):
        pass


def test_blocks_nest_and_end_after_an_error(gpus: Any):
    gpus(2)
    with rm.cuda.use_device(1):
        assert str(device.parse_device(None)) == "cuda:1"
        with rm.cuda.disable_cuda():
            assert str(device.parse_device(None)) == "cpu"
            with rm.cuda.use_cuda():
                assert str(device.parse_device(None)) == "cuda:0"
            with pytest.raises(KeyError), rm.cuda.use_cuda(False):
                raise KeyError
        with rm.cuda.disable_cuda(False):
            assert str(device.parse_device(None)) == "cuda:1"
        with pytest.raises(KeyError), rm.cuda.disable_cuda():
            raise KeyError
        assert str(device.parse_device("cuda:0")) == "cuda:0"
        assert str(device.parse_device(None)) == "cuda:1"
    assert str(device.parse_device(None)) == "cuda:0"


def test_a_model_that_names_no_device_runs_on_the_default():
    loss = g.ConstantLoss()(g.Dense(1)(np.ones((2, 3), np.float32)))
    with rm.cuda.disable_cuda():
        executor = loss.get_training_executor(g.Sgd(0.1))
    assert str(executor.session.device) == "cpu"
    assert len(executor.execute(progress=False).losses) == 1


def test_the_seed_of_curand_is_the_seed():
    def drawn() -> Any:
        dense = g.Dense(3)
        dense(np.ones((1, 2)))
        return dense.params["w"].as_ndarray()

    rm.set_seed(7)
    first = drawn()
    rm.cuda.curand_set_seed(7, all_devices=True)
    np.testing.assert_array_equal(drawn(), first)
    rm.set_renom_seed(7)
    np.testing.assert_array_equal(drawn(), first)
    rm.set_renom_seed()
    other = drawn()
    assert not np.array_equal(other, first)
    rm.set_seed(30)
    np.testing.assert_array_equal(drawn(), other)
    rm.set_seed(0)


def test_the_report_names_versions_devices_precision_and_seed(gpus: Any, capsys: pytest.CaptureFixture[str]):
    gpus(1)
    rm.show_config()
    found = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("default device", "default").splitlines()
    )
    assert list(found) == [
        "renom_onnx", "Python", "numpy", "onnx", "onnxruntime", "devices", "default", "precision", "seed",
    ]  # fmt: skip
    assert found["renom_onnx"] == rm.__version__
    assert found["onnxruntime"] == "1.0 with CUDAExecutionProvider, CPUExecutionProvider"
    assert found["devices"] == "cpu, cuda:0"
    assert found["default"] == "cuda:0"
    assert (found["precision"], found["seed"]) == ("float32", "0")


def test_the_report_says_that_there_is_no_onnxruntime(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    def none() -> None:
        raise rm.DeviceError("onnxruntime: it must be installed.")

    monkeypatch.setattr(configuration, "onnxruntime", none)
    rm.show_config()
    assert "onnxruntime     onnxruntime: it must be installed.\n" in capsys.readouterr().out
