"""`print_tree`: the wording of the seed, the walk of the original (inputs first, then followers one level deeper)."""

import numpy as np
import pytest

import renom_onnx as rm
from tests.graph.printed import lines, printed, short

g = rm.graph


def variable(*values: float):
    return g.StaticVariable(np.array(values, np.float64))


def test_a_line_is_worded_as_in_the_seed():
    assert printed(variable(2) + variable(3)) == (
        "I am a Static Variable at depth 0 with tags: ['Forward']\n"
        "I am a Static Variable at depth 0 with tags: ['Forward']\n"
        "I am a Add (F) at depth 1 with tags: ['Forward']\n"
    )


ONE_ELEMENT = {
    "add": (lambda a, b: a + b, "Add (F)"),
    "sub": (lambda a, b: a - b, "Sub (F)"),
    "mul": (lambda a, b: a * b, "Mul (F)"),
    "div": (lambda a, b: a / b, "Div (F)"),
    "pow": (lambda a, b: a**b, "Pow (F)"),
    "matmul": (lambda a, b: a @ b, "MatMul (F)"),
    "less": (lambda a, b: a < b, "Less (F)"),
    "less-or-equal": (lambda a, b: a <= b, "LessOrEqual (F)"),
    "greater": (lambda a, b: a > b, "Greater (F)"),
    "greater-or-equal": (lambda a, b: a >= b, "GreaterOrEqual (F)"),
    "neg": (lambda a, b: -a, "Neg (F)"),
    "abs": (lambda a, b: abs(a), "Abs (F)"),
    "sum": (lambda a, b: a.sum(), "Sum (F)"),
    "mean": (lambda a, b: a.mean(), "Mean (F)"),
    "exp": (lambda a, b: g.exp(a), "Exp (F)"),
    "log": (lambda a, b: g.log(a), "Log (F)"),
    "sqrt": (lambda a, b: g.sqrt(a), "Sqrt (F)"),
    "square": (lambda a, b: g.square(a), "Mul (F)"),
    "tanh": (lambda a, b: g.tanh(a), "Tanh (F)"),
    "sigmoid": (lambda a, b: g.sigmoid(a), "Sigmoid (F)"),
    "relu": (lambda a, b: g.relu(a), "Relu (F)"),
    "softmax": (lambda a, b: g.softmax(a), "Softmax (F)"),
    "reshape": (lambda a, b: a.reshape(-1), "Reshape (F)"),
    "transpose": (lambda a, b: g.transpose(a), "Transpose (F)"),
    "concatenate": (lambda a, b: g.concatenate([a, b]), "Concat (F)"),
    "stop-gradient": (lambda a, b: g.stop_gradient(a), "Identity (F)"),
}


@pytest.mark.parametrize(("connect", "name"), ONE_ELEMENT.values(), ids=ONE_ELEMENT)
def test_an_operator_is_one_line_of_its_name(connect, name):
    a, b = variable(1, 2), variable(3, 4)
    element = connect(a, b)
    assert short(element)[-1] == f"{name} 1"
    assert len(short(element)) == 1 + len(
        {value for value in element.output.node.inputs if value in (a.output, b.output)}
    )


LEAVES = {
    "static": (lambda: variable(1), "Static Variable 0"),
    "number": (lambda: g.StaticVariable(3), "Static Variable 0"),
    "data": (lambda: g.DistributorElement(np.ones(2), np.ones(2)).get_output_graphs()[0], "Data Dispatcher 0"),
    "parameter": (lambda: called(g.Dense(1)).params["w"], "Variable 0"),
}


def called(layer, x=((1.0, 2.0),)):
    layer(np.array(x))
    return layer


@pytest.mark.parametrize(("make", "line"), LEAVES.values(), ids=LEAVES)
def test_a_leaf_is_one_line_at_depth_0(make, line):
    assert short(make()) == [line]


def test_conversions_are_not_printed():
    mixed = g.StaticVariable(np.array([1], np.int32)) / g.StaticVariable(np.array([2.0], np.float32))
    assert short(mixed) == lines("""
        Static Variable 0
        Static Variable 0
        Div (F) 1
    """)


def test_left_operand_comes_before_the_right_one_and_both_before_the_element():
    left, right = variable(1) * variable(2), variable(3) - variable(4)
    assert short(left + right) == lines("""
        Static Variable 0
        Static Variable 0
        Mul (F) 1
        Static Variable 0
        Static Variable 0
        Sub (F) 1
        Add (F) 2
    """)


def test_depth_is_one_more_than_the_deepest_input():
    a = variable(1)
    deep = abs(abs(abs(a)))
    assert (deep.depth, (a + deep).depth, (deep + a).depth) == (3, 4, 4)


def test_backward_appends_sum_constant_and_one_line_per_operand_depth_first():
    d = (variable(2) + variable(3)) + np.array([1.5])
    assert d.backward() is d
    assert short(d) == lines("""
        Static Variable 0
        Static Variable 0
        Add (F) 1
        Static Variable 0
        Add (F) 2
        Sum (F) 3
        Constant (B) 4
        Add (B) 5
        Add (B) 6
        Add (B) 6
        Add (B) 5
    """)


def test_a_second_backward_prints_the_same_tree():
    d = (variable(2) * variable(3)).backward()
    before = printed(d)
    assert printed(d.backward()) == before


def test_a_loss_gets_no_second_sum():
    loss = g.ConstantLoss()(variable(1) * variable(2)).backward()
    assert short(loss) == lines("""
        Static Variable 0
        Static Variable 0
        Mul (F) 1
        Sum (F) 2
        Constant (B) 3
        Mul (B) 4
        Mul (B) 4
    """)


def diamond():
    v, w, o = variable(1.5), variable(2.5), variable(3.5)
    return (v + w) + (v + o), v


def test_a_diamond_prints_its_shared_leaf_once():
    assert short(diamond()[0]) == lines("""
        Static Variable 0
        Static Variable 0
        Add (F) 1
        Static Variable 0
        Add (F) 1
        Add (F) 2
    """)


def test_a_diamond_after_backward_has_a_gradient_line_for_every_use():
    assert short(diamond()[0].backward())[6:] == lines("""
        Sum (F) 3
        Constant (B) 4
        Add (B) 5
        Add (B) 6
        Add (B) 6
        Add (B) 5
        Add (B) 6
        Add (B) 6
    """)


def test_the_gradient_of_a_shared_element_is_one_sum_before_its_own_gradient():
    a = variable(1, 2)
    shared = g.tanh(a)
    root = (shared * 2 + shared * 3).backward()
    assert [line for line in short(root) if line.startswith(("Sum", "Tanh"))] == lines("""
        Tanh (F) 1
        Sum (F) 4
        Sum (B) 8
        Tanh (B) 9
    """)


def test_a_dense_model_prints_its_parameters_where_they_are_first_needed():
    y = g.Dense(2)(g.Relu()(g.Dense(3)(np.ones((1, 4)))))
    assert short(y) == lines("""
        Static Variable 0
        Variable 0
        Variable 0
        Gemm (F) 1
        Relu (F) 2
        Variable 0
        Variable 0
        Gemm (F) 3
    """)


DENSE_AFTER_BACKWARD = """
    Static Variable 0
    Variable 0
    Variable 0
    Gemm (F) 1
    Sum (F) 2
    Constant (B) 3
    Gemm (B) 4
    Gemm (B) 4
    Gemm (B) 4
"""


def test_dense_after_backward_has_gradients_of_data_weight_and_bias():
    assert short(g.Dense(2)(np.ones((1, 3))).backward()) == lines(DENSE_AFTER_BACKWARD)


def test_update_adds_a_line_after_the_gradient_of_each_parameter():
    y = g.Dense(2)(np.ones((1, 3))).backward()
    y.update(g.sgd_update())
    *rest, weight, bias = lines(DENSE_AFTER_BACKWARD)
    assert short(y) == [*rest, weight, "Update 5", bias, "Update 5"]


@pytest.mark.parametrize("optimizer", [g.Sgd(0.1), g.Sgd(0.1, momentum=0.9), g.Adam()], ids=["sgd", "momentum", "adam"])
def test_every_parameter_has_one_update_line_whatever_the_optimizer(optimizer):
    y = g.Dense(2)(g.Relu()(g.Dense(3)(np.ones((1, 4)))))
    y.update(optimizer)
    assert [line for line in short(y) if line.startswith("Update")] == ["Update 9", "Update 9", "Update 7", "Update 7"]


def test_a_second_step_adds_no_lines():
    y, optimizer = g.Dense(2)(np.ones((1, 3))), g.Sgd(0.1, momentum=0.9)
    y.update(optimizer)
    before = printed(y)
    y.update(optimizer)
    assert printed(y) == before


def test_a_layer_used_twice_prints_its_parameters_once():
    dense = g.Dense(3)
    assert short(dense(dense(np.ones((1, 3))))) == lines("""
        Static Variable 0
        Variable 0
        Variable 0
        Gemm (F) 1
        Gemm (F) 2
    """)


def test_a_shared_parameter_has_one_update():
    dense = g.Dense(3)
    y = dense(dense(np.ones((1, 3))))
    y.update(g.Sgd(0.1))
    assert [line for line in short(y) if line.startswith(("Sum (B)", "Update"))] == lines("""
        Sum (B) 7
        Update 8
        Sum (B) 7
        Update 8
    """)


SUM_AFTER_BACKWARD = """
    Static Variable 0
    Static Variable 0
    Add (F) 1
    Sum (F) 2
    Constant (B) 3
    Add (B) 4
    Add (B) 4
"""


def test_an_element_that_is_used_again_after_backward_keeps_its_old_tree():
    v = variable(1)
    old = (v + variable(2)).backward()
    assert short(v * variable(3)) == [*lines(SUM_AFTER_BACKWARD), "Static Variable 0", "Mul (F) 1"]
    assert short(old) == lines(SUM_AFTER_BACKWARD), "the new element was dropped, and with it its lines"


def test_a_follower_more_than_one_level_deeper_is_not_reached():
    """The walk of the original: `e` of `f = (c + d) + e` prints itself alone, `f` prints all."""
    c = variable(1) + variable(2)
    e = variable(3)
    f = c + e
    assert short(e) == ["Static Variable 0"]
    assert short(c) == short(f)
    assert len(short(f)) == 5


def test_followers_are_walked_by_depth_and_then_by_age():
    a = variable(1)
    deep = abs(abs(a))
    shallow = -a
    late = a + deep
    assert short(a) == lines("""
        Static Variable 0
        Abs (F) 1
        Abs (F) 2
        Add (F) 3
        Neg (F) 1
    """)
    assert (shallow.depth, late.depth) == (1, 3)


def test_printing_does_not_read_data():
    x, _ = g.DistributorElement(np.arange(3), np.arange(3), batch_size=1, shuffle=False).get_output_graphs()
    (x + 1).print_tree()
    assert str(x) == "[0]"


def test_update_elements_do_not_run_when_an_element_is_printed():
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    y = dense(np.ones((1, 2)))
    y.update(g.Sgd(0.5))
    before = dense.params["w"].as_ndarray()
    str(y), y.print_tree(), str(y.get_gradient(dense.params["w"].output))
    np.testing.assert_array_equal(dense.params["w"].as_ndarray(), before)
