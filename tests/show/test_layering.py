"""Rows and orders: what stands above stands above, what belongs together shares a row, and little crosses."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, strategies as st

from renom_onnx.converters.show import layering
from renom_onnx.converters.show.layering import order, rows

N = 12
PAIRS = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), max_size=30)


@given(PAIRS)
def test_what_is_above_stands_above(pairs: list[tuple[int, int]]):
    acyclic = [(a, b) for a, b in pairs if a < b]
    found = rows(N, acyclic)
    assert all(found[a] < found[b] for a, b in acyclic)
    assert set(found) == set(range(max(found) + 1))


@given(PAIRS, PAIRS)
def test_what_is_alike_never_overturns_what_is_above(pairs: list[tuple[int, int]], alike: list[tuple[int, int]]):
    acyclic = [(a, b) for a, b in pairs if a < b]
    together = {a: b for a, b in alike if a >= N // 2 > b}  # of the second half, each with one of the first
    found = rows(N, acyclic, together.items())
    assert all(found[a] < found[b] for a, b in acyclic)


def test_partners_share_a_row_and_the_gradient_runs_up():
    forward = [(0, 1), (1, 2)]
    gradient = [(3, 4), (4, 5)]  # the gradients of 0, 1 and 2, each above the next
    assert rows(6, [*forward, *gradient], [(3, 0), (4, 1), (5, 2)]) == [0, 1, 2, 0, 1, 2]


def test_a_row_more_for_the_gradient_keeps_partners_together():
    # gradients: 3 of 0, then a sum 4, then 5 of 1; 2 is between 0 and nothing
    found = rows(6, [(0, 1), (3, 4), (4, 5)], [(3, 0), (5, 1)])
    assert (found[3], found[5]) == (found[0], found[1])
    assert found[0] < found[4] < found[1]


def test_a_partner_that_contradicts_is_let_go():
    found = rows(4, [(0, 1), (2, 3)], [(2, 1), (3, 0)])
    assert found[0] < found[1]
    assert found[2] < found[3]


def test_sources_stand_right_above_their_readers_and_low_boxes_as_low_as_they_can():
    chain = [(i, i + 1) for i in range(5)]
    assert rows(7, [*chain, (6, 5)])[6] == 4
    short = [(6, 7), (7, 5), (0, 6)]
    assert rows(8, [*chain, *short])[6:] == [1, 2]
    assert rows(8, [*chain, *short], low=[6, 7])[6:] == [3, 4]


def test_a_cycle_ends():
    assert len(rows(3, [(0, 1), (1, 2), (2, 1)])) == 3


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=25), st.randoms())
def test_an_order_holds_every_box_once_and_waypoints_in_every_row_between(pairs, generator: random.Random):
    row_of = [i // 3 for i in range(N)]
    arrows = {k: (a, b) for k, (a, b) in enumerate(pairs)}
    boxes = list(range(N))
    generator.shuffle(boxes)
    lane = order(boxes, row_of, arrows)
    assert sorted(i for layer in lane.layers.values() for i in layer if i >= 0) == list(range(N))
    assert all(row_of[i] == row for row, layer in lane.layers.items() for i in layer if i >= 0)
    where = {item: row for row, layer in lane.layers.items() for item in layer}
    for k, (a, b) in arrows.items():
        if row_of[a] != row_of[b]:
            top, bottom = sorted([row_of[a], row_of[b]])
            assert [where[w] for w in lane.waypoints[k]] == list(range(top + 1, bottom))


def crossings(lane: layering.Lane, arrows: dict[int, tuple[int, int]]) -> int:
    place = {item: (row, i) for row, layer in lane.layers.items() for i, item in enumerate(layer)}
    pieces = []
    for k, (a, b) in arrows.items():
        upper, lower = sorted([a, b], key=lambda item: place[item][0])
        chain = [upper, *lane.waypoints[k], lower]
        pieces += [(place[p], place[q]) for p, q in itertools.pairwise(chain)]
    return sum(
        p[0][0] == q[0][0] and (p[0][1] - q[0][1]) * (p[1][1] - q[1][1]) < 0
        for p, q in itertools.combinations(pieces, 2)
    )


@given(st.permutations(range(8)))
def test_what_can_be_drawn_without_crossings_is(permutation: list[int]):
    """Eight arrows from row to row, their ends shuffled: an order without crossings exists and is found."""
    arrows = {k: (k, 8 + permutation[k]) for k in range(8)}
    lane = order(range(16), [0] * 8 + [1] * 8, arrows)
    assert crossings(lane, arrows) == 0


def test_fewer_cross_than_before():
    generator = random.Random(0)
    row_of = [i // 6 for i in range(36)]
    arrows = {k: (generator.randrange(30), 0) for k in range(60)}
    arrows = {k: (a, 6 * (row_of[a] + 1) + generator.randrange(6)) for k, (a, _) in arrows.items()}
    unordered = layering.Lane({row: list(range(6 * row, 6 * row + 6)) for row in range(6)}, {k: [] for k in arrows})
    assert crossings(order(range(36), row_of, arrows), arrows) < 0.7 * crossings(unordered, arrows)


def test_of_too_many_long_arrows_the_longest_get_no_waypoints(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layering, "MOST_WAYPOINTS", 3)
    lane = order(range(6), [0, 1, 2, 3, 4, 5], {0: (0, 2), 1: (0, 3), 2: (0, 5)})
    assert {k: len(w) for k, w in lane.waypoints.items()} == {0: 1, 1: 2}
