"""`lint`: every kind of problem, planted in a file that has none, and the very sentence about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from renom_onnx import ConversionError
from renom_onnx.converters import lint
from tests.converters.programs import Program

CONCATENATION = "training_info[0]: the concatenation with the graph must pass onnx.checker, got: "


def sound() -> onnx.ModelProto:
    return Program("mlp", "momentum", 18).model()


def binding(model: onnx.ModelProto, kind: str = "update_binding") -> onnx.StringStringEntryProto:
    return getattr(model.training_info[0], kind)[0]


def unknown_key(model: onnx.ModelProto) -> None:
    binding(model).key = "nobody"


def unknown_value(model: onnx.ModelProto) -> None:
    binding(model).value = "nobody"


def unknown_initialization_key(model: onnx.ModelProto) -> None:
    binding(model, "initialization_binding").key = "nobody"


def unknown_initialization_value(model: onnx.ModelProto) -> None:
    binding(model, "initialization_binding").value = "nobody"


def bound_twice(model: onnx.ModelProto) -> None:
    info = model.training_info[0]
    info.update_binding.add(key="dense1.w", value="dense1.w.next")


def bound_in_two_steps(model: onnx.ModelProto) -> None:
    model.training_info.add().CopyFrom(model.training_info[0])
    del model.training_info[1].update_binding[1:]


def another_shape(model: onnx.ModelProto) -> None:
    info = model.training_info[0]
    for b in info.update_binding:
        if b.key == "dense1.b":
            b.value = "dense2.b.next"


def another_type(model: onnx.ModelProto) -> None:
    algorithm = model.training_info[0].algorithm
    algorithm.node.append(helper.make_node("Cast", ["dense1.b.next"], ["double"], name="double", to=TensorProto.DOUBLE))
    algorithm.output.append(helper.make_tensor_value_info("double", TensorProto.DOUBLE, [1, 8]))
    for b in model.training_info[0].update_binding:
        if b.key == "dense1.b":
            b.value = "double"


def input_again(model: onnx.ModelProto) -> None:
    model.training_info[0].algorithm.input.append(model.graph.input[0])


def initializer_again(model: onnx.ModelProto) -> None:
    model.training_info[0].algorithm.initializer.append(model.graph.initializer[0])


def value_again(model: onnx.ModelProto) -> None:
    model.training_info[0].algorithm.node.append(helper.make_node("Neg", ["loss"], ["output"], name="again"))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.training_info[0].algorithm.node[0].op_type = "Nothing"


def operator_of_a_later_opset(model: onnx.ModelProto) -> None:
    model.training_info[0].algorithm.node.append(helper.make_node("Gelu", ["output"], ["late"], name="late"))


def unknown_domain(model: onnx.ModelProto) -> None:
    node = helper.make_node("Gelu", ["output"], ["fused"], name="fused", domain="com.microsoft")
    model.training_info[0].algorithm.node.append(node)


def missing_overload(model: onnx.ModelProto) -> None:
    next(n for n in model.training_info[0].algorithm.node if n.overload).overload = "12345678"


def unknown_operator_in_a_function(model: onnx.ModelProto) -> None:
    model.functions[0].node[0].name = "inner"
    model.functions[0].node[0].op_type = "Nothing"


def unknown_operator_in_the_graph(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nothing"


def nobody_writes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Neg", ["ghost"], ["other"], name="reader")
    model.training_info[0].algorithm.node.append(node)


def read_too_early(model: onnx.ModelProto) -> None:
    node = helper.make_node("Neg", ["loss"], ["other"], name="early")
    model.training_info[0].algorithm.node.insert(0, node)


def a_cycle_of_types(model: onnx.ModelProto) -> None:
    node = helper.make_node("Add", ["output", "y"], ["mixed"], name="mixed")
    model.training_info[0].algorithm.node.append(node)


def broken_graph(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "ghost"


def gradient(model: onnx.ModelProto, xs: list[str], y: str, inputs: list[str]) -> None:
    domain = "ai.onnx.preview.training"
    node = helper.make_node("Gradient", inputs, ["g"], name="gradient", domain=domain, xs=xs, y=y)
    model.training_info[0].algorithm.node.append(node)
    model.opset_import.append(helper.make_opsetid(domain, 1))


def gradient_of_nobody(model: onnx.ModelProto) -> None:
    gradient(model, ["dense1.w"], "nobody", ["dense1.w"])


def gradient_with_too_few_inputs(model: onnx.ModelProto) -> None:
    gradient(model, ["dense1.w", "x"], "loss", ["dense1.w"])


def initialization_with_an_input(model: onnx.ModelProto) -> None:
    model.training_info[0].initialization.input.append(model.graph.input[0])


def initialization_that_reads_a_name_of_the_graph(model: onnx.ModelProto) -> None:
    node = helper.make_node("Neg", ["dense1.w"], ["negative"], name="negative")
    model.training_info[0].initialization.node.append(node)


def initialization_of_mixed_shapes(model: onnx.ModelProto) -> None:
    first, *_ = model.training_info[0].initialization.node
    node = helper.make_node("Add", [first.output[0], "dense1.w.momentum.initial"], ["mixed"], name="mixed")
    model.training_info[0].initialization.node.insert(2, node)


def initialized_twice(model: onnx.ModelProto) -> None:
    model.training_info[0].initialization_binding.append(binding(model, "initialization_binding"))


def a_body_of_another_opset(model: onnx.ModelProto) -> None:
    function = model.functions[0]
    function.opset_import[0].version = 12
    function.node.append(helper.make_node("ReduceSum", [function.input[0]], ["total"]))


def unknown_operator_in_a_branch(model: onnx.ModelProto) -> None:
    node = helper.make_node("Nothing", ["output"], ["b"], name="inner")
    branches = [
        helper.make_graph(
            nodes, "branch", [], [helper.make_tensor_value_info(nodes[0].output[0], TensorProto.FLOAT, None)]
        )
        for nodes in ([node], [helper.make_node("Neg", ["output"], ["c"])])
    ]
    choice = helper.make_node(
        "If", ["condition"], ["chosen"], name="choice", then_branch=branches[0], else_branch=branches[1]
    )
    model.training_info[0].algorithm.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    model.training_info[0].algorithm.node.append(choice)


FIRST = "training_info[0]: "
NO_OPERATOR = "every operator must be defined by ONNX or by a function of the file, got Nothing in node "
PLANTED: dict[str, tuple[Callable[[onnx.ModelProto], None], list[str]]] = {
    "update_binding, key": (
        unknown_key, [FIRST + "update_binding: the key must name an initializer, got 'nobody', which is none."],
    ),
    "update_binding, value": (
        unknown_value,
        [FIRST + "update_binding: the value of 'dense1.w' must name an output, got 'nobody', which is none."],
    ),
    "initialization_binding, key": (
        unknown_initialization_key,
        [FIRST + "initialization_binding: the key must name an initializer, got 'nobody', which is none."],
    ),
    "initialization_binding, value": (
        unknown_initialization_value,
        [
            FIRST + "initialization_binding: the value of 'dense1.w.momentum' must name an output, got 'nobody', "
            "which is none."
        ],
    ),
    "bound twice": (bound_twice, ["update_binding: a key must be bound once, got 'dense1.w' 2 times."]),
    "bound in two steps": (bound_in_two_steps, ["update_binding: a key must be bound once, got 'dense1.w' 2 times."]),
    "another shape": (
        another_shape,
        [FIRST + "update_binding: 'dense2.b.next' must be float32[1, 8] like 'dense1.b', got float32[1, 3]."],
    ),
    "another type": (
        another_type, [FIRST + "update_binding: 'double' must be float32[1, 8] like 'dense1.b', got float64[1, 8]."],
    ),
    "an input again": (
        input_again,
        [
            FIRST + "the algorithm must not declare a name of the graph again, got 'x'.",
        ],
    ),
    "an initializer again": (
        initializer_again, [FIRST + "the algorithm must not declare a name of the graph again, got 'dense1.w'."],
    ),
    "a value again": (
        value_again,
        [
            FIRST + "the algorithm must not declare a name of the graph again, got 'output'.",
        ],
    ),
    "an operator that nobody knows": (
        unknown_operator,
        [
            FIRST + "every operator must be defined by ONNX or by a function of the file, got Nothing in node "
            "'softmax_cross_entropy1/SoftmaxCrossEntropyLoss'."
        ],
    ),
    "an operator of a later opset": (
        operator_of_a_later_opset,
        [
            FIRST + "every operator must be defined by ONNX or by a function of the file, got Gelu in node 'late'."
        ],
    ),
    "an operator of a foreign domain": (
        unknown_domain,
        [
            FIRST + "every operator must be defined by ONNX or by a function of the file, got com.microsoft.Gelu in "
            "node 'fused'."
        ],
    ),
    "an overload that is missing": (
        missing_overload,
        [
            FIRST + "every operator must be defined by ONNX or by a function of the file, got renom_onnx.GemmGrad in "
            "node 'dense2/GemmGrad'."
        ],
    ),
    "an operator that nobody knows in a function": (
        unknown_operator_in_a_function,
        ["functions: " + NO_OPERATOR + "'inner'."],
    ),
    "a name that nobody writes": (
        nobody_writes,
        [
            FIRST + "every input must be written before it is read, got 'ghost' read by node 'reader'.",
        ],
    ),
    "a name that is read too early": (
        read_too_early,
        [
            FIRST + "every input must be written before it is read, got 'loss' read by node 'early'.",
        ],
    ),
    "types that do not fit": (
        a_cycle_of_types,
        [
            CONCATENATION + "[ShapeInferenceError] (op_type:Add, node name: mixed): B has "
            "inconsistent type tensor(int64)."
        ],
    ),
    "an operator of the graph that nobody knows": (
        unknown_operator_in_the_graph,
        ["graph: " + NO_OPERATOR + "'dense1/Gemm'."],
    ),
    "a gradient of nobody": (
        gradient_of_nobody, [FIRST + "Gradient must name values in xs, zs and y, got 'nobody' in node 'gradient'."],
    ),
    "a gradient with too few inputs": (
        gradient_with_too_few_inputs,
        [
            FIRST + "Gradient must have an input for every name in xs and zs, got 1 inputs and 2 names in node "
            "'gradient'."
        ],
    ),
    "an initialization with an input": (
        initialization_with_an_input, [FIRST + "the initialization must have no inputs, got 'x'."],
    ),
    "an initialization that reads a name of the graph": (
        initialization_that_reads_a_name_of_the_graph,
        [
            FIRST + "the initialization: every input must be written before it is read, got 'dense1.w' read by node "
            "'negative'."
        ],
    ),
    "an initialization of mixed shapes": (
        initialization_of_mixed_shapes,
        [
            FIRST + "the initialization must pass onnx.checker, got: [ShapeInferenceError] Inference error(s): "
            "(op_type:Add, node name: mixed): [ShapeInferenceError] Incompatible dimensions."
        ],
    ),
    "initialized twice": (
        initialized_twice,
        [FIRST + "initialization_binding: a key must be bound once, got 'dense1.w.momentum' 2 times."],
    ),
    "a body of another opset": (
        a_body_of_another_opset,
        ["functions: a body must mean the same at the model's opset 18, got Ones, written at opset 12."],
    ),
    "an operator that nobody knows in a branch": (
        unknown_operator_in_a_branch, [FIRST + NO_OPERATOR + "'inner'."],
    ),
    "a broken graph": (
        broken_graph,
        [
            "graph must pass onnx.checker, got: Nodes in a graph must be topologically sorted, however input 'ghost' "
            "of node: name: dense1/Gemm OpType: Gemm is not output of any previous nodes.",
            FIRST + "every input must be written before it is read, got 'ghost' read by node 'dense1/Gemm'.",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_problem_is_told_in_one_sentence(name: str):
    plant, sentences = PLANTED[name]
    model = sound()
    assert lint(model) == []
    plant(model)
    assert lint(model) == sentences


def test_a_model_without_a_training_step_is_checked_as_a_graph():
    model = sound()
    del model.training_info[:]
    assert lint(model) == []


def test_a_model_is_taken_as_path_and_bytes(tmp_path: Path):
    model = sound()
    unknown_key(model)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert lint(path) == lint(str(path)) == lint(path.read_bytes()) == lint(model) != []


def test_a_file_that_is_no_model_is_an_error():
    with pytest.raises(ConversionError) as error:
        lint(b"")
    assert str(error.value) == "load: the model must be a complete ONNX file, got the bytes, which holds no graph."


def test_a_name_that_a_branch_reads_counts_as_read():
    model = sound()
    branch = helper.make_graph(
        [helper.make_node("Neg", ["ghost"], ["b"], name="inner")],
        "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )  # fmt: skip
    condition = helper.make_node(
        "Constant", [], ["c"], name="c", value=helper.make_tensor("v", TensorProto.BOOL, [], [1])
    )
    choice = helper.make_node("If", ["c"], ["chosen"], name="choice", then_branch=branch, else_branch=branch)
    model.training_info[0].algorithm.node.extend([condition, choice])
    assert lint(model) == [FIRST + "every input must be written before it is read, got 'ghost' read by node 'choice'."]
