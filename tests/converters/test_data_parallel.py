"""A step in stages: where it is cut, which parts of a loss are weighted how, what it refuses, and in-place updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import renom_onnx as rm
from renom_onnx.converters import to_training_onnx
from renom_onnx.converters.batch_statistics import synchronize
from renom_onnx.converters.data_parallel import distribute
from renom_onnx.converters.gradient_values import gradient_values
from renom_onnx.converters.in_place import in_place
from renom_onnx.converters.loss_terms import ROWS, SUM, loss_terms
from renom_onnx.converters.stages import cut
from renom_onnx.converters.step_graph import StepGraph
from renom_onnx.converters.training_info import TrainingStep, training_step
from tests.converters.programs import LOSSES, OPTIMIZERS, Program, classes, features, graph, perceptron, summed


def terms_of(loss: graph.GraphElement) -> list[str]:
    step = training_step(to_training_onnx(loss, graph.Sgd(0.1)))
    made = StepGraph(step.model)
    return loss_terms(made, step.loss, step.feeds[:2], set(step.bindings)).kinds


def scores() -> graph.GraphElement:
    return perceptron()(features(8))


# Terms


@pytest.mark.parametrize(
    ("loss", "kinds"),
    [
        (lambda: graph.SoftmaxCrossEntropy()(scores(), classes(8)), [ROWS]),
        (lambda: graph.SoftmaxCrossEntropy("sum")(scores(), classes(8)), [SUM]),
        (lambda: graph.SoftmaxCrossEntropy(None)(scores(), classes(8)), [SUM]),
        (lambda: graph.SoftmaxCrossEntropy(weight=[1, 2, 3])(scores(), classes(8)), ["loss.divisor"]),
        (lambda: graph.SoftmaxCrossEntropy(ignore_index=1)(scores(), classes(8)), ["loss.divisor"]),
        (lambda: graph.MeanSquared()(scores(), features(8, size=3)), [ROWS]),
        (lambda: graph.MeanSquared("sum")(scores(), features(8, size=3)), [SUM]),
        (lambda: graph.ConstantLoss()(scores()), [SUM]),
        (lambda: graph.ConstantLoss()(scores()) / 8 - 3, [SUM, ROWS]),
        (lambda: graph.ConstantLoss()(graph.mean(scores())), [ROWS]),
        (lambda: graph.sqrt(graph.ConstantLoss()(graph.square(scores()))), [ROWS]),
        (summed, [ROWS, SUM]),
    ],
    ids=[
        "mean", "sum", "none", "weights", "ignored", "distance", "summed distance", "total", "linear", "mean of all",
        "norm", "both",
    ],
)  # fmt: skip
def test_a_loss_is_read_as_terms(loss: Callable[[], graph.GraphElement], kinds: list[str]):
    assert terms_of(loss()) == kinds


def test_a_sum_over_a_sum_of_the_batch_has_that_as_its_divisor():
    mask = graph.static(features(8, size=1), is_batch=True)
    masked = graph.ConstantLoss()(perceptron(1)(features(8)) * mask) / graph.ConstantLoss()(mask)
    (kind,) = terms_of(masked)
    assert kind not in {ROWS, SUM}


# Stages


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_stages_are_models_that_onnx_accepts(loss: str, optimizer: str):
    step = distribute(training_step(Program(loss, optimizer, 18).model()), synchronized=True)
    for stage in step.stages:
        onnx.checker.check_model(stage.model, full_check=True)
        assert [i.name for i in stage.model.graph.input] == list(stage.inputs)
        assert [o.name for o in stage.model.graph.output] == list(stage.outputs)
    assert in_place(step.stages[-1].model, step.bindings) == set(step.bindings)
    assert len(step.stages) == (4 if loss == "normalized" else 2)
    assert step.stages[-1].buffer is None


def test_the_update_reads_no_data():
    step = distribute(training_step(Program("normalized", "Adam", 18).model()), synchronized=True)
    handed = {name for stage in step.stages[:-1] for name in stage.outputs if name != stage.buffer.name}
    assert handed
    assert not (handed | {"x", "y", "share"}) & set(step.stages[-1].inputs)


def test_a_loss_with_label_weights_sums_them_first():
    loss = graph.SoftmaxCrossEntropy(weight=[1, 2, 3])(scores(), classes(8))
    step = distribute(training_step(to_training_onnx(loss, graph.Sgd(0.1))))
    assert [stage.buffer.size for stage in step.stages if stage.buffer] == [1, 6 * 8 + 8 + 8 * 3 + 3 + 1]
    assert step.stages[0].inputs == ("y",)


# What is refused


def mixed_and_written_out() -> None:
    distribute(training_step(to_training_onnx(summed(), graph.Sgd(0.1), inline=True)))


def normalization(x_shape: Any = ("N", 3), scale_shape: Any = (3,)) -> StepGraph:
    """Return a graph of one batch normalization and its gradient."""
    names = ["x", "scale", "b", "mean", "var"]
    shapes = [x_shape, scale_shape, (3,), (3,), (3,)]
    forward = helper.make_node("BatchNormalization", names, ["y", "mean.next", "var.next"], training_mode=1)
    dys = ["dy", "", "", "y", "mean.next", "var.next"]
    backward = helper.make_node(
        "BatchNormalizationGrad", [*dys, *names], ["dx", "dscale", "db"], domain="renom_onnx", name="bn/Grad"
    )
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    infos.append(helper.make_tensor_value_info("dy", TensorProto.FLOAT, x_shape))
    made = helper.make_graph([forward, backward], "bn", infos, [])
    body = helper.make_function(
        "renom_onnx", "BatchNormalizationGrad", [f"i{i}" for i in range(11)], ["dX", "dscale", "dB"],
        [helper.make_node("Identity", [f"i{i}"], [n]) for i, n in ((0, "dX"), (7, "dscale"), (8, "dB"))],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("renom_onnx", 1)]
    return StepGraph(helper.make_model(made, opset_imports=imports, functions=[body], ir_version=10))


def changed(position: int, name: str) -> None:
    made = normalization()
    names = list(made.nodes[1].input)
    names[position] = name
    made.replace(made.nodes[1], input=names)
    synchronize(made)


def through_the_variance() -> None:
    made = normalization()
    made._frame.functions[0].output[2] = "dvar"
    synchronize(made)


def untyped() -> None:
    """z, of an operator that onnx does not know, is summed, and read again beside its sum."""
    made = normalization()
    made.nodes = [helper.make_node("Unknown", ["x"], ["z"], domain="renom_onnx")]
    (total,) = made.exchange([made.op("Identity", "z")], [(3,)])
    (again,) = made.exchange([made.op("Add", "z", total)], [(3,)])
    made.exchange([made.op("Neg", again)], [(3,)], is_last=True)
    cut(made, [made.op("Neg", again)])


def nobodys_domain() -> None:
    made = normalization()
    made.nodes.append(helper.make_node("Unknown", ["x"], ["z"], domain="nobody"))
    made.infer()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "several terms, written out": (
        mixed_and_written_out,
        "several devices: the backward pass must enter every term of the loss by a gradient call, got "
        "'softmax_cross_entropy1/SoftmaxCrossEntropyLoss' without one. Write the file without inline=True.",
    ),
    "a normalization of any rank": (
        lambda: synchronize(normalization(x_shape=None)),
        "several devices: x of a batch normalization must have a known rank, got 'x'.",
    ),
    "a normalization of any size": (
        lambda: synchronize(normalization(scale_shape=("C",))),
        "several devices: scale of a batch normalization must have known sizes, got 'scale' of shape ('C',).",
    ),
    "a gradient through running statistics": (
        lambda: changed(1, "dmean"),
        "several devices: a batch normalization's running statistics must have no gradient, got one in node 'bn/Grad'. "
        "Train with statistics of each device.",
    ),
    "an operator of nobody's": (
        untyped,
        "several devices: what one stage hands to the next must have a known type, got 'z'.",
    ),
    "an operator of nobody's domain": (
        nobodys_domain,
        "several devices: onnx must be able to infer the types of a step, got: [TypeInferenceError] Cannot infer type "
        "and shape for node name . No opset import for domain nobody optype Unknown.",
    ),
    "a gradient of running statistics": (
        through_the_variance,
        "several devices: a batch normalization must ask for gradients of x, scale and bias alone, got dvar in node "
        "'bn/Grad'. Train with statistics of each device.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_dealt_is_refused(case: str):
    call, message = REFUSED[case]
    with pytest.raises(rm.ConversionError) as error:
        call()
    assert str(error.value) == message


# In place


def model_of(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [64, 64]) for n in names] for names in (inputs, outputs)
    ]
    made = helper.make_graph(nodes, "update", *infos)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(op_type: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output])


SGD = [node("Mul", "g rate", "step"), node("Sub", "p step", "p_next")]


@pytest.mark.parametrize(
    ("nodes", "is_safe"),
    [
        (SGD, True),
        ([*SGD, node("MatMul", "p g", "other")], False),
        ([node("Identity", "p", "view"), *SGD, node("MatMul", "view g", "other")], False),
        ([node("MatMul", "p g", "q"), node("Mul", "q rate", "step"), node("Sub", "p step", "p_next")], True),
        ([node("Mul", "g rate", "step"), node("MatMul", "p step", "p_next")], False),
        ([node("Mul", "g rate", "p_next")], True),
    ],
    ids=["update", "read beside it", "a view read beside it", "read before it", "not elementwise", "not read"],
)
def test_a_value_is_written_over_when_all_have_read_it(nodes: list[onnx.NodeProto], is_safe: bool):
    outputs = ["p_next"] + ["other"] * any("other" in n.output for n in nodes)
    assert in_place(model_of(nodes, ["p", "g", "rate"], outputs), {"p": "p_next"}) == ({"p"} if is_safe else set())


def empty_like(value: Any) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(value.shape(), value.numpy().dtype.type)


def test_an_update_in_place_has_the_bits_of_one_into_other_memory():
    step = distribute(training_step(Program("cnn", "Adam", 18).model()))
    stage = step.stages[-1]
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(stage.model.SerializeToString(), providers=["CPUExecutionProvider"])

    def updated(*, is_in_place: bool) -> dict[str, bytes]:
        values = {
            i.name: np.asarray(rng.random(i.shape) if "float" in i.type else np.zeros(i.shape, np.int64)).astype(
                "float32" if "float" in i.type else "int64"
            )
            for i in session.get_inputs()
        }
        kept = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in values.items()}
        for _ in range(5):
            binding = session.io_binding()
            made = {key: kept[key] if is_in_place else empty_like(kept[key]) for key in step.bindings}
            for name, value in kept.items():
                binding.bind_ortvalue_input(name, value)
            for key, output in step.bindings.items():
                binding.bind_ortvalue_output(output, made[key])
            binding.bind_output(step.loss)
            session.run_with_iobinding(binding)
            kept |= made
        return {key: kept[key].numpy().tobytes() for key in step.bindings}

    rng = np.random.default_rng(0)
    apart = updated(is_in_place=False)
    rng = np.random.default_rng(0)
    assert updated(is_in_place=True) == apart


# Gradients side by side

GRADIENTS = [node("Mul", "x v", "v.grad"), node("Mul", "x w", "w.grad")]
UPDATE = [node("Sub", "both all", "both.next")]


def beside(values: str) -> onnx.NodeProto:
    return helper.make_node("Concat", values.split(), ["all"], axis=0)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([beside("v.grad w.grad")], ["all"]),
        ([node("Reshape", "v.grad s", "piece"), beside("piece w.grad")], ["all"]),
        ([beside("v.grad w.grad"), node("Neg", "v.grad", "seen")], ["v.grad", "w.grad"]),
        ([node("Reshape", "v.grad s", "piece"), beside("piece w.grad"), node("Neg", "piece", "seen")],
         ["v.grad", "w.grad"]),
        ([beside("v.grad e"), node("Sub", "w w.grad", "seen")], ["v.grad", "w.grad"]),
        ([node("Sum", "v.grad w.grad", "all")], ["v.grad", "w.grad"]),
    ],
    ids=["as they are", "in another shape", "read by another", "read by another in its shape", "beside another value",
         "added"],
)  # fmt: skip
def test_gradients_that_are_laid_side_by_side_are_one(nodes: list[onnx.NodeProto], found: list[str]):
    outputs = ["both.next", *(["seen"] if any("seen" in each.output for each in nodes) else [])]
    model = model_of([*GRADIENTS, *nodes, *UPDATE], ["x", "v", "w", "s", "e", "both"], outputs)
    inputs = {i.name: i for i in model.graph.input}
    inputs["s"].CopyFrom(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    step = TrainingStep(model, "x", "x", {"both": "both.next"}, {}, ("x",), {}, ("v", "w"), None)
    assert gradient_values(StepGraph(model), step, ["x"]) == found
    bound = replace(step, bindings=step.bindings | {"v": "v.grad"})  # which is a next value as it is
    assert gradient_values(StepGraph(model), bound, ["x"]) == ["v.grad", "w.grad"]
