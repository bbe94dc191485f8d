"""Fast forms of masks, losses and updates: the numbers of the portable step, by nodes that are fewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import inline, to_training_onnx
from renom_onnx.converters.cpu.fast_form import with_fast_forms
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.training_info import training_step
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.specialization import for_sizes
from tests.converters.programs import LOSSES, OPTIMIZERS, Program, classes, cross_entropy, features, feeds, perceptron
from tests.converters.test_blocked import run

graph = rm.graph
ROWS = 5


def portable_and_fast(model: onnx.ModelProto, rows: int = ROWS) -> tuple[Any, onnx.ModelProto, onnx.ModelProto]:
    step = training_step(model)
    portable = inline(step.model)
    return step, portable, with_fast_forms(portable, KnownShapes(portable, {"N": rows}))


def values(model: onnx.ModelProto, step: Any, rows: int = ROWS) -> dict[str, Any]:
    """What a step is given: a batch, and weights and state that were moved away from their start."""
    rng = np.random.default_rng(0)
    moved = {
        name: a + rng.random(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a + 3
        for name, a in step.state.items()
    }
    given = {**moved, **step.optional, **feeds(model, rows)}
    return {value.name: np.asarray(given[value.name]) for value in step.model.graph.input}


def assert_alike(model: onnx.ModelProto, rows: int = ROWS) -> Counter[str]:
    """The numbers are the portable ones; returns the operators that are there now."""
    step, portable, fast = portable_and_fast(model, rows)
    given = values(model, step, rows)
    for info, a, b in zip(step.model.graph.output, run(portable, given), run(fast, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-6, atol=1e-6, err_msg=info.name)
    return Counter(node.op_type for node in fast.graph.node)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_has_the_numbers_of_the_portable_one(loss: str, optimizer: str):
    assert_alike(Program(loss, optimizer, 18).model())


OTHERS: dict[str, Callable[[], graph.Optimizer]] = {
    "AdamW": lambda: graph.AdamW(0.01, weight_decay=0.1),
    "Adamax": lambda: graph.Adamax(0.01),
    "LAMB": lambda: graph.Lamb(0.01),
    "Adagrad": lambda: graph.Adagrad(0.01),
    "Adadelta": graph.Adadelta,
    "RMSprop": lambda: graph.Rmsprop(0.01),
    "Lion": lambda: graph.Lion(0.01, weight_decay=0.1),
    "clipped": lambda: graph.Sgd(0.1, momentum=0.5, clip_norm=0.1),
    "accumulating": lambda: graph.Adam(0.1, accumulate=2),
}


@pytest.mark.parametrize("optimizer", OTHERS)
def test_other_optimizers_have_the_numbers_of_the_portable_ones(optimizer: str):
    rm.set_seed(0)
    assert_alike(to_training_onnx(LOSSES["mlp"](), OTHERS[optimizer]()))


def test_a_newer_opset_has_them_too():
    assert_alike(Program("mlp", "Adam", 21).model())


def test_gradient_descent_is_part_of_the_products():
    found = assert_alike(Program("mlp", "Sgd", 18).model())
    assert (found["Sub"], found["MatMul"], found["Gemm"]) == (0, 0, 2 + 1 + 4)  # forward, dx, both layers' w and b


def test_gradient_descent_is_not_where_the_batch_is_larger_than_the_weights():
    model = Program("mlp", "Sgd", 18).model()
    assert assert_alike(model, rows=6)["Sub"] == 0
    assert assert_alike(model, rows=9)["Sub"] == 4


def test_momentum_is_part_of_the_products():
    def adds(model: onnx.ModelProto) -> int:
        return sum(node.op_type == "Add" for node in model.graph.node)

    _, portable, fast = portable_and_fast(Program("mlp", "momentum", 18).model())
    assert adds(portable) - adds(fast) == 2


def test_the_moments_of_adam_take_a_scaled_product():
    _, portable, fast = portable_and_fast(Program("mlp", "Adam", 18).model())
    scaled = [n for n in fast.graph.node if n.op_type == "Gemm" and n.output[0].endswith(".scaled")]
    assert [n.attribute[0].f for n in scaled] == pytest.approx([0.001**0.5] * 2)
    assert len(portable.graph.node) - len(fast.graph.node) > 2


def test_a_gradient_that_somebody_else_reads_is_not_scaled():
    model = to_training_onnx(LOSSES["mlp"](), graph.Adam(0.1, clip_norm=1.0))
    _, _, fast = portable_and_fast(model)
    assert not any(name.endswith(".scaled") for node in fast.graph.node for name in node.output)


def test_masks_are_one_pass():
    found = assert_alike(Program("mlp", "Adam", 18).model())
    assert (found["Greater"], found["HardSigmoid"]) == (0, 1)


def test_a_mask_is_exact_for_all_but_the_smallest_numbers():
    x = np.array([[-np.inf, -1, -1e-45, 0, 3.5e-39, 1, 3e38, np.inf]], np.float32)
    loss = graph.ConstantLoss()(graph.relu(graph.Dense(8, bias=False)(x)))
    _, _, fast = portable_and_fast(to_training_onnx(loss, graph.Sgd(1.0)), 1)
    assert "HardSigmoid" in {node.op_type for node in fast.graph.node}
    node = next(node for node in fast.graph.node if node.op_type == "HardSigmoid")
    value = onnx.helper.make_tensor_value_info
    alone = onnx.helper.make_graph(
        [node], "mask", [value(node.input[0], 1, [1, 8])], [value(node.output[0], 1, [1, 8])]
    )
    model = onnx.helper.make_model(alone, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    (mask,) = run(model, {node.input[0]: x})
    np.testing.assert_array_equal(mask, x > 0)


REDUCTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "mean": ({}, 0),
    "sum": ({"reduction": "sum"}, 0),
    "weights": ({"weight": [1.0, 2.0, 3.0]}, 1),
    "an ignored class": ({"ignore_index": 1}, 1),
    "a weight and an ignored class": ({"weight": [1.0, 2.0, 3.0], "ignore_index": 2, "reduction": "sum"}, 1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_losses_over_class_indices(name: str):
    options, kept = REDUCTIONS[name]
    loss = graph.SoftmaxCrossEntropy(**options)(graph.Dense(3)(features(ROWS)), classes(ROWS))
    found = assert_alike(to_training_onnx(loss, graph.Sgd(0.1)))
    assert found["SoftmaxCrossEntropyLoss"] == kept


def test_a_loss_for_each_row_is_kept():
    rows = graph.SoftmaxCrossEntropy(reduction=None)(graph.Dense(3)(features(ROWS)), classes(ROWS))
    found = assert_alike(to_training_onnx(graph.ConstantLoss()(rows * rows), graph.Sgd(0.1)))
    assert found["SoftmaxCrossEntropyLoss"] == 1


def test_a_class_at_every_position():
    x = np.random.default_rng(0).standard_normal((ROWS, 3, 4, 2)).astype(np.float32)
    loss = graph.SoftmaxCrossEntropy()(graph.Conv(3, kernel=1)(x), np.ones((ROWS, 4, 2), np.int64))
    assert assert_alike(to_training_onnx(loss, graph.Sgd(0.1)))["SoftmaxCrossEntropyLoss"] == 0


@pytest.mark.parametrize("optimizer", ["Sgd", "Adam"])
def test_other_element_types_keep_their_form(optimizer: str):
    with rm.graph.autocast("float16"):
        loss = cross_entropy(perceptron(), features(ROWS), classes(ROWS))
    _, portable, fast = portable_and_fast(to_training_onnx(loss, OPTIMIZERS[optimizer]()))
    counts = [Counter(node.op_type for node in model.graph.node) for model in (portable, fast)]
    assert counts[0]["Sub"] - counts[1]["Sub"] == 1  # the loss is computed in float32
    assert counts[0]["Gemm"] == counts[1]["Gemm"] and not counts[1]["HardSigmoid"]


def test_a_step_without_any_of_them_is_kept():
    loss = graph.ConstantLoss()(graph.PRelu()(features(ROWS)))
    portable = inline(training_step(to_training_onnx(loss, graph.Sgd(0.1))).model)
    assert with_fast_forms(portable, KnownShapes(portable, {})) is portable


def test_calls_that_cannot_be_written_out_are_left_to_onnxruntime(monkeypatch: pytest.MonkeyPatch):
    step = training_step(Program("mlp", "Sgd", 18).model())
    data, device = step.model.SerializeToString(), parse_device("cpu")
    changed = onnx.load_from_string(for_sizes(data, device, {"N": ROWS}))
    assert not changed.functions and "HardSigmoid" in {node.op_type for node in changed.graph.node}

    def refuse(*arguments: Any) -> None:
        raise rm.ConversionError("inline: functions must not call themselves, got F, which does in node 'f'.")

    monkeypatch.setattr("renom_onnx.runtime.specialization.inline_calls", refuse)
    assert onnx.load_from_string(for_sizes(data, device, {"N": ROWS})) == step.model
