"""ReNom 3.0's data pipeline, and sources that are no arrays in memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm

g = rm.graph


def dealt(element: Any) -> list[np.ndarray[Any, Any]]:
    batches = []
    while True:
        try:
            batch = element.as_ndarray()
        except StopIteration:
            return batches
        if len(batch):
            batches.append(batch)


def test_index_deals_the_rows_in_order_and_keeps_the_short_last_batch():
    x, y = rm.graph.DataInput([np.arange(10), np.arange(10) * 2]).index().batch(4).get_output_graphs()
    assert [b.tolist() for b in dealt(x)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for b in dealt(y)] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]


def test_shuffle_keeps_rows_together_and_changes_with_the_epoch():
    data = rm.graph.DataInput([np.arange(50), np.arange(50) * 2]).shuffle().batch(50)
    x, y = data.get_output_graphs()
    orders = []
    for _ in range(2):
        np.testing.assert_array_equal((y - x).as_ndarray() % 1, 0)
        data.reset()
        order = dealt(x)[0]
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
        orders.append(order.tolist())
        data.reset()
    assert orders[0] != orders[1]


def test_one_source_gives_one_element():
    element = rm.graph.DataInput(np.arange(3)).index().get_output_graphs()
    assert [b.tolist() for b in dealt(element)] == [[0], [1], [2]]


def test_three_sources_get_three_names():
    elements = rm.graph.DataInput([np.zeros((2, 3), np.float32)] * 3).index().batch(2).get_output_graphs()
    model = rm.converters.to_onnx(elements[0] + elements[1] + elements[2])
    assert [i.name for i in model.graph.input] == ["x", "y", "input3"]


def test_a_memory_mapped_array_is_read_batch_by_batch(tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(20, dtype=np.float32).reshape(10, 2))
    mapped = np.load(path, mmap_mode="r")
    x, _ = rm.graph.DistributorElement(mapped, np.arange(10), batch_size=4, shuffle=False).get_output_graphs()
    source = x.output.node.distributor.arrays[0]
    assert np.shares_memory(source, mapped)
    np.testing.assert_array_equal(np.concatenate(dealt(x)), mapped)


def test_a_memory_mapped_array_larger_than_the_memory_is_dealt(tmp_path: Path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = 16384
    size = memory * 5 // 4 // rows // 4
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(rows, size))  # holes: no disk is filled
    mapped[:, 0] = np.arange(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    x, y = g.DistributorElement(mapped, np.arange(rows), batch_size=2, shuffle=True).get_output_graphs()
    for _ in range(3):
        np.testing.assert_array_equal((x.sum(1) - y).as_ndarray(), [0, 0])
    dense = g.Dense(1, initializer=rm.utility.initializer.Constant(1))
    loss = g.MeanSquared("sum")(dense(x.sum(1, keepdims=True)), (y * 1.0).reshape(-1, 1))
    executor = loss.get_training_executor(g.Sgd(1e-9), ["cpu"])
    assert [executor.step() for _ in range(3)] == [0.0, 0.0, 0.0]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < memory / 8


class Squares:
    """Rows that are made when they are asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        self.asked.append(index)
        return np.array([index, index**2], np.float32)


def test_an_object_with_rows_is_asked_for_those_of_the_batch_alone():
    squares = Squares()
    x = rm.graph.DataInput(squares).index().batch(2).get_output_graphs()
    squares.asked.clear()
    assert x.as_ndarray().tolist() == [[0, 0], [1, 1]]
    assert squares.asked == [0, 1]
    assert np.concatenate(dealt(x)).tolist() == [[2, 4], [3, 9], [4, 16]]


def test_an_executor_trains_on_it():
    x, t = rm.graph.DataInput([Squares(), np.ones((5, 1), np.float32)]).shuffle().batch(2).get_output_graphs()
    loss = rm.graph.MeanSquared()(rm.graph.Dense(1)(x), t)
    executor = loss.get_training_executor(rm.graph.Sgd(0.001), devices=["cpu"])
    losses = executor.execute(epochs=5, progress=False).losses
    assert losses[-1] < losses[0]


def test_the_order_is_given_once():
    with pytest.raises(rm.ConversionError) as raised:
        rm.graph.DataInput(np.arange(3)).index().shuffle()
    message = "DataInput: the order must be given once, by index or shuffle, got a second time. Created at "
    assert str(raised.value).startswith(message + "test_data_input.py:")
