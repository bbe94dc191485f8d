"""Distributors: the batch sequences of the original, one position per output, the same rows in one evaluation."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import renom_onnx as rm
from renom_onnx.graph.seed import permutation

g = rm.graph


def distributor(rows: int, batch_size: int, *, shuffle: bool = False, **options):
    return g.DistributorElement(
        np.arange(rows), np.arange(rows) * 10, batch_size=batch_size, shuffle=shuffle, **options
    )


def read(*elements) -> list[list[np.ndarray]]:
    """Evaluate the elements, one after the other, until the data end."""
    batches = []
    try:
        while True:
            batches.append([element.as_ndarray() for element in elements])
    except StopIteration:
        return batches


def sizes(data) -> list[int]:
    return [len(x) for (x,) in read(data.get_output_graphs()[0])]


# renom-v3.md 1.9, run in the original: the empty batch comes where the rows divide evenly.
SEQUENCES = {
    "10-rows-by-4": (10, 4, [4, 4, 2]),
    "10-rows-by-5": (10, 5, [5, 5, 0]),
    "10-rows-by-1": (10, 1, [1] * 10 + [0]),
    "3-rows-by-8": (3, 8, [3]),
    "8-rows-by-8": (8, 8, [8, 0]),
    "no-rows": (0, 4, [0]),
}


@pytest.mark.parametrize(("rows", "batch_size", "expected"), SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("shuffle", [False, True], ids=["in-order", "shuffled"])
def test_batches_come_in_the_originals_sizes(rows, batch_size, expected, shuffle):
    data = distributor(rows, batch_size, shuffle=shuffle)
    assert sizes(data) == expected
    data.reset()
    assert sizes(data) == expected


@given(rows=st.integers(0, 30), batch_size=st.integers(1, 12), shuffle=st.booleans())
def test_every_row_comes_once(rows, batch_size, shuffle):
    found = np.concatenate([x for (x,) in read(distributor(rows, batch_size, shuffle=shuffle).get_output_graphs()[0])])
    np.testing.assert_array_equal(np.sort(found) if shuffle else found, np.arange(rows))


def test_printing_shows_the_empty_batch_once(capsys):
    x, y = distributor(2, 1).get_output_graphs()
    with pytest.raises(StopIteration):
        while True:
            print(x, y)
    assert capsys.readouterr().out == "[0] [0]\n[1] [10]\n[] []\n"


def test_an_exhausted_distributor_raises_until_it_is_reset():
    data = distributor(3, 8)
    x, _ = data.get_output_graphs()
    assert str(x) == "[0 1 2]"
    for _ in range(3):
        with pytest.raises(StopIteration):
            x.as_ndarray()
    data.reset()
    assert str(x) == "[0 1 2]"


def test_each_output_has_its_own_position():
    x, y = distributor(10, 4).get_output_graphs()
    assert [str(x), str(x), str(y), str(x), str(y)] == [
        "[0 1 2 3]",
        "[4 5 6 7]",
        "[ 0 10 20 30]",
        "[8 9]",
        "[40 50 60 70]",
    ]


def test_outputs_in_one_evaluation_give_the_rows_of_the_furthest_position():
    x, y = distributor(10, 2).get_output_graphs()
    str(x), str(x)
    assert str(x * 100 + y) == "[440 550]"
    assert [str(x), str(y)] == ["[6 7]", "[60 70]"], "both are one further"


def test_a_diamond_reads_one_batch():
    x, _ = distributor(6, 2).get_output_graphs()
    doubled = x * 2
    both = doubled * doubled + x * x + x
    assert [str(both) for _ in range(3)] == ["[0 6]", "[22 48]", "[ 84 130]"]


def test_the_same_output_asked_for_twice_is_the_same_data():
    data = distributor(4, 2)
    (first, _), (second, _) = data.get_output_graphs(), data.get_output_graphs()
    assert first.output is second.output
    assert str(first - second) == "[0 0]"


def test_building_a_tree_reads_nothing():
    data = distributor(4, 2)
    x, y = data.get_output_graphs()
    loss = g.MeanSquared()(g.Dense(1)((x * 1.0).reshape(-1, 1)), (y * 1.0).reshape(-1, 1))
    loss.backward()
    loss.get_gradient(x.output)
    loss.getTrainingExecutor(g.Sgd(0.0))
    rm.converters.to_training_onnx(loss, g.Sgd(0.0))
    assert str(x) == "[0 1]"


def test_an_evaluation_that_fails_reads_nothing():
    x, _ = distributor(4, 2).get_output_graphs()
    with pytest.raises(rm.RunError):
        x.reshape(7).as_ndarray()
    assert str(x) == "[0 1]"


def test_an_evaluation_that_lacks_one_distributor_reads_nothing_of_the_other():
    (x, _), (short, _) = distributor(4, 2).get_output_graphs(), distributor(1, 2).get_output_graphs()
    str(short)
    with pytest.raises(StopIteration):
        g.concatenate([x, short]).as_ndarray()
    assert str(x) == "[0 1]"


def test_a_gradient_is_that_of_the_batch_it_reads():
    x, _ = distributor(4, 2).get_output_graphs()
    w = g.StaticVariable(np.array([2.0]))
    root = (x * w).backward()
    assert [str(root.get_gradient(w.output)) for _ in range(2)] == ["[1.]", "[5.]"]


# Shuffling


def order(data) -> list[int]:
    found = np.concatenate([x for (x,) in read(data.get_output_graphs()[0])]).tolist()
    data.reset()
    return found


def test_a_shuffle_is_a_function_of_seed_and_epoch_alone():
    rm.set_seed(3)
    first = distributor(20, 6, shuffle=True)
    epochs = [order(first) for _ in range(3)]
    assert epochs == [permutation(20, epoch, 3).tolist() for epoch in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    g.Dense(4)(np.ones((1, 2)))
    np.random.default_rng().random()
    rm.set_seed(3)
    assert [order(distributor(20, 7, shuffle=True)), order(distributor(20, 1, shuffle=True))] == [epochs[0]] * 2
    rm.set_seed(4)
    assert order(distributor(20, 6, shuffle=True)) != epochs[0]


def test_data_and_labels_stay_together_in_every_epoch():
    data = distributor(23, 5, shuffle=True)
    x, y = data.get_output_graphs()
    for _ in range(3):
        for a, b in read(x, y):
            np.testing.assert_array_equal(a * 10, b)
        data.reset()


def test_a_reset_before_anything_was_read_stays_in_the_epoch():
    data = distributor(9, 9, shuffle=True)
    expected = permutation(9, 0, 0)
    for _ in range(3):
        data.reset()
    np.testing.assert_array_equal(data.get_output_graphs()[0].as_ndarray(), expected)


def test_without_shuffle_every_epoch_is_in_order():
    data = distributor(5, 2)
    assert [order(data), order(data)] == [[0, 1, 2, 3, 4]] * 2


# What it is made from


TYPES = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_element_type_is_kept(dtype):
    x, _ = g.DistributorElement(np.ones((3, 2), dtype), np.ones(3)).get_output_graphs()
    assert (x.dtype, x.as_ndarray().dtype, x.shape) == (dtype, dtype, ("N", 2))


def test_lists_become_arrays():
    x, y = g.DistributorElement([[1, 2], [3, 4]], [0.5, 1.5], batch_size=1, shuffle=False).get_output_graphs()
    assert [str(x), str(y)] == ["[[1 2]]", "[0.5]"]


def test_big_endian_data_are_taken():
    x, _ = g.DistributorElement(np.array([1, 2], ">i2"), np.ones(2), shuffle=False).get_output_graphs()
    assert str(x + 1) == "[2 3]"


def test_the_seeds_spelling_gives_the_same_outputs():
    data = distributor(3, 1)
    assert [a.output for a in data.getOutputGraphs()] == [a.output for a in data.get_output_graphs()]


@pytest.mark.parametrize(("rows", "batch_size", "expected"), [(10, 4, 3), (10, 5, 2), (0, 4, 0), (3, 8, 1)])
def test_the_number_of_batches_counts_those_with_rows(rows, batch_size, expected):
    data = distributor(rows, batch_size)
    assert (len(data), data.n_batches) == (rows, expected)


def test_names_are_those_of_the_exported_inputs():
    x, y = distributor(2, 1, names=("images", "labels")).get_output_graphs()
    model = rm.converters.to_onnx([x + 1, y + 1])
    assert [i.name for i in model.graph.input] == ["images", "labels"]
