"""Depth: a chain of 10,000 elements builds, evaluates, differentiates, prints and exports without recursion."""

import cProfile
import sys

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.runtime.evaluation import sessions
from tests.graph.printed import printed

g = rm.graph


def chain(n: int):
    start = g.StaticVariable(np.array([1.0]))
    element = start
    for _ in range(n):
        element = element + 1.0
    return start, element


@pytest.fixture(autouse=True)
def cached_sessions_are_closed():
    """The cache keeps the structure of 64 sessions; those of chains are tens of thousands of tuples each."""
    yield
    sessions._found.clear()


@pytest.fixture
def low_recursion_limit():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    yield
    sys.setrecursionlimit(before)


def test_a_chain_of_1000_works_under_a_low_recursion_limit(low_recursion_limit):
    start, element = chain(1000)
    assert str(element) == "[1001.]"
    assert str(element.backward().get_gradient(start.output)) == "[1.]"
    assert printed(element).count("\n") == 1 + 2 * 1000 + 2 + 2 * 1000
    assert len(rm.converters.to_onnx(element).graph.node) == 1000


def test_a_chain_of_dense_layers_trains_under_a_low_recursion_limit(low_recursion_limit):
    x, dense = (
        g.StaticVariable(np.ones((1, 2), np.float32)),
        g.Dense(2, initializer=rm.utility.initializer.Constant(0.5)),
    )
    element = x
    for _ in range(200):
        element = dense(element)
    element.update(g.Sgd(1e-3))
    assert np.isfinite(element.as_ndarray()).all()


def test_a_chain_of_10000_is_built_evaluated_and_differentiated():
    start, element = chain(10_000)
    assert str(element) == "[10001.]"
    assert str(element.backward().get_gradient(start.output)) == "[1.]"


def n_calls(n: int) -> int:
    """Return how many calls of functions it takes to build, evaluate, differentiate, print and export a chain."""
    profile = cProfile.Profile(builtins=True)
    profile.enable()
    start, element = chain(n)
    element.as_ndarray()
    element.backward().get_gradient(start.output).as_ndarray()
    printed(element)
    rm.converters.to_onnx(element)
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def test_the_cost_of_a_chain_is_linear():
    """Counted, not timed: each further element costs as many calls as those before it."""
    n_calls(100)  # rules, schemas and inference are cached
    first, second, third = (n_calls(n) for n in (500, 1000, 1500))
    assert third - second == pytest.approx(second - first, rel=0.02)
