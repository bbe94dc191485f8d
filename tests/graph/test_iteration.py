"""Iterables as data: any number of rows or batches, read once or again, eagerly and by executors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import renom_onnx as rm
from renom_onnx.graph import iteration
from tests.graph.test_data_input import dealt

g = rm.graph
RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((10, n), dtype=np.float32) for n in (3, 2))


class Again:
    """An iterable that begins anew each time, and counts what it gave."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self.make = make
        self.given = 0
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        for item in self.make():
            self.given += 1
            yield item


def pairs() -> Iterator[Any]:
    yield from zip(X, Y, strict=True)


def inputs(source: Any, batch_size: int | None = 4, **options: Any) -> Any:
    return g.DataInput(source, **options).batch(batch_size).get_output_graphs()


# Forms of items


def test_a_generator_of_rows_is_one_output():
    x = inputs(row for row in X)
    assert [len(b) for b in dealt(x)] == [4, 4, 2]


FORMS: dict[str, Callable[[], Any]] = {
    "tuples": pairs,
    "dicts": lambda: ({"x": a, "y": b} for a, b in pairs()),
    "two generators": lambda: [(a for a in X), (b for b in Y)],
    "an array and a generator": lambda: [X, (b for b in Y)],
    "lists": lambda: ((a.tolist(), b.tolist()) for a, b in pairs()),
    "a map": lambda: map(tuple, pairs()),
    "another library's tensors": lambda: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=None
    ),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_items_of_every_form_are_the_rows_of_two_outputs(make: Any):
    x, y = inputs(make())
    assert (x.shape, y.shape) == (("N", 3), ("N", 2))
    np.testing.assert_allclose(np.concatenate(dealt(x)), X, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(dealt(y)), Y, rtol=1e-6)


def test_the_outputs_are_named_by_the_keys_or_as_asked():
    for source, options, names in (
        (({"image": a, "label": b} for a, b in pairs()), {}, ["image", "label"]),
        (pairs(), {}, ["x", "y"]),
        (pairs(), {"names": ("a", "b")}, ["a", "b"]),
    ):
        first, second = inputs(source, **options)
        model = rm.converters.to_onnx(first.sum(1) + second.sum(1))
        assert [i.name for i in model.graph.input] == names


def test_a_validation_distributor_without_rows_is_not_the_training_data():
    _, executor = training(Again(pairs))
    empty = g.DistributorElement(X[:0], Y[:0])
    assert executor.execute(validation=empty, progress=False).validation_losses == [0.0]


def test_numbers_are_rows_without_axes():
    x = inputs(iter(range(5)), 2)
    assert [b.tolist() for b in dealt(x)] == [[0, 1], [2, 3], [4]]


def test_items_that_are_batches_are_dealt_as_they_are():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=4)
    x, y = inputs(loader, None)
    assert [len(b) for b in dealt(x)] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(dealt(y)), Y)


# Positions, as those of a distributor of arrays


@pytest.mark.parametrize(("rows", "sizes"), [(10, [4, 4, 2]), (8, [4, 4, 0]), (3, [3])], ids=["short", "even", "few"])
def test_batches_end_as_those_of_arrays_do(rows: int, sizes: list[int]):
    x = inputs(row for row in X[:rows])
    arrays = g.DataInput(X[:rows]).index().batch(4).get_output_graphs()
    for size in sizes:
        found = x.as_ndarray()
        assert found.shape == (size, 3)
        np.testing.assert_array_equal(found, arrays.as_ndarray())
    for element in (x, arrays):
        for _ in range(2):
            with pytest.raises(StopIteration):
                element.as_ndarray()


def test_outputs_have_positions_of_their_own_and_meet_in_one_evaluation():
    x, y = inputs(((n, 10 * n) for n in range(12)), 2)
    assert x.as_ndarray().tolist() == [0, 1]
    assert x.as_ndarray().tolist() == [2, 3]
    assert y.as_ndarray().tolist() == [0, 10]
    assert (y - 10 * x).as_ndarray().tolist() == [0, 0]
    assert y.as_ndarray().tolist() == [60, 70]


def test_no_more_than_the_next_batch_is_read():
    source = Again(lambda: range(100))
    x = inputs(source, 4)
    assert source.given == 1  # of which types and sizes are known
    (x * 2).backward()
    assert source.given == 1
    x.as_ndarray()
    assert source.given == 4


def test_an_output_that_nobody_reads_keeps_few_batches():
    x, _ = inputs(((n, n) for n in range(1000)), 2)
    for _ in range(400):
        x.as_ndarray()
    distributor: Any = x.output.node.distributor
    assert len(distributor._kept) <= iteration.MAX_LAG


# Epochs


def test_an_iterable_begins_anew_in_each_epoch():
    source = Again(pairs)
    x, y = inputs(source)
    data: Any = x.output.node.distributor
    for epoch in range(3):
        assert data.epoch == epoch
        assert [len(b) for b in dealt(x)] == [4, 4, 2]
        data.reset()
    assert source.begun == 3
    data.reset()
    assert (data.epoch, source.begun) == (3, 3)
    y.as_ndarray()
    assert source.begun == 4


def training(source: Any, batch_size: int | None = 4) -> tuple[Any, Any]:
    rm.set_seed(0)
    x, y = inputs(source, batch_size)
    loss = g.MeanSquared()(g.Dense(2)(x), y)
    return loss, loss.get_training_executor(g.Adam(0.01), ["cpu"])


def plain(rows: int, epochs: int) -> list[float]:
    rm.set_seed(0)
    x, y = g.DistributorElement(X[:rows], Y[:rows], batch_size=4, shuffle=False).get_output_graphs()
    executor = g.MeanSquared()(g.Dense(2)(x), y).get_training_executor(g.Adam(0.01), ["cpu"])
    losses: list[float] = executor.execute(epochs, progress=False).losses
    return losses


@pytest.mark.parametrize("rows", [10, 8])
def test_an_executor_trains_as_on_arrays(rows: int):
    source = Again(lambda: zip(X[:rows], Y[:rows], strict=True))
    _, executor = training(source)
    assert executor.execute(3, progress=False).losses == plain(rows, 3)
    assert (source.begun, source.given) == (3, 3 * rows)


def test_an_executor_trains_on_ready_batches():
    _, executor = training(Again(lambda: ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8))), None)
    assert executor.execute(2, progress=False).losses == plain(10, 2)


def test_a_generator_has_one_epoch():
    _, executor = training(pairs())
    with pytest.raises(rm.ConversionError) as raised:
        executor.execute(2, progress=False)
    assert re.sub(r"\d+\.$", "LINE.", str(raised.value)) == (
        "DataInput: a second epoch must have data that can be read again, got a generator, which is at its end. Give "
        "an object whose __iter__ begins anew. Created at test_iteration.py:LINE."
    )
    assert executor.history.losses == plain(10, 1)


def test_inference_and_validation_read_iterables():
    loss, executor = training(Again(pairs))
    x, y = inputs(Again(lambda: zip(X[:7], Y[:7], strict=True)), 2)
    history = executor.execute(2, validation=x.output.node.distributor, progress=False)
    expected = loss.get_inference_executor(device="cpu").execute(1, progress=False).losses
    assert len(history.validation_losses) == 2
    assert expected[0] < history.losses[0]
    values = (x + 1).get_inference_executor(device="cpu").predict()
    np.testing.assert_allclose(values, X[:7] + 1, rtol=1e-6)
    assert y.as_ndarray().shape == (2, 2)


def test_the_bar_has_no_end_before_the_first_epoch_came_to_its_own(capsys: pytest.CaptureFixture[str]):
    _, executor = training(Again(pairs))
    executor.execute(1)
    assert "epoch 1: 3batch" in capsys.readouterr().err
    executor.execute(1)
    assert "3/3" in capsys.readouterr().err


def test_the_source_is_left_to_begin_anew_after_an_error():
    _, executor = training(Again(pairs))

    def fail(event: Any) -> None:
        if event.n_steps == 2:
            raise KeyError("stop")

    executor.register_event("Step-Finish", fail)
    with pytest.raises(KeyError):
        executor.execute(1, progress=False)
    executor.unregister_events("Step-Finish")
    seen = []
    executor.register_event("Step-Finish", seen.append)
    executor.execute(1, progress=False)
    assert len(seen) == 3


def test_an_error_of_the_source_comes_through():
    def broken() -> Iterator[Any]:
        yield X[0], Y[0]
        raise OSError("no more disk")

    _, executor = training(broken())
    with pytest.raises(OSError, match="no more disk"):
        executor.execute(progress=False)


# Errors


def behind() -> None:
    x, y = inputs(((n, n) for n in range(1000)), 2)
    for _ in range(20):
        x.as_ndarray()
    y.as_ndarray()


def fed_apart() -> None:
    x = g.Placeholder((None, 3))
    first, _ = inputs(Again(pairs))
    loss = g.ConstantLoss()(g.Dense(1)(x))
    _, validation = inputs(Again(lambda: zip(Y, X, strict=True)))
    loss.get_executor("training", devices=["cpu"]).execute({x: first}, {x: validation}, progress=False)


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "shuffled": (
        lambda: g.DataInput(pairs()).shuffle(),
        rm.ConversionError,
        "DataInput: rows that are shuffled must have numbers, got an iterable. Shuffle it where it is made.",
    ),
    "arrays without a size": (
        lambda: g.DataInput(X).batch(None),
        rm.ConversionError,
        "DataInput: a batch of arrays must have a size, got None.",
    ),
    "no rows": (
        lambda: inputs(pairs(), 0),
        rm.ShapeError,
        "DataInput: batch_size must be 1 or more, got 0.",
    ),
    "empty": (
        lambda: inputs(iter(())),
        rm.ShapeError,
        "DataInput: an iterable must have a first item, which tells types and sizes, got an empty tuple_iterator.",
    ),
    "names": (
        lambda: inputs(pairs(), names=("x",)),
        rm.ConversionError,
        "DataInput: names must be as many different ones as an item has parts, got ['x'] for 2.",
    ),
    "words": (lambda: inputs(iter("ab")), rm.DTypeError, "DataInput: x must hold numbers, got <U1."),
    "one ends first": (
        lambda: dealt(inputs([(a for a in X), (b for b in Y[:5])])[0]),
        rm.ShapeError,
        "DataInput: x and y must have the same number of rows, got one that ends before another.",
    ),
    "parts": (
        lambda: dealt(inputs(iter([(1, 2), (3,)]))[0]),
        rm.ConversionError,
        "DataInput: every item must have as many parts as the first, 2, got 1.",
    ),
    "keys": (
        lambda: dealt(inputs(iter([{"x": 1, "y": 2}, {"x": 1, "z": 2}]))[0]),
        rm.ConversionError,
        "DataInput: every item must have the keys ['x', 'y'] of the first, got ['x', 'z'].",
    ),
    "sizes": (
        lambda: dealt(inputs(iter([[1, 2], [3]]))),
        rm.ShapeError,
        "DataInput: rows of x must be int64[2] as in the first item, got int64[1].",
    ),
    "types": (
        lambda: dealt(inputs(iter([1, 2.5]))),
        rm.DTypeError,
        "DataInput: x must hold int64 as in the first item, got float64.",
    ),
    "sizes of batches": (
        lambda: dealt(inputs(iter([X[:2], Y[:2]]), None)),
        rm.ShapeError,
        "DataInput: rows of x must be float32[3] as in the first item, got float32[2].",
    ),
    "rows of batches": (
        lambda: inputs(iter([(X[:2], Y[:3])]), None),
        rm.ShapeError,
        "DataInput: the parts of a batch must have the same rows, got float32[2, 3] of x and float32[3, 2] of y.",
    ),
    "a batch without rows": (
        lambda: inputs(iter([1, 2]), None),
        rm.ShapeError,
        "DataInput: the parts of a batch must have the same rows, got int64[] of x.",
    ),
    "far behind": (
        behind,
        rm.RunError,
        "DataInput: outputs must be read within 16 batches of each other, got y at batch 0, of which nothing before 4 "
        "is kept.",
    ),
    "an output apart": (
        fed_apart,
        rm.ConversionError,
        "DataInput: the outputs of an iterable must be fed together and in their order, got 'y' apart.",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    with pytest.raises(kind) as raised:
        call()
    assert re.sub(r"\d+\.$", "LINE.", str(raised.value)) == f"{message} Created at test_iteration.py:LINE."


def test_nobody_tells_how_many_there_are():
    data = g.DataInput(pairs())
    with pytest.raises(TypeError, match=r"^DataInput: only arrays have a number of batches, got an iterable\.$"):
        len(data)
    x, _ = data.get_output_graphs()
    distributor: Any = x.output.node.distributor
    with pytest.raises(
        TypeError, match=r"^DataInput: only arrays have a number of rows, got an iterable\. Created at "
    ):
        len(distributor)
