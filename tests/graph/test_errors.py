"""Errors of the graph, word for word: the rule, what was got, what to do, and the user's line.

Every call stands on one line, which is the one that the message must name.
"""

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.gradients import registry
from renom_onnx.graph import operators, schema
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Input
from renom_onnx.graph.operators import apply
from tests.messages import Cases, message_of

g = rm.graph
V = g.StaticVariable


def f32(shape):
    return np.ones(shape, np.float32)


WITH_LINE: Cases = {
    # elements
    "bool-of-element": (
        lambda: bool(V(f32(1))),
        TypeError,
        "bool: an array must be given, got a GraphElement, which is not evaluated yet. Use .as_ndarray() for "
        "its value, or the function of renom_onnx.graph.",
    ),
    "numpy-function": (
        lambda: np.mean(V(f32(1))),
        TypeError,
        "numpy.mean: an array must be given, got a GraphElement, which is not evaluated yet. Use "
        ".as_ndarray() for its value, or the function of renom_onnx.graph.",
    ),
    "asarray": (
        lambda: np.asarray(V(f32(1))),
        TypeError,
        "numpy: an array must be given, got a GraphElement, which is not evaluated yet. Use .as_ndarray() "
        "for its value, or the function of renom_onnx.graph.",
    ),
    "strings": (
        lambda: g.StaticVariable(["a", "b"]),
        rm.DTypeError,
        "StaticVariable: an array must hold numbers, got <U1.",
    ),
    "objects": (
        lambda: g.StaticVariable([1, None]),
        rm.DTypeError,
        "StaticVariable: an array must hold numbers, got object.",
    ),
    "complex": (
        lambda: V(f32(1)) + np.array([1j]),
        rm.DTypeError,
        "StaticVariable: an array must hold numbers, got complex128.",
    ),
    "records": (
        lambda: g.StaticVariable(np.zeros(1, [("a", int)])),
        rm.DTypeError,
        "StaticVariable: an array must hold numbers, got [('a', '<i8')].",
    ),
    "gradient-handle": (
        lambda: V(f32(1)).backward().get_gradient(np.ones(1)),
        rm.DTypeError,
        "get_gradient: the handle must be the .output of an element, got ndarray.",
    ),
    "gradient-before-backward": (
        lambda: V(f32(1)).get_gradient(V(f32(1)).output),
        rm.GradientError,
        "get_gradient: the root must have a backward pass, got an element without one. Call .backward() first.",
    ),
    "gradient-of-a-stranger": (
        lambda: V(f32(1)).backward().get_gradient(V(f32(2))),
        rm.GradientError,
        "get_gradient: the value must be one that the root depends on, got a float32[2], which is none.",
    ),
    "gradient-behind-a-comparison": (
        lambda: ((a := V(f32(2))) < 1).sum().backward().get_gradient(a),
        rm.GradientError,
        "Less has no gradient (it is a comparison), but the loss depends on a float32[2] through it.",
    ),
    "gradient-behind-a-cut": (
        lambda: g.stop_gradient(a := V(f32(2))).backward().get_gradient(a),
        rm.GradientError,
        "get_gradient: the value must be reached by a gradient, got a float32[2], which only integers or cut "
        "paths lead to.",
    ),
    "nothing-to-update": (
        lambda: V(f32(2)).update(g.Sgd(0.1)),
        rm.GradientError,
        "update: the loss must depend on a trainable parameter, got one that depends on none.",
    ),
    "unfed-placeholder": (
        lambda: (g.GraphElement(Input(np.dtype("float32"), ("N", 2), name="p").output) + 1).as_ndarray(),  # noqa: PLW0108
        rm.RunError,
        "evaluate: every placeholder must be fed, got p (float32[N, 2]) without a value.",
    ),
    # operators
    "bool-minus": (
        lambda: V(np.ones(1, bool)) - True,
        rm.DTypeError,
        "Sub: numpy boolean subtract, the `-` operator, is not supported, use the bitwise_xor, the `^` "
        "operator, or the logical_xor function instead, got bool, bool.",
    ),
    "negative-bool": (
        lambda: -V(np.ones(1, bool)),
        rm.DTypeError,
        "Neg: The numpy boolean negative, the `-` operator, is not supported, use the `~` operator or the "
        "logical_not function instead, got bool.",
    ),
    "bool-relu": (
        lambda: g.relu(V(np.ones(2, bool))),
        rm.DTypeError,
        "Relu: X typestr: T, has unsupported type: tensor(bool), got x is bool[2].",
    ),
    "add-shapes": (
        lambda: V(f32((2, 3))) + V(f32((2, 2))),
        rm.ShapeError,
        "Add: Incompatible dimensions, got a is float32[2, 3], b is float32[2, 2].",
    ),
    "matmul-shapes": (
        lambda: V(f32((2, 3))) @ V(f32((2, 3))),
        rm.ShapeError,
        "MatMul: Incompatible dimensions for matrix multiplication, got a is float32[2, 3], b is float32[2, 3].",
    ),
    "reduction-axis": (
        lambda: V(f32((2, 3))).sum(5),
        rm.ShapeError,
        "ReduceSum: axis must be in [-rank, rank-1]. Input rank was 2, got data is float32[2, 3], axes is int64[1].",
    ),
    "reshape": (
        lambda: V(f32(6)).reshape(4, -1),
        rm.ShapeError,
        "Reshape: Dimension could not be inferred: incompatible shapes, got data is float32[6], shape is int64[2].",
    ),
    "concatenate-axis": (
        lambda: g.concatenate([V(f32(2))], axis=3),
        rm.ShapeError,
        "Concat: axis must be in [-rank, rank-1], got inputs1 is float32[2].",
    ),
    "set-seed": (
        lambda: rm.set_seed(-1),
        rm.ConversionError,
        "set_seed: the seed must be 0 to 2^64 - 1, got -1.",
    ),
    # schema
    "too-few-operands": (
        lambda: operators.apply("Slice", V(f32(2))),
        rm.DTypeError,
        "Slice: Node with schema(::Slice:13) has input size 1 not in range [min=3, max=5], got data is float32[2].",
    ),
    "negative-size": (
        lambda: operators.apply("MaxPool", V(f32((1, 1, 2, 2))), kernel_shape=[5, 5]),
        rm.ShapeError,
        "MaxPool: every size must be 0 or more, got x is float32[1, 1, 2, 2].",
    ),
    "negative-operand-size": (
        lambda: operators.apply("Relu", g.GraphElement(Input(np.dtype("float32"), (-1,), name="p").output)),
        rm.ShapeError,
        "Relu: every size must be 0 or more, got x is float32[-1].",
    ),
    "no-tensor": (
        lambda: operators.apply("SequenceConstruct", V(f32(2))),
        rm.ConversionError,
        "SequenceConstruct: every output must be a tensor of known type, got inputs1 is float32[2].",
    ),
    "conv-rank": (
        lambda: operators.apply("Conv", V(f32((1, 2, 3))), V(f32((1, 2, 3, 3)))),
        rm.ShapeError,
        "Conv: x and w must have the same number of axes, 3 or more, got x is float32[1, 2, 3], w is "
        "float32[1, 2, 3, 3].",
    ),
    "conv-channels": (
        lambda: operators.apply("Conv", V(f32((2, 3, 5, 5))), V(f32((4, 2, 3, 3)))),
        rm.ShapeError,
        "Conv: x must have C = 2 channels (w.shape[1] 2 x group 1), got 3: x is float32[2, 3, 5, 5], w is "
        "float32[4, 2, 3, 3].",
    ),
    "conv-transpose-channels": (
        lambda: operators.apply("ConvTranspose", V(f32((2, 3, 5, 5))), V(f32((4, 2, 3, 3)))),
        rm.ShapeError,
        "ConvTranspose: x must have C = 4 channels (w.shape[0]), got 3: x is float32[2, 3, 5, 5], w is "
        "float32[4, 2, 3, 3].",
    ),
    "conv-group": (
        lambda: operators.apply("Conv", V(f32((1, 4, 5, 5))), V(f32((3, 2, 3, 3))), group=2),
        rm.ShapeError,
        "Conv: w.shape[0] must be a multiple of group 2, got x is float32[1, 4, 5, 5], w is float32[3, 2, 3, 3].",
    ),
    # indexing
    "two-index-arrays": (
        lambda: V(f32((2, 2)))[[0], [1]],
        rm.ShapeError,
        "GetItem: an index must hold one array at most, got a second on axis 1 of float32[2, 2]. Index in two steps.",
    ),
    "too-many-indices": (
        lambda: V(f32(2))[0, 1],
        rm.ShapeError,
        "GetItem: an index must have at most one part per axis and one Ellipsis, got 2 parts and 0 Ellipses "
        "for float32[2].",
    ),
    "slice-step": (
        lambda: V(f32(2))[::0],
        rm.ShapeError,
        "GetItem: the step of a slice must not be 0, got slice(None, None, 0).",
    ),
    "index-type": (
        lambda: V(f32(2))["a"],
        rm.DTypeError,
        "GetItem: an index must be made of integers, slices, None, Ellipsis and arrays of integers, got str "
        "on axis 0 of float32[2].",
    ),
    "index-range": (
        lambda: V(f32(2))[2],
        rm.ShapeError,
        "GetItem: an index must be -2 to 1 on axis 0, got 2 for float32[2].",
    ),
    # distributors
    "distributor-names": (
        lambda: g.DistributorElement(np.ones(2), np.ones(2), names=("x", "x")),
        rm.ConversionError,
        "DistributorElement: names must be as many different ones as there are sources, got ['x', 'x'] for 2.",
    ),
    "distributor-strings": (
        lambda: g.DistributorElement(np.ones(1), ["a"]),
        rm.DTypeError,
        "DistributorElement: y must hold numbers, got <U1.",
    ),
    "distributor-number": (
        lambda: g.DistributorElement(5, np.ones(2)),
        rm.ShapeError,
        "DistributorElement: x must have rows, got a single number.",
    ),
    "distributor-rows": (
        lambda: g.DistributorElement(np.ones(3), np.ones(2)),
        rm.ShapeError,
        "DistributorElement: x and y must have the same number of rows, got 3 of x and 2 of y.",
    ),
    "batch-size": (
        lambda: g.DistributorElement(np.ones(2), np.ones(2), batch_size=0),
        rm.ShapeError,
        "DistributorElement: batch_size must be 1 or more, got 0.",
    ),
}

WITHOUT_LINE: Cases = {
    "no-operator": (
        lambda: operators.apply("Gemmm", V(f32(1))),
        rm.ConversionError,
        "Gemmm: the operator must be one of domain ai.onnx at opset 18, got none of that name.",
    ),
    "no-attribute": (
        lambda: operators.apply("Relu", V(f32(1)), slope=1),
        rm.ConversionError,
        "Relu: the attribute must be one of none, got slope.",
    ),
    "missing-attribute": (
        lambda: operators.apply("Concat", V(f32(1))),
        rm.ConversionError,
        "Concat: the attribute axis must be given, got none.",
    ),
    "element-type": (
        lambda: schema.dtype_of(99),
        rm.ConversionError,
        "load: an element type must be one of ONNX's numbers, got 99.",
    ),
    "list-operand": (
        lambda: V(f32(1)) - [1],
        TypeError,
        "unsupported operand type(s) for -: 'StaticVariable' and 'list'",
    ),
    "builder-underscore": (
        lambda: Builder()._private,
        AttributeError,
        "_private",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WITH_LINE.values(), ids=WITH_LINE)
def test_an_error_says_the_rule_and_what_was_got_and_names_the_users_line(call, kind, message):
    assert message_of(call, kind) == f"{message} {{created}}"


@pytest.mark.parametrize(("call", "kind", "message"), WITHOUT_LINE.values(), ids=WITHOUT_LINE)
def test_an_error_that_concerns_no_element_says_the_rule_and_what_was_got(call, kind, message):
    assert message_of(call, kind) == message


NO_RULE = {
    "leaf": (
        lambda: operators.apply("Erf", a := V(f32(2))).backward().get_gradient(a),
        "Erf: there is no gradient rule, but the loss depends on a float32[2] through it. Freeze what lies before it, "
        "or register a rule with renom_onnx.gradients.gradient. {created}",
    ),
    "parameter": (
        lambda: operators.apply("Erf", g.Dense(1)(f32((2, 1)))).backward(),
        "Erf: there is no gradient rule, but the loss depends on dense1.w through it. Freeze what lies before it, "
        "or register a rule with renom_onnx.gradients.gradient. {created}",
    ),
}


@pytest.mark.parametrize(("call", "message"), NO_RULE.values(), ids=NO_RULE)
def test_an_operator_without_a_rule_is_named_with_what_needs_it(monkeypatch, call, message):
    monkeypatch.delitem(registry._registry, ("", "Erf"))
    assert message_of(call, rm.GradientError) == message


def test_a_discrete_operator_on_the_way_to_a_parameter_is_named():
    best = operators.apply("ArgMax", g.Dense(2)(f32((3, 4)))) * 1.0
    assert message_of(lambda: best.update(g.Sgd(0.1)), rm.GradientError, line_before=1) == (
        "ArgMax has no gradient (it is an index, which is piecewise constant), but the loss depends on dense1.w "
        "through it. {created}"
    )


def test_a_rule_for_one_output_refuses_gradients_of_others(monkeypatch):
    entry = registry.Gradient("BatchNormalization", "", lambda op, dy, y, x: dy)
    monkeypatch.setitem(registry._registry, ("", "BatchNormalization"), entry)
    four = [V(f32(3)) for _ in range(4)]
    node = operators.apply_node("BatchNormalization", V(f32((2, 3))), *four, n_outputs=3, training_mode=1)
    root = g.GraphElement(node.outputs[1]).backward()
    assert message_of(lambda: root.get_gradient(four[0].output), rm.GradientError, line_before=2) == (
        "BatchNormalization: the gradient must come from its first output, got one of running_mean. {created}"
    )


RUNS = {
    "reshape": (lambda: V(f32(6)).reshape(4, 2).as_ndarray(), "Reshape: onnxruntime stopped, got: "),
    "kernel": (
        lambda: apply("ReduceSum", V(np.ones(2, "uint64"))).as_ndarray(),
        'ReduceSum: device "cpu" must have a kernel for the operands\' types, got none for the node with name '
        "'ReduceSum1'. Convert them to float32. ",
    ),
}


@pytest.mark.parametrize(("call", "start"), RUNS.values(), ids=RUNS)
def test_an_error_of_onnxruntime_names_the_users_line(call, start):
    message = message_of(call, rm.RunError)
    assert message.startswith(start)
    assert message.endswith(". {created}")
    assert "\n" not in message
