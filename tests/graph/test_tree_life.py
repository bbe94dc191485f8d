"""How trees join, are cut and die: an element knows its followers weakly, a root owns its backward pass and updates."""

import gc
import weakref

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.graph.node import Node
from tests.graph.printed import lines, short

g = rm.graph


def variable(*values: float):
    return g.StaticVariable(np.array(values, np.float64))


def n_nodes() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Node) for thing in gc.get_objects())


# Merging


def test_connecting_two_elements_merges_their_trees():
    a, b = variable(1) * variable(2), variable(3) + variable(4)
    c = a - b
    assert short(a) == short(c)
    assert "Sub (F) 2" in short(b)


def test_trees_that_share_only_parameters_do_not_merge():
    dense = g.Dense(2)
    first, second = dense(np.ones((1, 3))), dense(np.ones((4, 3)))
    alone = lines("""
        Static Variable 0
        Variable 0
        Variable 0
        Gemm (F) 1
    """)
    assert short(first) == short(second) == alone


def test_trees_that_share_data_merge():
    x, _ = g.DistributorElement(np.ones((2, 3)), np.ones(2)).get_output_graphs()
    first, second = g.Dense(2)(x), g.Relu()(x)
    assert short(first) == lines("Data Dispatcher 0\nRelu (F) 1\nVariable 0\nVariable 0\nGemm (F) 1")
    assert short(second) == lines("Data Dispatcher 0\nVariable 0\nVariable 0\nGemm (F) 1\nRelu (F) 1")


# Disconnecting


def test_a_disconnected_leaf_starts_a_tree_of_its_own():
    v = variable(1.5)
    older = v + variable(2.5)
    assert v.disconnect() is v
    assert short(v) == ["Static Variable 0"]
    newer = v * variable(2)
    assert short(newer) == lines("Static Variable 0\nStatic Variable 0\nMul (F) 1")
    assert short(older) == lines("Static Variable 0\nStatic Variable 0\nAdd (F) 1")


def test_elements_made_before_a_disconnect_still_evaluate():
    v, w = variable(1.5), variable(2.5)
    inner = v + w
    older = inner * inner
    v.disconnect()
    inner.disconnect()
    newer = inner + v
    assert [str(e) for e in (older, newer)] == ["[16.]", "[5.5]"]


def test_a_disconnected_inner_element_prints_nothing_of_what_it_came_from():
    inner = variable(1) + variable(2)
    older = inner * variable(2)
    inner.disconnect()
    assert short(inner) == ["Identity (F) 0"]
    assert short(inner * variable(3)) == lines("Identity (F) 0\nStatic Variable 0\nMul (F) 1")
    assert short(older)[-1] == "Mul (F) 2"


def test_no_gradient_passes_a_disconnected_element():
    v = variable(3)
    inner = v * v
    inner.disconnect()
    root = (inner * v).backward()
    assert str(root.get_gradient(v.output)) == "[9.]"
    assert str(root.get_gradient(inner.output)) == "[3.]"


def test_detach_is_another_name_of_disconnect():
    assert rm.graph.GraphElement.detach is rm.graph.GraphElement.disconnect


def test_a_disconnected_parameter_is_still_the_parameter():
    dense = g.Dense(1)
    y = dense(np.ones((1, 2)))
    before = dense.params["w"].output
    assert dense.params["w"].disconnect().output is before
    assert len(short(y)) == 4


def test_a_disconnected_data_element_reads_the_same_distributor():
    data = g.DistributorElement(np.arange(4), np.arange(4), batch_size=2, shuffle=False)
    x, _ = data.get_output_graphs()
    doubled = x * 2
    x.disconnect()
    assert short(x) == ["Data Dispatcher 0"]
    assert [str(doubled), str(x)] == ["[0 2]", "[2 3]"]


# Life


def build_v3(x, dense, optimizer):
    root = g.Relu()(dense(x)) * 2 + 1
    root.backward()
    root.get_gradient(dense.params["w"].output).as_ndarray()
    root.update(optimizer)
    root.getTrainingExecutor(optimizer).execute(1, progress=False)
    rm.converters.to_training_onnx(root, optimizer)


def build_on_a_leaf(x, dense, optimizer):
    x = g.StaticVariable(x)
    for _ in range(3):
        (dense(x) - 1).backward().as_ndarray()


def build_on_a_distributor(x, dense, optimizer):
    data, _ = g.DistributorElement(x, x, batch_size=1).get_output_graphs()
    g.ConstantLoss()(dense(data)).update(optimizer)


BUILDS = {"array": build_v3, "leaf": build_on_a_leaf, "distributor": build_on_a_distributor}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_loop_that_rebuilds_its_graph_leaves_no_nodes_behind(build):
    x, dense, optimizer = np.ones((2, 3), np.float32), g.Dense(2), g.Adam()
    build(x, dense, optimizer)
    build(x, dense, optimizer)
    before = n_nodes()
    for _ in range(3):
        build(x, dense, optimizer)
    assert n_nodes() == before


def test_a_leaf_that_is_used_in_a_loop_does_not_collect_followers():
    a = variable(1)
    for _ in range(1000):
        a + 1
        gc.collect(0)
    assert len(a.output._followers) < 1000
    gc.collect()
    assert short(a) == ["Static Variable 0"]


def test_a_root_owns_its_backward_pass():
    a = variable(2)
    root = a * a
    root.backward()
    gc.collect()
    assert str(root.get_gradient(a.output)) == "[4.]"
    passed = weakref.ref(root.output.node.backward_pass)
    del root
    gc.collect()
    assert passed() is None
    assert short(a) == ["Static Variable 0"]


def test_an_element_keeps_what_it_was_made_from():
    root = g.Dense(2, initializer=rm.utility.initializer.Constant(1))(variable(1, 2).reshape(1, 2)) * variable(3)
    gc.collect()
    assert str(root) == "[[9. 9.]]"


@pytest.mark.parametrize("optimizer", [g.Sgd(0.1), g.Sgd(0.1, momentum=0.9), g.Adam()], ids=["sgd", "momentum", "adam"])
def test_an_optimizer_keeps_no_model_alive(optimizer):
    dense = g.Dense(3)
    dense(np.ones((1, 7))).update(optimizer)
    parameter = weakref.ref(dense.params["w"].output.node)
    del dense
    gc.collect()
    assert parameter() is None


def test_a_model_and_its_optimizer_die_with_the_program_that_made_them():
    dense, optimizer = g.Dense(5), g.Adam()
    dense(np.ones((1, 11))).update(optimizer)
    watched = [weakref.ref(thing) for thing in (dense, optimizer, dense.params["w"].output.node)]
    del dense, optimizer
    gc.collect()
    assert [ref() for ref in watched] == [None, None, None]
