"""Where boxes go: a row for each, and an order within the rows of each lane that crosses few arrows.

The method is Sugiyama's: rows by longest paths, long arrows cut by waypoints in the rows that they pass, order by
barycenters. Boxes that belong together, a node and its gradient, share a row though they are in different lanes.

Source: Sugiyama, Tagawa & Toda 1981, doi:10.1109/TSMC.1981.4308636; Barth, Mutzel & Jünger 2004,
doi:10.7155/jgaa.00088 (counting crossings).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Pair = tuple[int, int]

N_SWEEPS = 16
MOST_WAYPOINTS = 30_000
"""With more waypoints than this, the longest arrows get none and are drawn straight."""


def rows(n_boxes: int, above: Iterable[Pair], alike: Iterable[Pair] = (), low: Collection[int] = ()) -> list[int]:
    """Return the row of every box, 0 at the top.

    Args:
        n_boxes: boxes are numbers from 0 on.
        above: pairs whose first box stands in a row above the second's.
        alike: pairs that share a row, where that contradicts nothing.
        low: boxes that stand as low as they can; the others, but those that nothing stands above, as high.

    Example:
        >>> rows(4, [(0, 1), (1, 2), (3, 2)], [(3, 0)])
        [0, 1, 2, 0]
    """
    pairs = list(above)
    leader, low = list(range(n_boxes)), set(low)
    for follower, first in alike:
        leader[follower] = first
    while True:
        inner = [(leader[a], leader[b]) for a, b in pairs if leader[a] != leader[b]]
        found, stuck = _longest_paths(n_boxes, inner, low.difference(i for i, j in enumerate(leader) if i != j))
        tied = {i for a, b in pairs if leader[a] == leader[b] for i in (a, b)} | stuck
        apart = [i for i in range(n_boxes) if leader[i] != i and (i in tied or leader[i] in tied)]
        if not apart:
            break
        for i in apart:
            leader[i] = i
    placed = [found[leader[i]] for i in range(n_boxes)]
    used = {row: i for i, row in enumerate(sorted(set(placed)))}
    return [used[row] for row in placed]


def _longest_paths(n: int, pairs: Sequence[Pair], low: Collection[int]) -> tuple[list[int], set[int]]:
    """Return rows, and the boxes on cycles, which have none of their own."""
    after: dict[int, list[int]] = defaultdict(list)
    n_before = [0] * n
    for a, b in pairs:
        after[a].append(b)
        n_before[b] += 1
    found = [0] * n
    order = [i for i in range(n) if not n_before[i]]
    sources = set(order)
    for i in order:  # grows
        for j in after[i]:
            found[j] = max(found[j], found[i] + 1)
            n_before[j] -= 1
            if not n_before[j]:
                order.append(j)
    for i in reversed(order):
        if after[i] and (i in sources or i in low):
            found[i] = min(found[j] for j in after[i]) - 1
    return found, set(range(n)) - set(order)


@dataclass
class Lane:
    """The order within one lane.

    Attributes:
        layers: items by row; an item is a box, or a waypoint, whose number is negative.
        waypoints: by arrow, from its upper end down.
    """

    layers: dict[int, list[int]] = field(default_factory=dict)
    waypoints: dict[int, list[int]] = field(default_factory=dict)


def order(boxes: Sequence[int], row_of: Sequence[int], arrows: Mapping[int, Pair]) -> Lane:
    """Return an order of the boxes of a lane that crosses few arrows.

    Args:
        boxes: of the lane, in an order that is kept where nothing speaks against it.
        row_of: rows of all boxes.
        arrows: by number; both ends in the lane. One between boxes of the same row is left out.

    Example:
        >>> lane = order([0, 1, 2, 3], [0, 0, 1, 1], {0: (0, 3), 1: (1, 2)})
        >>> lane.layers in ({0: [0, 1], 1: [3, 2]}, {0: [1, 0], 1: [2, 3]})
        True
    """
    lane = Lane()
    for box in boxes:
        lane.layers.setdefault(row_of[box], []).append(box)
    links = _cut(lane, row_of, arrows)
    lane.layers = dict(sorted(lane.layers.items()))
    _untangle(lane.layers, links)
    return lane


def _cut(lane: Lane, row_of: Sequence[int], arrows: Mapping[int, Pair]) -> dict[int, list[int]]:
    """Add waypoints, and return the neighbours of every item in the rows beside it."""
    spans = {k: abs(row_of[a] - row_of[b]) for k, (a, b) in arrows.items()}
    n_waypoints, limit = 0, 0
    for span in sorted(spans.values()):
        n_waypoints += max(span - 1, 0)
        if n_waypoints > MOST_WAYPOINTS:
            break
        limit = span
    links: dict[int, list[int]] = defaultdict(list)
    number = 0
    for k, (a, b) in arrows.items():
        if not 0 < spans[k] <= limit:
            continue
        upper, lower = (a, b) if row_of[a] < row_of[b] else (b, a)
        chain = [upper]
        for row in range(row_of[upper] + 1, row_of[lower]):
            number -= 1
            lane.layers.setdefault(row, []).append(number)
            chain.append(number)
        lane.waypoints[k] = chain[1:]
        for i, j in zip(chain, [*chain[1:], lower], strict=True):
            links[i].append(j)
            links[j].append(i)
    return links


def _untangle(layers: dict[int, list[int]], links: Mapping[int, list[int]]) -> None:
    """Reorder the layers by barycenters of the rows above and below in turn; keep the best order seen."""
    names = list(layers)
    place = {item: i for layer in layers.values() for i, item in enumerate(layer)}
    row_of = {item: row for row, layer in layers.items() for item in layer}
    best, fewest = {row: list(layer) for row, layer in layers.items()}, _crossings(layers, links, place, row_of)
    for sweep in range(N_SWEEPS):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        for row in names if downwards else reversed(names):
            layer = layers[row]
            centers = {}
            for i, item in enumerate(layer):
                near = [place[j] for j in links.get(item, ()) if (row_of[j] < row) == downwards]
                centers[item] = (sum(near) / len(near)) if near else float(i)
            layer.sort(key=lambda item: centers[item])
            place.update((item, i) for i, item in enumerate(layer))
        crossings = _crossings(layers, links, place, row_of)
        if crossings < fewest:
            best, fewest = {row: list(layer) for row, layer in layers.items()}, crossings
    layers.update(best)


def _crossings(
    layers: Mapping[int, list[int]],
    links: Mapping[int, list[int]],
    place: Mapping[int, int],
    row_of: Mapping[int, int],
) -> int:
    """Return how many pairs of arrows cross."""
    count = 0
    for row, layer in layers.items():
        ends: list[int] = []
        for item in layer:
            for end in sorted(place[j] for j in links.get(item, ()) if row_of[j] > row):
                count += len(ends) - bisect_right(ends, end)
                insort(ends, end)
    return count
