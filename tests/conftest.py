"""What all tests share: deterministic property tests, and GPU tests that run on a GPU or say why not."""

import functools

import pytest
from hypothesis import settings

settings.register_profile("renom_onnx", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("renom_onnx")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="a GPU test that finds no GPU fails instead of skipping"
    )
    parser.addoption("--full-size", action="store_true", help="whole networks with all their weights: minutes, 8 GB")
    parser.addoption(
        "--provider", choices=["cpu", "cuda"], default="cpu", help="where gradients are checked in every float type"
    )
    parser.addoption(
        "--write-golden", action="store_true", help="write the texts of small exports anew (tests/data/golden_*.txt)"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := missing_gpu()):
        (pytest.fail if item.config.getoption("--require-gpu") else pytest.skip)(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("skipped", [])]
    if any(key == "proved" for report in reports for key, _ in getattr(report, "user_properties", ())):
        from tests.gradients.summary import summary

        terminalreporter.section("gradient check")
        for line in summary(reports):
            terminalreporter.write_line(line)


@functools.cache
def missing_gpu() -> str:
    """Why there is no usable GPU, or "". onnxruntime lists providers it cannot open, so that one must be opened."""
    import onnxruntime
    from onnx import TensorProto, helper

    name = "CUDAExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        return f"needs onnxruntime-gpu: onnxruntime {onnxruntime.__version__} has no {name}"
    value_infos = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1]) for value in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value_infos[:1], value_infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[name])
    except Exception as error:
        return f"needs an NVIDIA GPU: {error}"
    return "" if session.get_providers()[0] == name else f"needs an NVIDIA GPU: {name} fell back to the CPU"
