"""Which provider has each node: by onnxruntime's own report, read here on the CPU as if CUDA had been asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.structure import all_nodes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime import CudaOptions, ParallelTrainingSession, TrainingSession, nodes_elsewhere
from renom_onnx.runtime.assignment import check_assignment, check_capturable, elsewhere
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.opening import open_session
from tests.converters.programs import Program

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def step_session(loss: str, *, rows: int | None = 8) -> Any:
    model = training_step(Program(loss, "Sgd", 18).model()).model
    dims = None if rows is None else {"N": rows}
    return open_session(model.SerializeToString(), Device("cpu"), dims=dims, record=True)


@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout"])
def test_on_the_cpu_every_node_is_there(loss: str):
    model = Program(loss, "Adam", 18).model()
    assert nodes_elsewhere(model, "cpu", sizes={"N": 8}) == []
    assert nodes_elsewhere(rm.converters.strip(model), "cpu") == []


def test_nodes_that_are_elsewhere_are_told_with_provider_and_reason():
    found = elsewhere(step_session("cnn"), {CUDA}, 18)
    assert {node.provider for node in found} == {CPU}
    kinds = {node.op_type: node.reason for node in found}
    assert {"Conv", "MaxUnpool", "Gemm"} <= kinds.keys()
    assert kinds["MaxUnpool"] == "onnxruntime-gpu 1.31.1 has no CUDA kernel for it"
    assert kinds["Conv"] == "a CUDA kernel lacks its types, or it computes sizes, which onnxruntime keeps on the CPU"
    (first,) = (node for node in found if node.name == "conv1/Conv")
    assert str(first) == f"Conv 'conv1/Conv' on {CPU} ({first.reason})"


def test_a_version_without_a_kernel_is_the_reason():
    found = {node.op_type: node.reason for node in elsewhere(step_session("cnn"), {CUDA}, 22)}
    assert found["MaxPool"] == "onnxruntime-gpu 1.31.1 has CUDA kernels for other versions than 22"


def test_sizes_that_are_computed_are_nodes_too():
    assert not any(node.op_type == "Shape" for node in elsewhere(step_session("cnn"), {CUDA}, 18))
    assert any(node.op_type == "Shape" for node in elsewhere(step_session("cnn", rows=None), {CUDA}, 18))


def test_a_step_that_is_elsewhere_is_refused():
    session = step_session("mlp")
    check_assignment(session, "cpu", {CPU}, 18)
    with pytest.raises(rm.DeviceError) as error:
        check_assignment(session, "cuda:0", {CUDA}, 18)
    n_nodes = len(elsewhere(session, {CUDA}, 18))
    message = str(error.value)
    assert message.startswith(f'device "cuda:0": every node of the step must be on {CUDA}, got Gemm')
    assert message.endswith(
        f"; and {n_nodes - 3} more. Train without strict and cuda_graph, or write the model with other operators."
    )


def test_a_model_that_cannot_be_read_is_an_error():
    with pytest.raises(rm.ConversionError):
        nodes_elsewhere(onnx.ModelProto().SerializeToString() or b"no model", "cpu")


def on_one(model: Any, **options: Any) -> Any:
    return TrainingSession(model, "cpu", **options)


def on_two(model: Any, **options: Any) -> Any:
    return ParallelTrainingSession(model, ["cpu", "cpu"], **options)


@pytest.mark.parametrize("session", [on_one, on_two])
def test_control_flow_is_not_captured(session: Any):
    x = np.zeros((2, 300, 3), np.float32)
    loss = rm.graph.ConstantLoss()(rm.graph.Lstm(4)(x))
    model = to_training_onnx(loss, rm.graph.Sgd(0.1))
    session(model)
    with pytest.raises(rm.DeviceError) as error:
        session(model, cuda=CudaOptions(cuda_graph=True))
    message = str(error.value)
    assert message.startswith(
        'device "cpu": a step that is captured as a CUDA graph must have no control flow, got Scan '
    )
    assert message.endswith(". Train without cuda_graph.")


def test_a_step_whose_control_flow_cuda_does_without_is_captured():
    layers = [rm.graph.Conv(4, kernel=3), rm.graph.GlobalAvgPool(), rm.graph.Flatten()]
    loss = rm.graph.ConstantLoss()(rm.graph.Sequential(layers)(np.zeros((2, 8, 36, 36), np.float32)))
    model = to_training_onnx(loss, rm.graph.Sgd(0.1))
    assert "Scan" in {node.op_type for node in all_nodes(training_step(model).model)}
    check_capturable(training_step(model).model, "cuda:0")
