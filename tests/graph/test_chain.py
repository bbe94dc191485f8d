"""Depth: a chain of 10,000 elements builds, evaluates, differentiates, prints and exports without recursion."""

import sys
import time

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


def test_a_chain_of_10000_takes_seconds():
    started = time.process_time()
    start, element = chain(10_000)
    built = time.process_time()
    assert str(element) == "[10001.]"
    evaluated = time.process_time()
    gradient = element.backward().get_gradient(start.output)
    differentiated = time.process_time()
    assert str(gradient) == "[1.]"
    times = np.diff([started, built, evaluated, differentiated, time.process_time()])
    assert times.sum() < 60, f"building, evaluating, differentiating and evaluating took {times.round(1)} s"


def test_the_time_of_a_chain_is_linear():
    """Four times the elements must take less than twelve times as long: quadratic would take sixteen times."""

    def measured(n: int) -> float:
        started = time.process_time()
        start, element = chain(n)
        element.as_ndarray()
        element.backward().get_gradient(start.output).as_ndarray()
        printed(element)
        return time.process_time() - started

    measured(500)
    short, long = (min(measured(n) for _ in range(2)) for n in (500, 2000))
    assert long < 12 * short, f"500 elements took {short:.2f} s, 2000 took {long:.2f} s"
