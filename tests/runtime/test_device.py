"""Devices: names, missing providers, options of CUDA, and sessions that are not where they were asked to be."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import onnxruntime as real
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_onnx
from renom_onnx.runtime import (
    CudaOptions,
    Device,
    InferenceSession,
    TrainingSession,
    cuda as cuda_module,
    device as device_module,
    devices,
    opening,
    parse_device,
)
from renom_onnx.runtime.cuda import cuda_works, plugin_devices
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.ort import installed_distributions, onnxruntime
from tests.converters.programs import Program, perceptron

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def inference_bytes() -> bytes:
    return to_onnx(perceptron(), inputs={"x": ("N", 6)}).SerializeToString()


class Session:
    """An onnxruntime session that remembers how it was made."""

    def __init__(self, runtime: Runtime, providers: list[Any], options: Any, **more: Any) -> None:
        self.providers, self.options, self.more = providers, options, more
        self.runtime = runtime
        self.has_fallback = True

    def get_providers(self) -> list[str]:
        return [self.runtime.lands_on, CPU]

    def disable_fallback(self) -> None:
        self.has_fallback = False


class Runtime:
    """An onnxruntime with a CUDA provider, whose sessions land where the test says."""

    SessionOptions = real.SessionOptions

    def __init__(self, *, lands_on: str, n_gpus: int) -> None:
        self.lands_on = lands_on
        self.n_gpus = n_gpus
        self.OrtValue = self
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", CUDA, CPU]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcublasLt.so.13")

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: Any, kind: str, index: int) -> object:
        if kind == "cuda" and index >= self.n_gpus:
            raise RuntimeError("CUDA Provider not available")
        return object()

    def InferenceSession(self, model: bytes, options: Any, providers: list[Any], **more: Any) -> Session:
        return Session(self, providers, options, **more)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Runtime]]:
    def replace(*, lands_on: str = CUDA, n_gpus: int = 1) -> Runtime:
        fake = Runtime(lands_on=lands_on, n_gpus=n_gpus)
        for module in (cuda_module, device_module, opening):
            monkeypatch.setattr(module, "onnxruntime", lambda: fake)
        cuda_works.cache_clear()
        plugin_devices.cache_clear()
        return fake

    yield replace
    cuda_works.cache_clear()
    plugin_devices.cache_clear()


# Names


@pytest.mark.parametrize(
    ("name", "device"),
    [("cpu", Device("cpu")), ("cpu:0", Device("cpu")), (Device("cpu"), Device("cpu"))],
    ids=["cpu", "cpu0", "Device"],
)
def test_a_name_is_a_device(name: Any, device: Device):
    assert parse_device(name) == device
    assert str(device) == "cpu"


@pytest.mark.parametrize(
    ("name", "device"), [("cuda", Device("cuda", 0)), ("cuda:0", Device("cuda", 0)), ("cuda:1", Device("cuda", 1))]
)
def test_a_name_of_cuda_is_a_device_where_there_is_one(name: str, device: Device, runtime: Callable[..., Runtime]):
    runtime(n_gpus=2)
    assert parse_device(name) == device
    assert str(device) == f"cuda:{device.index}"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "CPU", "", "cuda:0 ", 0])
def test_an_unknown_name_is_an_error(name: Any):
    with pytest.raises(rm.DeviceError) as error:
        parse_device(name)
    assert str(error.value) == f'device {name!r}: it must be "cpu", "cuda" or "cuda:<number>", got {name!r}.'


# What is missing


@pytest.mark.skipif(CUDA in real.get_available_providers(), reason="this onnxruntime has a CUDA provider")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
@pytest.mark.parametrize("kind", [TrainingSession, InferenceSession])
def test_cuda_on_an_onnxruntime_without_it_is_an_error(name: str, kind: type):
    with pytest.raises(rm.DeviceError) as error:
        kind(Program("mlp", "Sgd", 18).model(), name)
    assert str(error.value) == (
        f'device "{name}": this onnxruntime has no CUDAExecutionProvider (it has: CPUExecutionProvider). '
        'Install renom-onnx[gpu], or use device="cpu".'
    )


MISSING = (
    "onnxruntime must run on CUDAExecutionProvider, got CPUExecutionProvider: CUDA 13, cuDNN 9 or the GPU itself is "
    'missing. Install renom-onnx[cuda], or use device="cpu".'
)


@pytest.mark.parametrize(("name", "n_gpus"), [("cuda:0", 0), ("cuda:1", 1)], ids=["no GPU", "one GPU too few"])
def test_a_gpu_that_is_not_there_is_an_error(name: str, n_gpus: int, runtime: Callable[..., Runtime]):
    runtime(n_gpus=n_gpus)
    with pytest.raises(rm.DeviceError) as error:
        parse_device(name)
    assert str(error.value) == f'device "{name}": {MISSING}'


def test_a_session_on_another_provider_than_asked_for_is_an_error(runtime: Callable[..., Runtime]):
    runtime(lands_on=CPU)
    with pytest.raises(rm.DeviceError) as error:
        open_session(b"", Device("cuda", 0))
    assert str(error.value) == f'device "cuda:0": {MISSING}'


def test_a_session_on_another_provider_is_an_error_with_the_real_onnxruntime_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(real.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(rm.DeviceError) as error:
        open_session(inference_bytes(), Device("cpu"))
    assert str(error.value).startswith(
        'device "cpu": onnxruntime must run on CPUExecutionProvider, got OtherExecutionProvider: '
    )


def test_a_gpu_without_memory_for_a_tensor_is_an_error(runtime: Callable[..., Runtime]):
    from renom_onnx.runtime import tensor

    runtime(n_gpus=0)
    with pytest.raises(rm.DeviceError) as error:
        tensor.Tensor([2, 3], "float32", Device("cuda"), "dense1.w")
    assert str(error.value) == (
        'dense1.w: device "cuda:0" must have memory for float32[2, 3], got: CUDA Provider not available.'
    )


def test_the_default_is_cuda_where_it_works_and_else_the_cpu(runtime: Callable[..., Runtime]):
    runtime(n_gpus=1)
    assert parse_device(None) == Device("cuda", 0)
    runtime(n_gpus=0)
    assert parse_device(None) == Device("cpu")


def test_the_libraries_of_cuda_are_loaded_once_and_in_silence(
    runtime: Callable[..., Runtime], capfd: pytest.CaptureFixture[str]
):
    fake = runtime(n_gpus=0)
    for _ in range(3):
        parse_device(None)
    assert fake.preloaded == 1
    assert capfd.readouterr() == ("", "")


def test_a_model_that_onnxruntime_refuses_is_an_error_and_prints_nothing(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(rm.RunError) as error:
        open_session(b"no model", Device("cpu"))
    assert str(error.value).startswith("onnxruntime refused the model: ")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


# Sessions


def test_a_session_never_falls_back(runtime: Callable[..., Runtime]):
    runtime()
    session = open_session(b"", Device("cuda", 0))
    assert not session.has_fallback
    assert session.more == {"enable_fallback": 0}


DEFAULTS = {
    "device_id": "1",
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
    "cudnn_conv1d_pad_to_nc1d": "0",
    "fuse_conv_bias": "0",
    "prefer_nhwc": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "enable_cuda_graph": "0",
}
ALL = CudaOptions(
    use_tf32=True,
    cudnn_conv_algo_search="EXHAUSTIVE",
    cudnn_conv_use_max_workspace=False,
    cudnn_conv1d_pad_to_nc1d=True,
    fuse_conv_bias=True,
    prefer_nhwc=True,
    arena_extend_strategy="kNextPowerOfTwo",
    gpu_mem_limit_bytes=1 << 30,
    cuda_graph=True,
    strict=True,
    more={"sdpa_kernel": "1"},
)


@pytest.mark.parametrize(
    ("options", "capture", "expected"),
    [
        (None, False, DEFAULTS),
        (
            ALL,
            True,
            {
                "device_id": "1",
                "use_tf32": "1",
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "cudnn_conv_use_max_workspace": "0",
                "cudnn_conv1d_pad_to_nc1d": "1",
                "fuse_conv_bias": "1",
                "prefer_nhwc": "1",
                "arena_extend_strategy": "kNextPowerOfTwo",
                "enable_cuda_graph": "1",
                "gpu_mem_limit": "1073741824",
                "sdpa_kernel": "1",
            },
        ),
    ],
    ids=["default", "all"],
)
def test_options_of_cuda_are_strings(
    options: CudaOptions | None, capture: bool, expected: dict[str, str], runtime: Callable[..., Runtime]
):
    runtime(n_gpus=2)
    session = open_session(b"", Device("cuda", 1), cuda=options, capture=capture)
    assert session.providers == [(CUDA, expected)]
    assert session.options.enable_mem_pattern


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cudnn_conv_algo_search": "FAST"},
            "CudaOptions: cudnn_conv_algo_search must be one of HEURISTIC, EXHAUSTIVE, DEFAULT, got 'FAST'.",
        ),
        (
            {"arena_extend_strategy": "none"},
            "CudaOptions: arena_extend_strategy must be one of kSameAsRequested, kNextPowerOfTwo, got 'none'.",
        ),
    ],
    ids=["search", "arena"],
)
def test_a_choice_that_there_is_not_is_an_error(options: dict[str, str], message: str):
    with pytest.raises(rm.DeviceError) as error:
        CudaOptions(**options)  # type: ignore[arg-type]
    assert str(error.value) == message


# What there is


def test_the_devices_that_there_are(runtime: Callable[..., Runtime]):
    runtime(n_gpus=2)
    assert [(d.name, d.provider, d.packaging) for d in devices()] == [
        ("cpu", CPU, "built in"),
        ("cuda:0", CUDA, "built in"),
        ("cuda:1", CUDA, "built in"),
    ]


@pytest.mark.skipif(CUDA in real.get_available_providers(), reason="this onnxruntime has a CUDA provider")
def test_without_a_gpu_there_is_the_cpu():
    (cpu,) = devices()
    assert (cpu.name, cpu.provider, cpu.packaging) == ("cpu", CPU, "built in")
    assert cpu.detail == f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


class Plugin(types.ModuleType):
    """The package of the CUDA plugin, as its documentation shows it."""

    @staticmethod
    def get_ep_name() -> str:
        return "CudaPluginExecutionProvider"

    @staticmethod
    def get_library_path() -> str:
        return "libonnxruntime_providers_cuda.so"


class EpDevice:
    """A device of a plugin, as onnxruntime describes it."""

    def __init__(self, name: str) -> None:
        self.ep_name = name
        self.device = types.SimpleNamespace(vendor="NVIDIA")

    def memory_info(self, kind: str) -> tuple[str, str]:
        return self.ep_name, kind


@pytest.fixture
def plugged(runtime: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """An onnxruntime without a CUDA provider, beside the plugin's package with two GPUs."""
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_cuda", Plugin("onnxruntime_ep_cuda"))
    fake: Any = runtime(lands_on=Plugin.get_ep_name(), n_gpus=0)
    fake.registered = []
    fake.given = []
    fake.get_available_providers = lambda: [CPU]
    fake.register_execution_provider_library = lambda name, path: fake.registered.append((name, path))
    fake.get_ep_devices = lambda: [EpDevice(CPU), EpDevice(Plugin.get_ep_name()), EpDevice(Plugin.get_ep_name())]
    fake.OrtDeviceMemoryType = types.SimpleNamespace(DEFAULT="default")

    class Options(real.SessionOptions):
        def add_provider_for_devices(self, found: list[EpDevice], options: dict[str, str]) -> None:
            fake.given.append((found, options))

    fake.SessionOptions = Options
    return fake  # type: ignore[no-any-return]


def test_a_plugin_is_used_by_the_same_name(plugged: Any):
    assert parse_device("cuda:1") == Device("cuda", 1)
    assert parse_device(None) == Device("cuda", 0)
    assert [(d.name, d.provider, d.packaging) for d in devices()][1:] == [
        ("cuda:0", "CudaPluginExecutionProvider", "plugin"),
        ("cuda:1", "CudaPluginExecutionProvider", "plugin"),
    ]
    assert plugged.registered == [("CudaPluginExecutionProvider", "libonnxruntime_providers_cuda.so")]
    session = open_session(b"", Device("cuda", 1), cuda=CudaOptions(use_tf32=True))
    ((given, options),) = plugged.given
    assert given == [plugin_devices()[1]]
    assert {"device_id": "1", **options} == {**DEFAULTS, "use_tf32": "1"}
    assert "device_id" not in options
    assert session.providers is None


def test_a_plugin_that_is_registered_already_is_used(plugged: Any):
    def registered(name: str, path: str) -> None:
        raise RuntimeError(f"library is Already registered under {name}")

    plugged.register_execution_provider_library = registered
    assert cuda_works(1)
    assert not cuda_works(2)


def test_a_plugin_that_does_not_load_is_an_error(plugged: Any):
    def broken(name: str, path: str) -> None:
        raise RuntimeError("undefined symbol")

    plugged.register_execution_provider_library = broken
    with pytest.raises(rm.DeviceError) as error:
        parse_device("cuda")
    assert str(error.value) == (
        "onnxruntime_ep_cuda: onnxruntime must be able to load the plugin, got RuntimeError: undefined symbol. Install "
        "versions of both that belong together."
    )


def test_the_options_of_a_session_are_given_to_onnxruntime(runtime: Callable[..., Runtime]):
    runtime(lands_on=CPU)
    session = open_session(b"", Device("cpu"), dims={"N": 4}, threads=3, spinning=False, shared_threads=True)
    assert session.providers == [CPU]
    assert session.options.intra_op_num_threads == 3
    assert not session.options.use_per_session_threads
    assert session.options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not session.options.enable_mem_pattern  # which on CPU holds the values of a step a second time


# onnxruntime itself


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*names: str) -> None:
        def version(name: str) -> str:
            if name not in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.32.0"

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


def test_one_onnxruntime_is_used(installed: Callable[..., None]):
    installed("onnxruntime-gpu")
    assert onnxruntime.__wrapped__() is real
    assert installed_distributions() == ["onnxruntime-gpu"]


def test_a_missing_onnxruntime_is_an_error(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    installed()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(rm.DeviceError) as error:
        onnxruntime.__wrapped__()
    assert str(error.value) == (
        "onnxruntime: it must be installed to evaluate or train, got none. Install it: pip install 'renom-onnx[cpu]', "
        "or 'renom-onnx[cuda]' for NVIDIA GPUs."
    )


def test_two_onnxruntimes_are_an_error(installed: Callable[..., None]):
    installed("onnxruntime", "onnxruntime-gpu")
    with pytest.raises(rm.DeviceError) as error:
        onnxruntime.__wrapped__()
    assert str(error.value) == (
        "onnxruntime: one distribution must be installed, got onnxruntime and onnxruntime-gpu, which overwrite each "
        "other. Uninstall them all, then install one: pip install 'renom-onnx[cpu]' or 'renom-onnx[cuda]'."
    )


def test_importing_renom_onnx_imports_no_onnxruntime():
    import subprocess

    code = "import sys, renom_onnx; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=rm.__path__[0] + "/..")
