"""The order of several replies, from what a judge says of each two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from prefrl.types import Query

Pair = tuple[int, int]


def pairs_of(query: Query) -> dict[Pair, Query]:
    """Return what is asked of each two clips of a query, by their rows."""
    return {
        rows: replace(query, segments=tuple(query.segments[row] for row in rows))
        for rows in combinations(range(len(query.segments)), 2)
    }


def in_order(chances: Mapping[Pair, float], best_alone: bool, digits: int) -> list[list[int]]:
    """Return the rows of all clips in groups, best first, those that are equally good together.

    A clip is worth the sum of its chances against each of the others (Borda's count, of chances),
    so what is said of three in a circle puts them side by side.

    Args:
        chances: P(first is better) of each pair of rows.
        best_alone: put only the best before all others.
        digits: of the sums that count.
    """
    worth: dict[int, float] = {}
    for (one, other), chance in chances.items():
        worth[one] = worth.get(one, 0.0) + chance
        worth[other] = worth.get(other, 0.0) + 1 - chance
    groups: dict[float, list[int]] = {}
    for row, sum_of in worth.items():
        groups.setdefault(round(sum_of, digits), []).append(row)
    order = [sorted(groups[key]) for key in sorted(groups, reverse=True)]
    if best_alone and len(order) > 2:
        order = [order[0], sorted(row for group in order[1:] for row in group)]
    return order
