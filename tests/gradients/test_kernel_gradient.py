"""How much the gradient of a convolution's kernel lays out at once, and that it is the gradient whatever that is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters import vjp
from renom_onnx.converters.structure import all_nodes
from renom_onnx.converters.training_info import training_step
from renom_onnx.gradients.kernel_gradient import BATCH_BYTES, MOST_BYTES, STEP_BYTES
from tests.gradients.check import check_gradient
from tests.gradients.session import ReferenceSession, Session
from tests.gradients.test_convolution import SIZES, Shape, check_conv, check_conv_transpose, convolve
from tests.gradients.window_case import assert_gradients, in_float64, one_node, operators_of_gradient

SUMMED = [
    Shape((16, 6), (2010,), (5,), (2,), (2,), (1, 3), n=5),
    Shape((6, 12), (3000,), (4,), pads=(0, 3), group=2, n=3),
    Shape((8, 4), (34, 33), (3, 3), pads=(1, 1, 1, 1), n=3),
    Shape((8, 4), (34, 33), (3, 3), pads=(1, 1, 1, 1), n=1),
    Shape((12, 5), (60, 41), (3, 2), (2, 1), (1, 2), (1, 0, 2, 1), n=5),
    Shape((12, 8), (40, 36), (3, 3), pads=(1, 1, 1, 1), group=2),
    Shape((8, 8), (40, 36), (3, 3), group=4, n=3),
    Shape((3, 4), (54, 52), (3, 3), n=3),
    Shape((64, 32), (13, 12), (3, 3), pads=(1, 1, 1, 1), group=2, n=17),
    Shape((6, 4), (12, 11, 10), (2, 3, 3), n=3),
    Shape((4, 4), (25, 12, 15), (2, 2, 3), (2, 1, 1), (1, 1, 2), (0, 1, 0, 1, 0, 2), group=2),
]
JOINED = [
    Shape((64, 120), (4, 5), (3, 3), pads=(1, 1, 1, 1), n=3),
    Shape((128, 520), (3, 4), (1, 1), n=5),
    Shape((128, 520), (5, 7), (1, 1), (2, 3)),
    Shape((96, 250), (6,), (3,), (1,), (2,), n=1),
    Shape((520, 260), (6, 5), (1, 1), (2, 2), group=2, n=3),
    Shape((128, 160), (4, 5), (3, 3), pads=(1, 1, 1, 1), group=2, n=3),
]
BATCHED = [
    Shape((8, 4), (9, 8), (3, 3), pads=(1, 1, 1, 1)),
    Shape((1, 20), (28, 28), (5, 5)),
    Shape((20, 50), (12, 12), (5, 5)),
    Shape((64, 64), (60, 61), (1, 1)),
    Shape((3, 64), (60, 61), (3, 3)),
    Shape((300, 260), (20, 21), (1, 1), (1, 2)),
]


def kernel_form(shape: Shape, **node: Any) -> str:
    model = one_node("Conv", shape.feeds(has_bias=False), **shape.attributes, **node)
    return form_of(operators_of_gradient(model, "w"))


def form_of(operators: list[str]) -> str:
    return "summed" if "Scan" in operators else "batched" if "ReduceSum" in operators else "joined"


@pytest.mark.parametrize(
    ("shape", "form"),
    [*((s, "summed") for s in SUMMED), *((s, "joined") for s in JOINED), *((s, "batched") for s in BATCHED)],
    ids=str,
)
def test_the_form_follows_from_the_sizes_of_a_sample(shape: Shape, form: str):
    assert kernel_form(shape) == form


@pytest.mark.parametrize(
    ("shape", "is_gathered"),
    [
        (Shape((8, 4), (34, 33), (3, 3)), False),
        (Shape((16, 4), (34, 33), (3, 3), group=2), False),
        (Shape((9, 4), (34, 33), (3, 3)), True),
        (Shape((8, 4), (90, 15), (3, 3)), True),
        (Shape((8, 4), (68, 66), (3, 3), (2, 2)), True),
        (Shape((8, 4), (9, 8), (3, 3)), True),
    ],
    ids=str,
)
def test_images_of_few_channels_are_sliced_where_that_copies_long_runs(shape: Shape, is_gathered: bool):
    model = vjp(one_node("Conv", shape.feeds(has_bias=False), **shape.attributes), wrt=["w"])
    assert ("Gather" in {node.op_type for node in all_nodes(model)}) == is_gathered


@pytest.mark.parametrize("shape", [*SUMMED, *JOINED, *BATCHED], ids=str)
def test_conv(shape: Shape):
    check_conv(shape)


@pytest.mark.parametrize("shape", [SUMMED[1], SUMMED[4], SUMMED[7], JOINED[0], JOINED[1], JOINED[4]], ids=str)
def test_conv_of_pixels_that_only_the_run_knows(shape: Shape):
    check_conv(shape, has_symbols=True)


@pytest.mark.parametrize("shape", [SUMMED[4], SUMMED[6], JOINED[0]], ids=str)
def test_conv_at_the_newest_opset(shape: Shape):
    check_conv(shape, opset=onnx.defs.onnx_opset_version())


@pytest.mark.parametrize("has_symbols", SIZES)
@pytest.mark.parametrize(
    "shape",
    [
        Shape((6, 7), (450,), (3,), (2,), pads=(1, 0), output_padding=(1,), n=3),
        Shape((5, 12), (32, 31), (3, 4), (2, 3), (2, 1), (1, 0, 0, 2), output_padding=(1, 0), n=3),
        Shape((4, 12), (30, 31), (3, 3), (2, 2), pads=(1, 1, 1, 1), group=2),
        Shape((3, 5), (8, 9, 10), (2, 3, 3), n=3),
    ],
    ids=str,
)
def test_conv_transpose(shape: Shape, has_symbols: bool):
    check_conv_transpose(shape, has_symbols=has_symbols)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_only_the_run_knows(auto_pad: str):
    shape = Shape((8, 4), (36, 33), (3, 4), (2, 1), n=3)
    feeds = shape.feeds()
    operands = in_float64(feeds)
    model = one_node("Conv", feeds, has_symbols=True, strides=[2, 1], auto_pad=auto_pad)
    # 18 windows of 3 by 2 pixels need 1 more than 36, and 33 of 4 need 3
    begins, ends = ((0, 1), (1, 2)) if auto_pad == "SAME_UPPER" else ((1, 2), (0, 1))
    padded = replace(shape, pads=(*begins, *ends))
    assert_gradients(model, feeds, convolve(padded, *operands), operands)


@pytest.mark.parametrize("shape", [SUMMED[4], SUMMED[5], SUMMED[7], JOINED[0]], ids=str)
def test_the_gradient_is_that_of_differences_in_float64(shape: Shape):
    feeds = {name: x / 4 for name, x in shape.feeds().items()}
    model = one_node("Conv", feeds, **shape.attributes)
    sessions = [Session(vjp(model)), ReferenceSession(vjp(model, inline=True))]
    assert check_gradient(model, feeds, sessions, step=1, n_cotangents=1).n_proved == 2 * len(feeds)


@pytest.mark.parametrize("shape", [SUMMED[0], SUMMED[5], SUMMED[7], *JOINED], ids=str)
def test_an_empty_batch_has_no_gradient(shape: Shape):
    feeds = shape.feeds()
    y = convolve(shape, *in_float64(feeds))
    empty = {**feeds, "x": feeds["x"][:0], "y_grad": np.zeros((0, *y.shape[1:]), "f")}
    got = Session(vjp(one_node("Conv", feeds, **shape.attributes)))(empty)
    assert got["w_grad"].shape == feeds["w"].shape and not got["w_grad"].any()


def test_a_weight_that_is_no_number_leaves_the_gradient_of_the_kernel():
    feeds = {**SUMMED[2].feeds(has_bias=False), "y_grad": np.ones((3, 4, 34, 33), "f")}
    model = Session(vjp(one_node("Conv", SUMMED[2].feeds(has_bias=False), **SUMMED[2].attributes)))
    want = model(feeds)["w_grad"]
    np.testing.assert_array_equal(model({**feeds, "w": np.full_like(feeds["w"], np.nan)})["w_grad"], want)


@pytest.mark.parametrize(
    ("n", "form"), [(1, "batched"), (2, "batched"), (40, "batched"), (60, "summed")], ids=lambda x: f"{x}"
)
def test_a_batch_of_known_size_may_be_laid_out_up_to_a_limit(n: int, form: str):
    feeds = replace(SUMMED[2], n=n).feeds(has_bias=False)
    columns = 8 * 9 * 34 * 33 * 4
    assert columns > MOST_BYTES and (n * columns > BATCH_BYTES) == (form == "summed")
    model = one_node("Conv", feeds, **SUMMED[2].attributes)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = n
    assert form_of(operators_of_gradient(model, "w")) == form
    operands = in_float64(feeds)
    assert_gradients(model, feeds, convolve(SUMMED[2], *operands), operands)


@pytest.mark.parametrize("shape", [Shape((3, 4), (9, 8), (3, 3)), Shape((6, 4), (9, 8), (3, 3), group=2)], ids=str)
def test_few_pixels_that_only_the_run_knows_are_laid_out_at_once(shape: Shape):
    shape = replace(shape, n=50)
    model = one_node("Conv", shape.feeds(has_bias=False), has_symbols=True, **shape.attributes)
    assert form_of(operators_of_gradient(model, "w")) == "summed"
    feeds = {**shape.feeds(has_bias=False), "y_grad": np.zeros((50, 4, 7, 6), "f")}
    found = outputs_of_nodes(vjp(model, wrt=["w"]), feeds)
    assert [size for name, size in found if name.startswith("Concat_")] == [50 * shape.channels[0] * 9 * 42 * 4]


def outputs_of_nodes(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[tuple[str, int]]:
    """Run a model and return the names and the bytes of outputs of its nodes, of bodies as often as they ran."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        session.run(None, {info.name: feeds[info.name] for info in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    found = [(event["name"], event["args"]) for event in events if event["name"].endswith("_kernel_time")]
    return [(name, int(args["output_size"])) for name, args in found]


def step_of(layer: Any, shape: tuple[int, ...]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a training step of a layer between others, and what it is fed."""
    data = np.ones(shape, np.float32), np.zeros(shape[0], np.int64)
    x, y = rm.graph.DistributorElement(*data, batch_size=shape[0]).get_output_graphs()
    layers = [layer, rm.graph.Relu(), rm.graph.GlobalAvgPool(), rm.graph.Flatten(), rm.graph.Dense(3)]
    loss = rm.graph.SoftmaxCrossEntropy()(rm.graph.Sequential(layers)(x), y)
    step = training_step(rm.converters.to_training_onnx(loss, rm.graph.Sgd()))
    return step.model, {**step.state, **step.optional, "x": data[0], "y": data[1]}


@pytest.mark.parametrize("is_transposed", [False, True], ids=["Conv", "Deconv"])
def test_no_value_of_a_step_is_larger_than_images_and_some_columns(is_transposed: bool):
    n, channels, pixels, layer = 30, 16, 48, rm.graph.Deconv if is_transposed else rm.graph.Conv
    model, feeds = step_of(layer(channels, kernel=5, padding=2), (n, channels, pixels, pixels))
    columns, image = channels * 25 * pixels**2 * 4, n * channels * pixels**2 * 4
    assert columns > MOST_BYTES and STEP_BYTES // columns == 1
    found = outputs_of_nodes(model, feeds)
    assert max(size for _, size in found) == max(columns, image) < n * columns / 20
    assert sum(size == columns for name, size in found if name.startswith("Gather_")) == n


def test_a_large_kernel_of_few_pixels_is_not_multiplied_for_each_sample():
    model, feeds = step_of(rm.graph.Conv(400, kernel=1), (20, 300, 2, 2))
    kernel = 300 * 400 * 4
    assert kernel > MOST_BYTES
    assert max(size for _, size in outputs_of_nodes(model, feeds)) == kernel


PEAK = """
import numpy as np
from benchmarks.memory import peak_mb
from renom_onnx.converters import vjp
from tests.gradients.session import Session
from tests.gradients.window_case import one_node

n = {n}
feeds = {{"x": np.ones((n, 32, 40, 40), "f"), "w": np.ones((32, 32, 7, 7), "f")}}
session = Session(vjp(one_node("Conv", feeds, pads=[3] * 4)))
session({{**feeds, "x": feeds["x"][:1], "y_grad": np.ones((1, 32, 40, 40), "f")}})
before = peak_mb()
session({{**feeds, "y_grad": np.ones((n, 32, 40, 40), "f")}})
print(peak_mb() - before)
"""


def test_the_memory_of_a_process_grows_with_the_images_alone():
    n, image, columns = 16, 32 * 40 * 40 * 4 / 2**20, 32 * 49 * 40 * 40 * 4 / 2**20
    done = subprocess.run([sys.executable, "-c", PEAK.format(n=n)], check=True, capture_output=True, text=True)
    assert (
        float(done.stdout) < 10 * n * image < n * columns / 4
    )  # ten images: x, y, dx and dy, in NumPy and in the arena
