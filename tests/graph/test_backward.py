"""`backward`, `get_gradient` and `update`: what is summed, what is absent, what is kept; PyTorch is the oracle."""

import numpy as np
import pytest
import torch

import renom_onnx as rm

g = rm.graph


def variable(*values: float, dtype=np.float64):
    return g.StaticVariable(np.array(values, dtype))


FAN_OUT = {
    "twice-in-one": (lambda v: v + v, [2.0]),
    "product-with-itself": (lambda v: v * v, [6.0]),
    "diamond": (lambda v: (v + 1) * (v + 2), [9.0]),
    "power": (lambda v: v**v, [27 * (1 + np.log(3))]),
    "three-levels": (lambda v: (v * v + v) * v, [3 * 9 + 2 * 3.0]),
    "exponent-alone": (lambda v: 2**v, [8 * np.log(2)]),
    "denominator": (lambda v: 1 / v, [-1 / 9]),
    "right-of-minus": (lambda v: 1 - v, [-1.0]),
}


@pytest.mark.parametrize(("connect", "expected"), FAN_OUT.values(), ids=FAN_OUT)
def test_gradients_of_all_uses_are_summed(connect, expected):
    v = variable(3)
    np.testing.assert_allclose(connect(v).backward().get_gradient(v.output).as_ndarray(), expected, rtol=1e-12)


def test_the_gradient_prints_as_a_bare_array():
    v = variable(1, 2)
    gradient = (v * v).backward().get_gradient(v.output)
    assert repr(gradient) == str(gradient) == "[2. 4.]"
    assert isinstance(gradient, g.GraphElement)


def test_get_gradient_takes_the_handle_or_the_element():
    v = variable(2)
    root = (v * 3).backward()
    assert root.get_gradient(v).output is root.get_gradient(v.output).output


def test_the_gradient_of_an_inner_element_is_there_too():
    v = variable(2)
    inner = v * 5
    root = (inner * inner).backward()
    assert str(root.get_gradient(inner.output)) == "[20.]"
    assert str(root.get_gradient(root.output)) == "[1.]"


BROADCASTS = {
    "row": ((2, 3), (3,)),
    "column": ((2, 3), (2, 1)),
    "number": ((2, 3), ()),
    "both": ((2, 1), (1, 3)),
    "lead": ((4, 2, 3), (2, 3)),
    "sequences": ((4, 2, 3), (3,)),
    "sequences-kept": ((4, 2, 3), (1, 3)),
    "sequences-kept-all": ((4, 2, 3), (1, 1, 3)),
    "positions": ((5, 4, 2, 3), (1, 2, 3)),
    "inner": ((4, 2, 3), (4, 1, 3)),
    "numbers": ((4, 2, 3), (1, 1)),
    "empty": ((0, 2, 3), (2, 3)),
    "empty-rows": ((4, 2, 0), (2, 0)),
}


@pytest.mark.parametrize(("first", "second"), BROADCASTS.values(), ids=BROADCASTS)
def test_a_broadcast_operand_has_a_gradient_of_its_own_shape(first, second):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(1, 2, shape) for shape in (first, second)]
    a, b = map(g.StaticVariable, arrays)
    root = (a * b / (a + b)).backward()
    x, y = (torch.tensor(array, requires_grad=True) for array in arrays)
    (x * y / (x + y)).sum().backward()
    for element, tensor in ((a, x), (b, y)):
        np.testing.assert_allclose(root.get_gradient(element.output).as_ndarray(), tensor.grad, rtol=1e-12)


def test_leading_axes_are_summed_by_a_product():
    x, y = g.DistributorElement(np.ones((5, 4, 2)), np.ones((5, 4, 3)), batch_size=5).get_output_graphs()
    model = rm.converters.to_training_onnx(
        g.MeanSquared()(g.Sequential([g.PositionalEmbedding(), g.Dense(3)])(x), y), g.Sgd(0.1)
    )
    sums = [{"MatMul", "ReduceSum"} & {node.op_type for node in f.node} for f in model.functions if f.name == "AddGrad"]
    assert sums == [{"MatMul"}] * 2


def test_a_symbolic_batch_axis_is_reduced_at_run_time():
    x, y = g.DistributorElement(np.ones((5, 2)), np.ones((5, 1)), batch_size=3, shuffle=False).get_output_graphs()
    w = g.StaticVariable(np.ones((1, 2)))
    root = (x * w + y).backward()
    gradients = [root.get_gradient(e.output) for e in (w, y)]
    assert [str(gradients[0]), str(gradients[0])] == ["[[3. 3.]]", "[[2. 2.]]"]
    x.output.node.distributor.reset()
    assert gradients[1].as_ndarray().tolist() == [[2.0]] * 3


PROMOTIONS = {
    "int-plus-float": (np.int64, lambda a, b: a + b, np.float64, [1.0, 1.0]),
    "int-times-float32": (np.int32, lambda a, b: a * b, np.float32, [2.0, 2.0]),
    "int-over-float": (np.int16, lambda a, b: a / b, np.float64, [0.5, 0.5]),
    "int-product-first": (np.int64, lambda a, b: (a * a) * b, np.float64, [4.0, 12.0]),
    "int-sum-first": (np.int32, lambda a, b: a.sum() * b, np.float64, [4.0, 4.0]),
}


@pytest.mark.parametrize(("dtype", "connect", "other", "expected"), PROMOTIONS.values(), ids=PROMOTIONS)
def test_an_integer_that_arithmetic_promoted_has_a_gradient(dtype, connect, other, expected):
    a, b = variable(1, 3, dtype=dtype), variable(2, 2, dtype=other)
    gradient = connect(a, b).backward().get_gradient(a.output)
    assert gradient.dtype.kind == "f"
    np.testing.assert_allclose(gradient.as_ndarray(), expected)


def test_integers_alone_have_a_float_gradient():
    a = variable(3, dtype=np.int64)
    assert str((a * a).backward().get_gradient(a.output)) == "[6.]"


def test_comparisons_cut_the_gradient_silently():
    a, b = variable(1, 5), variable(2, 3)
    root = ((a < b) * a).backward()
    assert str(root.get_gradient(a.output)) == "[1. 0.]"


def test_a_second_backward_returns_the_existing_pass():
    v = variable(2)
    root = (v * v).backward()
    first = root.get_gradient(v.output).output
    found = root.output.node.backward_pass
    assert root.backward().output.node.backward_pass is found
    assert root.get_gradient(v.output).output is first


def test_each_root_has_a_pass_of_its_own():
    v = variable(3)
    square = v * v
    cube = square * v
    assert [str(r.backward().get_gradient(v.output)) for r in (square, cube, square)] == ["[6.]", "[27.]", "[6.]"]


def test_a_gradient_is_evaluated_with_todays_parameters():
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(2))
    x = g.StaticVariable(np.ones((1, 1), np.float32))
    root = dense(x).backward()
    gradient = root.get_gradient(x.output)
    assert str(gradient) == "[[2.]]"
    root.update(g.Sgd(0.5))
    assert str(gradient) == "[[1.5]]"


def test_gradients_stop_where_they_are_told_to():
    v = variable(3)
    root = (v * g.stop_gradient(v) + g.stop_gradient(v * v)).backward()
    assert str(root.get_gradient(v.output)) == "[3.]"


def test_a_pass_of_several_losses_is_their_sum():
    v = variable(3)
    total = g.ConstantLoss()(v * v) + 0.5 * g.ConstantLoss()(v * 4)
    assert str(total.backward().get_gradient(v.output)) == "[8.]"


# Shared parameters


def torch_dense(dense):
    return [torch.tensor(dense.params[k].as_ndarray(), requires_grad=True) for k in ("w", "b")]


def test_a_layer_used_twice_has_one_summed_gradient_and_one_update():
    dense, x = g.Dense(3), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    root = g.Relu()(dense(g.Relu()(dense(x)))).backward()
    w, b = torch_dense(dense)
    torch.relu(torch.relu(torch.tensor(x) @ w + b) @ w + b).sum().backward()
    np.testing.assert_allclose(root.get_gradient(dense.params["w"].output).as_ndarray(), w.grad, rtol=1e-5)
    root.update(g.Sgd(0.1))
    np.testing.assert_allclose(dense.params["w"].as_ndarray(), (w - 0.1 * w.grad).detach(), rtol=1e-5)
    np.testing.assert_allclose(dense.params["b"].as_ndarray(), (b - 0.1 * b.grad).detach(), rtol=1e-5)


def test_two_roots_of_one_layer_have_gradients_of_their_own():
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    roots = [dense(np.full((1, 2), value)).backward() for value in (2.0, 5.0)]
    w = dense.params["w"].output
    assert [root.get_gradient(w).as_ndarray().ravel().tolist() for root in roots] == [[2, 2], [5, 5]]
    roots[0].update(g.Sgd(0.5))
    assert dense.params["w"].as_ndarray().ravel().tolist() == [0, 0]
    assert str(roots[1]) == "[[-0.5]]", "one weight, and the bias moved too"


def test_a_frozen_parameter_has_a_gradient_and_no_update():
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    root = dense(np.ones((1, 2)))
    dense.params["w"].output.node.trainable = False
    root.backward().update(g.Sgd(1.0))
    assert str(root.get_gradient(dense.params["w"].output)) == "[[1.]\n [1.]]"
    assert [dense.params[k].as_ndarray().ravel().tolist() for k in "wb"] == [[1, 1], [-1]]


def test_a_parameter_behind_a_stop_is_not_trained():
    online, target = g.Dense(1), g.Dense(1)
    x = np.ones((2, 3), np.float32)
    loss = g.MeanSquared()(online(x), g.stop_gradient(target(x)))
    before = [layer.params["w"].as_ndarray() for layer in (online, target)]
    loss.update(g.Sgd(0.1))
    after = [layer.params["w"].as_ndarray() for layer in (online, target)]
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_an_unused_branch_has_no_part_in_a_step():
    used, unused = g.Dense(1), g.Dense(1)
    x = g.StaticVariable(np.ones((2, 3), np.float32))
    kept, branch = used(x), unused(x)
    before = unused.params["w"].as_ndarray()
    kept.update(g.Sgd(0.1))
    np.testing.assert_array_equal(unused.params["w"].as_ndarray(), before)
    assert branch.depth == 1


def test_update_reads_one_batch():
    data = g.DistributorElement(np.arange(3.0).reshape(3, 1), np.zeros(3), batch_size=1, shuffle=False)
    x, _ = data.get_output_graphs()
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(0))
    root = dense(x)
    for expected in ([0.0, -1.0], [-1.0, -2.0], [-3.0, -3.0]):
        root.update(g.Sgd(1.0))
        assert [dense.params[k].as_ndarray().item() for k in "wb"] == expected
    with pytest.raises(StopIteration):
        while True:
            root.update(g.Sgd(1.0))


@pytest.mark.parametrize("loss", [g.MeanSquared, g.SoftmaxCrossEntropy], ids=["mean-squared", "cross-entropy"])
def test_a_step_on_the_empty_batch_changes_nothing(loss):
    """The seed's loop, `while True` until StopIteration, with rows that divide evenly."""
    t = np.zeros((4, 2), np.float32) if loss is g.MeanSquared else np.zeros(4, np.int64)
    x, y = g.DistributorElement(np.ones((4, 3), np.float32), t, batch_size=2).get_output_graphs()
    dense, optimizer = g.Dense(2), g.Sgd(0.1, momentum=0.9)
    root = loss()(dense(x), y)
    values = []
    with pytest.raises(StopIteration):
        while True:
            root.update(optimizer)
            values.append(dense.params["w"].as_ndarray())
    assert len(values) == 3
    assert not np.array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[1], values[2])


def test_updates_without_an_optimizer_are_the_seeds_sgd():
    dense, other = (g.Dense(1, initializer=rm.utility.initializer.Constant(1)) for _ in range(2))
    first, second, optimizer = dense(np.ones((1, 2))), other(np.ones((1, 2))), g.sgd_update()
    for _ in range(3):
        first.update()
        second.update(optimizer)
    np.testing.assert_array_equal(dense.params["w"].as_ndarray(), other.params["w"].as_ndarray())
    assert (optimizer.learning_rate, optimizer.momentum) == (np.float32(0.01), 0.4)
