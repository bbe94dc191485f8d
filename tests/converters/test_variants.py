"""Variants for a device: the same numbers as the portable bodies, and no node that the CUDA provider lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import renom_onnx as rm
from renom_onnx.converters import vjp
from renom_onnx.converters.doctor.kernels import CUDA, has_kernel
from renom_onnx.converters.importer import import_graph
from renom_onnx.converters.structure import all_nodes
from renom_onnx.converters.training_info import training_step
from renom_onnx.converters.variants import for_device
from renom_onnx.gradients.kernel_gradient import ROOM
from tests.converters.programs import LOSSES, Program, feeds
from tests.gradients.test_convolution import Shape, convolve
from tests.gradients.window_case import in_float64, one_node
from tests.zoo.test_zoo import MODELS


def run(model: onnx.ModelProto, given: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", ["cnn", "windows_apart", "integer_data"])
@pytest.mark.parametrize("inline", [False, True])
def test_a_step_for_cuda_has_the_numbers_of_the_portable_one(loss: str, inline: bool):
    model = Program(loss, "Adam", 18).model(inline=inline)
    step = training_step(model)
    changed = for_device(step.model, "cuda")
    assert changed is not step.model
    given = {**step.state, **step.optional, **feeds(model, 5)}
    for portable, other in zip(run(step.model, given), run(changed, given), strict=True):
        np.testing.assert_array_equal(other, portable)


def test_the_cpu_and_models_that_need_no_variant_keep_theirs():
    model = training_step(Program("cnn", "Adam", 18).model()).model
    assert for_device(model, "cpu") is model
    model = training_step(Program("mlp", "Adam", 18).model()).model
    assert for_device(model, "cuda") is model


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((3, 4), dict(kernel_shape=[2, 2], strides=[2, 2])),
        ((3, 4), dict(kernel_shape=[3, 2], strides=[3, 4], pads=[1, 0, 0, 1])),
        ((5,), dict(kernel_shape=[2])),
    ],
    ids=["even", "padded", "one axis"],
)
def test_unpooling_by_scatter_is_unpooling(size: tuple[int, ...], attributes: dict[str, Any]):
    x = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    node = helper.make_node("MaxUnpool", ["x", "i"], ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size]),
        helper.make_tensor_value_info("i", TensorProto.INT64, ["N", 3, *size]),
    ]
    graph = helper.make_graph([node], "unpool", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    n_outputs = run(model, {"x": x, "i": np.zeros(x.shape, np.int64)})[0].size
    given = {"x": x, "i": np.random.default_rng(1).permutation(n_outputs)[: x.size].reshape(x.shape)}
    np.testing.assert_array_equal(run(for_device(model, "cuda"), given)[0], run(model, given)[0])


def test_unpooling_into_a_stated_size_is_kept():
    node = helper.make_node("MaxUnpool", ["x", "i", "s"], ["y"], kernel_shape=[2, 2])
    model = helper.make_model(helper.make_graph([node], "unpool", [], []), opset_imports=[helper.make_opsetid("", 18)])
    assert for_device(model, "cuda").graph.node[0].op_type == "MaxUnpool"


LARGE = [
    Shape((12, 4), (34, 33), (3, 3), pads=(1, 1, 1, 1), n=5),
    Shape((16, 8), (40, 36), (3, 3), (1, 2), pads=(1, 1, 1, 1), group=2, n=30),
    Shape((3, 4), (54, 52), (3, 3), n=40),
]


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("has_symbols", [False, True], ids=["numbers", "symbols"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_cuda_takes_all_samples_of_a_large_convolution_at_once(shape: Shape, has_symbols: bool, inline: bool):
    feeds = shape.feeds()
    model = vjp(one_node("Conv", feeds, has_symbols=has_symbols, **shape.attributes), inline=inline)
    changed = for_device(model, "cuda")
    scans = [sum(node.op_type == "Scan" for node in all_nodes(m)) for m in (model, changed)]
    assert scans == [1, 0]
    given = {**feeds, "y_grad": np.ones(convolve(shape, *in_float64(feeds)).shape, "f")}
    for portable, other in zip(run(model, given), run(changed, given), strict=True):
        np.testing.assert_array_equal(other, portable)  # whole numbers, which float32 sums exactly


def test_cuda_takes_very_large_samples_by_and_by():
    shape = Shape((32, 8), (130, 128), (3, 3))
    assert ROOM < 32 * 9 * 128 * 126 * 4
    model = vjp(one_node("Conv", shape.feeds(), **shape.attributes))
    assert for_device(model, "cuda") is not model
    assert "Scan" in {node.op_type for node in all_nodes(for_device(model, "cuda"))}


# By the list of kernels that onnxruntime-gpu registers: what runs on CUDA can be told without a GPU


def lacking(model: onnx.ModelProto, folder: Path) -> set[str]:
    """Return the operators that the CUDA provider has no kernel for, in a step as onnxruntime folds it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_free_dimension_override_by_name("N", 8)
    options.optimized_model_filepath = str(folder / "folded.onnx")
    step = for_device(training_step(model).model, "cuda")
    onnxruntime.InferenceSession(step.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = import_graph(onnx.load(folder / "folded.onnx")).nodes
    assert len(nodes) > 20
    return {node.op_type for node, _ in nodes if not node.is_leaf and not has_kernel(node, CUDA)}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_operator_of_a_program_lacks_a_cuda_kernel(loss: str, tmp_path: Path):
    assert lacking(Program(loss, "Adam", 18).model(), tmp_path) == set()


@pytest.mark.parametrize("name", MODELS)
def test_no_operator_of_the_zoo_lacks_a_cuda_kernel(name: str, tmp_path: Path):
    case = MODELS[name]
    x, t = rm.graph.DistributorElement(case.x, case.t, batch_size=8).get_output_graphs()
    scores = case.ours()(x)
    if scores.shape[1:-1] and scores.shape[1:-1] == t.shape[1:]:
        scores = rm.graph.transpose(scores, (0, 2, 1))  # classes of a sequence
    loss = rm.graph.SoftmaxCrossEntropy()(scores, t)
    assert lacking(rm.converters.to_training_onnx(loss, rm.graph.Adam()), tmp_path) == set()
